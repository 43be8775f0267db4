"""Swap torch's norms of a model for normkit's, in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

import normkit.nn as nk
from normkit import _checks
from normkit.errors import ArgumentError, DtypeError

# Each of ours subclasses torch's and adds no attribute, so a module becomes ours by changing its class.
_OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.BatchNorm1d: nk.BatchNorm1d,
    torch.nn.BatchNorm2d: nk.BatchNorm2d,
    torch.nn.BatchNorm3d: nk.BatchNorm3d,
    torch.nn.LayerNorm: nk.LayerNorm,
    torch.nn.RMSNorm: nk.RMSNorm,
    torch.nn.GroupNorm: nk.GroupNorm,
    torch.nn.InstanceNorm1d: nk.InstanceNorm1d,
    torch.nn.InstanceNorm2d: nk.InstanceNorm2d,
    torch.nn.InstanceNorm3d: nk.InstanceNorm3d,
}
_TORCH_NORMS = (
    *_OURS,
    torch.nn.modules.batchnorm._NormBase,  # SyncBatchNorm, lazy ones, and subclasses
)


@dataclass(frozen=True)
class Swapped:
    """A module that is normkit's now."""

    name: str  # its path in the model; "" is the model itself
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True)
class Left:
    """A norm that stays as it was, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class UpgradeReport:
    """What ``upgrade`` did. ``print`` it for a list."""

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"normkit.upgrade: {len(self.swapped)} norms swapped, {len(self.left)} left alone"]
        for s in self.swapped:
            note = f" ({s.note})" if s.note else ""
            lines.append(f"  swapped  {s.name or '(the model)'}: {s.before} -> {s.after}{note}")
        lines += [f"  left     {x.name or '(the model)'}: {x.kind}: {x.reason}" for x in self.left]
        return "\n".join(lines)


def upgrade(model: torch.nn.Module) -> UpgradeReport:
    """Swap every norm of torch's in the model for normkit's, in place.

    Each module stays the same object: parameters, buffers, hooks, names, train or eval mode, requires_grad and
    modules that are shared stay what they are, and an optimizer that holds the parameters goes on. Only its
    class changes. Subclasses, parametrized and lazy modules, and modules whose ``forward`` was replaced are
    left alone.

    Args:
        model: any module; a norm itself will do.

    Returns:
        what was swapped, and what was left with the reason. A second call swaps nothing.

    Raises:
        DtypeError: model is not a torch.nn.Module. Any error leaves the model as it was.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        >>> print(upgrade(model))
        normkit.upgrade: 1 norms swapped, 0 left alone
          swapped  1: torch.nn.LayerNorm -> normkit.nn.LayerNorm
    """
    if not isinstance(model, torch.nn.Module):
        raise DtypeError(f"upgrade: expected a torch.nn.Module, got {type(model).__name__}; give the model itself.")
    left, planned = [], []
    for name, module in _norms(model):
        reason = _reason_to_leave(module)
        if reason:
            left.append(Left(name, _kind(type(module)), reason))
        else:
            planned.append((name, module))
    return UpgradeReport(tuple(_swap_all(planned)), tuple(left))


def _norms(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every norm of torch's kind that is not ours yet, shared ones once."""
    ours = tuple(_OURS.values())
    module: torch.nn.Module
    for name, module in model.named_modules():
        if isinstance(module, _TORCH_NORMS) and type(module) not in ours:
            yield name, module


def _reason_to_leave(module: torch.nn.Module) -> str:
    """Why this norm cannot simply change its class; empty when it can."""
    if parametrize.is_parametrized(module):
        return "it is parametrized: its parameters are computed on access"
    if isinstance(module, LazyModuleMixin):
        return "it is lazy: run one batch through the model, then upgrade"
    if type(module) is torch.nn.SyncBatchNorm:
        return "it computes its statistics over several processes"
    if type(module) not in _OURS:
        own = "with its own forward" if "forward" in vars(type(module)) else "whose class would be lost"
        return f"it is a subclass {own}"
    if "forward" in vars(module):
        return "its forward was replaced on the module"
    try:
        eps = getattr(module, "eps", None)
        if eps is not None:
            _checks.eps("upgrade", eps)
    except ArgumentError:
        return f"its eps is {getattr(module, 'eps', None)!r}, with which normkit does not normalize"
    return ""


def _swap_all(planned: list[tuple[str, torch.nn.Module]]) -> list[Swapped]:
    """Change every class, or none."""
    done: list[tuple[torch.nn.Module, type[torch.nn.Module]]] = []
    report = []
    try:
        for name, module in planned:
            before = type(module)
            module.__class__ = _OURS[before]
            done.append((module, before))
            report.append(Swapped(name, _kind(before), _kind(type(module)), _note(module)))
    except BaseException:
        for module, before in done:
            module.__class__ = before
        raise
    return report


def _note(module: torch.nn.Module) -> str:
    running_mean = getattr(module, "running_mean", None)
    if running_mean is not None and running_mean.dtype in _checks.LOW_PRECISION:
        return f"its running statistics stay {_checks.dtype_name(running_mean)}, which updates round to"
    return ""


def _kind(cls: type[torch.nn.Module]) -> str:
    """torch.nn.LayerNorm for torch.nn.modules.normalization.LayerNorm, and so on."""
    for package in ("torch.nn", "normkit.nn"):
        if cls.__module__.startswith(package + "."):
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"
