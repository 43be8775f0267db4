"""Make the BatchNorm layers of a model share their statistics over processes, and take that back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

import normkit.nn as nk
from normkit import _checks
from normkit.nn._policies import TORCH
from normkit.surgery.classes import name_of
from normkit.surgery.report import Left, Swapped

_FROM: dict[type[torch.nn.Module], type[torch.nn.Module] | None] = {
    torch.nn.BatchNorm1d: nk.BatchNorm1d,
    torch.nn.BatchNorm2d: nk.BatchNorm2d,
    torch.nn.BatchNorm3d: nk.BatchNorm3d,
    nk.BatchNorm1d: nk.BatchNorm1d,
    nk.BatchNorm2d: nk.BatchNorm2d,
    nk.BatchNorm3d: nk.BatchNorm3d,
    torch.nn.SyncBatchNorm: None,  # which was a BatchNorm of some dimensions once, and has forgotten of which
}
# On the module: the class that it goes back to.
_ALONE = "alone_class"


@dataclass(frozen=True)
class SyncReport:
    """What ``synchronize`` or ``desynchronize`` changed, and the BatchNorms that it left. ``print`` it for a list."""

    call: str
    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"{self.call}: {len(self.swapped)} norms changed, {len(self.left)} left alone"]
        lines += [f"  changed  {s.name or '(the model)'}: {s.before} -> {s.after}" for s in self.swapped]
        lines += [f"  left     {x.name or '(the model)'}: {x.kind}: {x.reason}" for x in self.left]
        return "\n".join(lines)


def synchronize(
    model: torch.nn.Module, process_group: dist.ProcessGroup | None = None, timeout: float | None = None
) -> SyncReport:
    """Turn every BatchNorm of the model into a SyncBatchNorm, in place.

    Each module stays the same object, with its parameters, buffers, hooks, mode and what is frozen, and learns its
    path in the model, by which errors name it. Subclasses, and modules whose ``forward`` was replaced, are left.

    Args:
        model: any module; a norm itself will do.
        process_group, timeout: as for :class:`normkit.nn.SyncBatchNorm`.

    Returns:
        what was changed, and what was left with the reason.

    Raises:
        DtypeError: model is not a torch.nn.Module, or timeout not a number.
        ArgumentError: timeout is not positive.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), normkit.nn.BatchNorm2d(4))
        >>> print(synchronize(model))
        normkit.surgery.synchronize: 1 norms changed, 0 left alone
          changed  1: normkit.nn.BatchNorm2d -> normkit.nn.SyncBatchNorm
    """
    _checks.module("synchronize", model)
    _checks.timeout("synchronize", timeout)
    swapped, left = [], []
    for name, module in _batch_norms(model):
        reason = _reason_to_leave(module)
        if reason:
            left.append(Left(name, name_of(module), reason))
            continue
        before, alone = name_of(module), _FROM.get(type(module))
        module.__class__ = nk.SyncBatchNorm
        if alone is not None:
            setattr(module, _ALONE, alone)
        vars(module).update(process_group=process_group, timeout=timeout, name=name)
        swapped.append(Swapped(name, before, name_of(module)))
    return SyncReport("normkit.surgery.synchronize", tuple(swapped), tuple(left))


def desynchronize(model: torch.nn.Module) -> SyncReport:
    """Turn every SyncBatchNorm that ``synchronize`` made back into the BatchNorm that it was, in place.

    One that was a BatchNorm of torch's becomes normkit's. One that was built as a SyncBatchNorm is left: nothing
    says for how many dimensions its input must have; without a process group it is a BatchNorm for any.

    Args, Returns, Raises: as :func:`synchronize`.
    """
    _checks.module("desynchronize", model)
    swapped, left = [], []
    for name, module in model.named_modules():
        if not isinstance(module, (nk.SyncBatchNorm, torch.nn.SyncBatchNorm)):
            continue
        before, alone = name_of(module), vars(module).get(_ALONE)
        if type(module) is not nk.SyncBatchNorm or alone is None:
            left.append(Left(name, before, "it does not say for which dimensions"))
            continue
        module.__class__ = alone
        for attribute in (_ALONE, "process_group", "timeout", "name"):
            delattr(module, attribute)
        swapped.append(Swapped(name, before, name_of(module)))
    return SyncReport("normkit.surgery.desynchronize", tuple(swapped), tuple(left))


def _batch_norms(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every BatchNorm of the model that is not our SyncBatchNorm, shared ones once."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) is not nk.SyncBatchNorm:
            yield name, module


def _reason_to_leave(module: torch.nn.Module) -> str:
    if type(module) not in _FROM:
        own = "with its own forward" if "forward" in vars(type(module)) else "whose class would be lost"
        return f"it is a subclass {own}"
    size = getattr(module, "policy", TORCH).virtual_batch_size
    if size is not None:
        return f"it has virtual batches, virtual_batch_size={size}, which SyncBatchNorm has not"
    return "its forward was replaced on the module" if "forward" in vars(module) else ""
