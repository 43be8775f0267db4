"""What the processes of a group tell one another about a layer, and what is said when one of them is missing.

A rank that runs another layer, or none, would leave the others waiting for ever or pair its numbers with theirs. So
every message begins with what it is about, in a block of fixed size, which is looked at before the rest is sent; and
where a message does not come in time, the ranks that are there write down where they are, and name the ones that
are not.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions
from torch.distributed import distributed_c10d

from normkit.errors import RankError

# float64 numbers of the first message: 8 KiB, which the statistics of 340 channels fit in.
_BLOCK = 1024
_HEADER = 2
# How long the ranks that found one missing wait for one another's word. They notice it at the same time, up to the
# difference of their arrivals, unless another error took them elsewhere.
_GRACE = timedelta(seconds=3)


@dataclass(frozen=True)
class Meeting:
    """A place in the model where the ranks of a group meet."""

    layer: str
    group: dist.ProcessGroup
    timeout: timedelta | None = None
    phase: str = "forward"

    def __str__(self) -> str:
        return f"the {self.phase} pass of {self.layer}"

    def backward(self) -> Meeting:
        return Meeting(self.layer, self.group, self.timeout, "backward")


def exchange(own: Tensor, meeting: Meeting) -> Tensor:
    """What every rank gives, in the order of the ranks: [ranks, *own.shape]. own is float64, of one shape on all."""
    flat = own.detach().flatten()
    first = flat.new_zeros(_BLOCK)
    about = zlib.crc32(str(meeting).encode())
    first[:_HEADER] = torch.tensor([about, len(flat)], dtype=torch.float64)
    fitting = flat[: _BLOCK - _HEADER]
    first[_HEADER : _HEADER + len(fitting)] = fitting
    found = _gather(first, meeting)
    if not bool((found[:, :_HEADER] == first[:_HEADER]).all()):
        raise _disagreement(meeting, found[:, 1].tolist(), None)
    parts = [found[:, _HEADER : _HEADER + len(fitting)]]
    if len(flat) > len(fitting):
        parts.append(_gather(flat[len(fitting) :].contiguous(), meeting))
    return torch.cat(parts, 1).view(-1, *own.shape)


class Total(torch.autograd.Function):
    """Σ over the ranks of what each gives, in the order of the ranks. The gradient of a sum is the sum of gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, meeting: Meeting) -> Tensor:
        ctx.meeting = meeting
        return exchange(own, meeting).sum(0)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return Total.apply(d, ctx.meeting.backward()), None  # type: ignore[no-untyped-call]


class KnownTotal(torch.autograd.Function):
    """The same where the sum is known already: nothing is sent but gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, total: Tensor, meeting: Meeting) -> Tensor:
        ctx.meeting = meeting
        return total.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        return Total.apply(d, ctx.meeting.backward()), None, None  # type: ignore[no-untyped-call]


def absent(call: str, group: dist.ProcessGroup, cause: Exception) -> RankError:
    """What to raise where a rank did not come to an exchange of the whole group."""
    n, meeting = group.size(), Meeting(call, group)
    places = _places(meeting)
    missing = ", ".join(f"rank {r}" for r in range(n) if places.get(r) != str(meeting)) or "any, in time"
    got = f"no word from {missing}" if places else "a rank is gone, and so is the record of which"
    return RankError(f"{call}: expected all {n} ranks to take part, got {got} (the process group says: {cause}).")


def _gather(own: Tensor, meeting: Meeting) -> Tensor:
    found = [torch.empty_like(own) for _ in range(meeting.group.size())]
    options = AllgatherOptions()
    if meeting.timeout is not None:
        options.timeout = meeting.timeout
    try:
        work = meeting.group.allgather([found], [own], options)
        work.wait() if meeting.timeout is None else work.wait(meeting.timeout)
    except RuntimeError as error:
        raise _disagreement(meeting, None, error) from error
    return torch.stack(found)


def _disagreement(meeting: Meeting, sizes: list[float] | None, cause: Exception | None) -> RankError:
    """What to raise where not all ranks are at the same place of the model."""
    n = meeting.group.size()
    places = _places(meeting)
    absent = [rank for rank in range(n) if places.get(rank) != str(meeting)]
    if places and not absent and sizes is not None:
        got = ", ".join(f"{int(size)} on rank {rank}" for rank, size in enumerate(sizes))
        return RankError(
            f"{meeting.layer}: expected the same number of channels on every rank, got statistics of {got} numbers; "
            f"build the same model on all."
        )
    said = [f"rank {r} {f'was at {places[r]}' if r in places else 'did not take part'}" for r in absent]
    got = "; ".join(said) if places else "a rank is gone, and so is the process that keeps the record of which"
    reason = f" (the process group says: {cause})" if cause is not None else ""
    return RankError(
        f"{meeting.layer}: expected all {n} ranks in the {meeting.phase} pass, got: {got}; every rank must run every "
        f"layer of the same model, one that has no data with an empty batch{reason}."
    )


def _places(meeting: Meeting) -> dict[int, str]:
    """Where the ranks came to an end, by their own word; empty if nobody keeps the record any more."""
    ranks = dist.get_process_group_ranks(meeting.group)
    keys = [f"normkit/missed/{rank}" for rank in ranks]
    places: dict[int, str] = {}
    try:
        store = distributed_c10d._get_default_store()
        store.set(keys[meeting.group.rank()], str(meeting))
        end = time.monotonic() + _GRACE.total_seconds()
        while len(places) < len(keys) and time.monotonic() < end:
            for rank, key in enumerate(keys):
                if rank not in places and store.check([key]):
                    places[rank] = store.get(key).decode()
            time.sleep(0.05)
    except RuntimeError:  # the process that keeps the store is gone
        return places
    return places
