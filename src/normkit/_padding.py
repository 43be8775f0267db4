"""Which positions of a batch count, and how often: a mask, weights or lengths, checked and made one.

A position is a sample at one place of the axes behind the channels. What does not count takes no part in a
statistic, its output is 0, and so is every gradient there, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from normkit import _checks
from normkit.composite import under_functorch
from normkit.errors import ArgumentError, DeviceError, DtypeError, ShapeError, SingleValueError


class Padding(NamedTuple):
    """What a caller may say about the positions of an input; any of it may be None."""

    mask: Tensor | None = None
    weights: Tensor | None = None
    lengths: Tensor | Sequence[int] | None = None

    def of_rows(self, rows: slice) -> Padding:
        """What was said about some of the samples."""
        mask, weights = (None if t is None else t[rows] for t in (self.mask, self.weights))
        return Padding(mask, weights, None if self.lengths is None else self.lengths[rows])


class Positions(NamedTuple):
    """What is known of the positions; each broadcasts to the input."""

    kept: Tensor  # [N, 1, *], bool
    counts: Tensor | None  # the same shape; how often a position counts, 0 where it is not kept. None: once
    dtype: torch.dtype

    @property
    def weights(self) -> Tensor:
        """How often each position counts."""
        return self.kept.to(self.dtype) if self.counts is None else self.counts


def padding_of(mask: Tensor | None, weights: Tensor | None, lengths: Tensor | Sequence[int] | None) -> Padding | None:
    """None where nothing was said."""
    if mask is None and weights is None and lengths is None:
        return None
    return Padding(mask, weights, lengths)


def keywords(padding: Padding | None) -> dict[str, Any]:
    """What was said, for a function of ``normkit.functional``."""
    return {} if padding is None else padding._asdict()


def unbatched(padding: Padding | None) -> Padding | None:
    """What was said about one sample, as of a batch of one."""
    if padding is None:
        return None
    mask, weights = (t.unsqueeze(0) if isinstance(t, Tensor) else t for t in padding[:2])
    return Padding(mask, weights, padding.lengths)


def positions_of(call: str, x: Tensor, padding: Padding) -> Positions:
    """The positions of x [N, C, *] that count. Values are looked at where there are any to see: see ``visible``."""
    mask, weights, lengths = padding
    shape = (x.shape[0], *x.shape[2:])
    kept = torch.ones(shape, dtype=torch.bool, device=x.device) if mask is None else _mask(call, mask, shape, x)
    if lengths is not None:
        kept = kept & _within(call, lengths, shape, x)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if weights is None:
        return Positions(kept.unsqueeze(1), None, dtype)
    weights = _weights(call, weights, shape, x, dtype)
    kept = kept & (weights > 0)
    return Positions(kept.unsqueeze(1), torch.where(kept, weights, 0).unsqueeze(1), dtype)


def resolved(call: str, x: Tensor, padding: Padding) -> Padding:
    """What was said, checked against the whole of x, as a mask and weights: parts of it hold for parts of x."""
    kept, counts, _ = positions_of(call, x, padding)
    return Padding(kept.squeeze(1), None if counts is None else counts.squeeze(1))


def visible(x: Tensor) -> bool:
    """Whether values can be looked at: there are some, no graph is being made, and no torch.func transform active."""
    if torch.compiler.is_compiling() or under_functorch() or x.is_meta or isinstance(x, FakeTensor):
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def check_values(call: str, x: Tensor, positions: Positions, unit: str, per_sample: int | None, *, keeps: bool) -> None:
    """Enough values behind each statistic: of the batch, or with ``per_sample`` channels a group, of each sample.

    Where running statistics are kept, the unbiased variance asks for more than one occurrence too.
    """
    if x.numel() == 0 or not visible(x):
        return
    if per_sample is None:
        n_kept = [int(positions.kept.count_nonzero())]
    else:
        n_kept = [n * per_sample for n in positions.kept.flatten(1).count_nonzero(1).tolist()]
    if not any(n_kept):
        raise ArgumentError(
            f"{call}: expected at least one sample that is not all padding, got none in input of shape "
            f"{list(x.shape)}; leave out such a batch."
        )
    if 1 in n_kept:
        raise SingleValueError(
            f"{call}: expected more than 1 value per {unit} beside the padding, got 1 in input of shape "
            f"{list(x.shape)}; the output would not depend on the input; leave it out, or use more."
        )
    if not keeps or positions.counts is None:
        return
    total = positions.counts.detach().double().flatten(1).sum(1 if per_sample else (0, 1)).view(-1).tolist()
    few = [weight for weight, n in zip(total, n_kept, strict=True) if n > 0 and weight <= 1]
    if few:
        raise ArgumentError(
            f"{call}: expected weights that add up to more than 1 per {unit} where running statistics are kept, got "
            f"{few[0]:.3g}; weights count occurrences: scale them."
        )


def _mask(call: str, mask: Tensor, shape: tuple[int, ...], x: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = _checks.dtype_name(mask) if isinstance(mask, Tensor) else type(mask).__name__
        raise DtypeError(
            f"{call}: expected mask to be a bool tensor, True where valid, got {got}; compare, as in ids != 0."
        )
    _check_place(call, "mask", mask, shape, x)
    return mask


def _weights(call: str, weights: Tensor, shape: tuple[int, ...], x: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights in the dtype that they are multiplied in."""
    if not isinstance(weights, Tensor) or weights.dtype == torch.bool or weights.is_complex():
        got = _checks.dtype_name(weights) if isinstance(weights, Tensor) else type(weights).__name__
        raise DtypeError(
            f"{call}: expected weights to be a tensor of real numbers, got {got}; give True and False as mask."
        )
    _check_place(call, "weights", weights, shape, x)
    given, weights = weights.detach(), weights.to(dtype)
    if not visible(weights):
        return weights
    wrong = given[~((weights >= 0) & weights.isfinite())]
    if len(wrong):
        raise ArgumentError(
            f"{call}: expected weights of 0 or more, got {wrong[0].item():g}, one of {len(wrong)} that are negative, "
            f"infinite or NaN; give 0 where there is nothing."
        )
    if not weights.detach().sum().isfinite():
        raise ArgumentError(
            f"{call}: expected weights whose sum {_checks.dtype_name(weights)} holds, got some that add up to more, of "
            f"at most {given.max().item():g}; weights count occurrences: scale them."
        )
    return weights


def _check_place(call: str, name: str, value: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    if tuple(value.shape) != shape:
        raise ShapeError(
            f"{call}: expected {name} of the input's shape without the channel axis, {list(shape)}, for input of shape "
            f"{list(x.shape)}, got {list(value.shape)}; expand it first if broadcasting is meant."
        )
    if value.device != x.device:
        raise DeviceError(
            f"{call}: expected {name} on the input's device {x.device}, got {value.device}; "
            f"move one of them with .to(...)."
        )
    if value.layout != torch.strided:
        raise DtypeError(
            f"{call}: expected {name} to be a dense tensor, got {str(value.layout).removeprefix('torch.')}; "
            f"call .to_dense() on it."
        )


def _within(call: str, lengths: Tensor | Sequence[int], shape: tuple[int, ...], x: Tensor) -> Tensor:
    """The positions that lie before the end of their sample, along the last axis."""
    if len(shape) < 2:
        raise ShapeError(
            f"{call}: expected lengths with input that has positions (N, C, L), got {list(x.shape)}; use mask."
        )
    given = _length_tensor(call, lengths, shape[0], x)
    if visible(given):
        wrong = given[(given < 0) | (given > shape[-1])]
        if len(wrong):
            raise ArgumentError(
                f"{call}: expected lengths from 0 to the input's {shape[-1]} positions, got {wrong[0].item()}; "
                f"cut them at the end of the input."
            )
    before = torch.arange(shape[-1], device=x.device) < given.unsqueeze(1)  # [N, L]
    return before.view(shape[0], *[1] * (len(shape) - 2), shape[-1]).expand(shape)


def _length_tensor(call: str, lengths: Tensor | Sequence[int], n: int, x: Tensor) -> Tensor:
    if isinstance(lengths, Tensor):
        found = lengths
    else:
        try:
            found = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DtypeError(
                f"{call}: expected lengths to be integers, one a sample, got {type(lengths).__name__}: {error}; give a "
                f"tensor or a list of the numbers of positions."
            ) from error
        if found.numel() == 0:  # which says nothing of its dtype
            found = found.long()
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DtypeError(
            f"{call}: expected lengths to be integers, got {_checks.dtype_name(found)}; give the number of positions."
        )
    if tuple(found.shape) != (n,):
        raise ShapeError(f"{call}: expected lengths of shape {[n]}, one a sample, got {list(found.shape)}; give each.")
    return found.to(x.device)
