"""Hold the statistics or the parameters of norms still, for fine-tuning, and give them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from normkit import _checks
from normkit.errors import ArgumentError
from normkit.nn._updates import check_all_obey, has_running_statistics
from normkit.surgery.classes import name_of
from normkit.surgery.match import Match, matching, norms

What = Literal["statistics", "affine", "both"]

# On the module, so that deepcopy and pickling keep it: the parameters that freeze took the gradient from.
_TAKEN = "frozen_parameters"


@dataclass(frozen=True)
class Frozen:
    """A norm of which something is frozen."""

    name: str  # its path in the model; "" is the model itself
    kind: str
    statistics: bool
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        parts = [*(["statistics"] if self.statistics else []), *self.parameters]
        return f"{self.name or '(the model)'}: {self.kind}: {', '.join(parts)}"


@dataclass(frozen=True)
class FreezeReport:
    """What ``freeze`` froze or ``unfreeze`` gave back, norm by norm. ``print`` it for a list."""

    call: str
    norms: tuple[Frozen, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.call}: {len(self.norms)} norms", *(f"  {norm}" for norm in self.norms)])


def freeze(model: torch.nn.Module, match: Match = None, what: What = "statistics") -> FreezeReport:
    """Freeze norms of the model, in place, until ``unfreeze``.

    Frozen statistics normalize in training as in evaluation, and do not change: whatever calls ``train()``, and
    through deepcopy, pickling, DistributedDataParallel and torch.compile. Frozen parameters require no gradient
    and lose the one they have, so that no optimizer moves them; freeze those before DistributedDataParallel wraps
    the model, as it asks for.

    Args:
        model: any module; a norm itself will do.
        match: which norms: a class or a tuple of them, a pattern of paths such as ``"backbone.*"``, or a function
            of path and module that returns a bool; None means all.
        what: "statistics", "affine" (weight and bias), or "both". Norms without running statistics have only
            the second.

    Returns:
        every norm of which this call froze something, and what.

    Raises:
        ArgumentError: match means no norm of the model; what is unknown; statistics are to be frozen of a norm
            of torch's own, which cannot hold them. Any error leaves the model as it was.
        DtypeError: model is not a torch.nn.Module, or match none of the above.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), normkit.nn.BatchNorm1d(4))
        >>> print(freeze(model, what="both"))
        normkit.surgery.freeze: 1 norms
          1: normkit.nn.BatchNorm1d: statistics, weight, bias
        >>> y = model.train()(torch.randn(8, 4))
        >>> model[1].running_mean
        tensor([0., 0., 0., 0.])
    """
    chosen = _chosen("freeze", model, match, what)
    tracking = [(name, m) for name, m in chosen if what != "affine" and has_running_statistics(m)]
    check_all_obey("freeze", tracking)
    report = []
    holds = {module for _, module in tracking}
    for name, module in chosen:
        stops = module in holds and not _has_frozen_statistics(module)
        taken = _freeze_parameters(module) if what != "statistics" else ()
        if stops:
            module.frozen_statistics = True  # type: ignore[assignment]
        if stops or taken:
            report.append(Frozen(name, name_of(module), stops, taken))
    return FreezeReport("normkit.surgery.freeze", tuple(report))


def unfreeze(model: torch.nn.Module, match: Match = None, what: What = "both") -> FreezeReport:
    """Take back what ``freeze`` did: nothing that required no gradient before requires one after.

    Args, Raises: as :func:`freeze`.

    Returns:
        every norm of which this call gave something back, and what.
    """
    report = []
    for name, module in _chosen("unfreeze", model, match, what):
        moves = what != "affine" and _has_frozen_statistics(module)
        given = _unfreeze_parameters(module) if what != "statistics" else ()
        if moves:
            del module.frozen_statistics
        if moves or given:
            report.append(Frozen(name, name_of(module), moves, given))
    return FreezeReport("normkit.surgery.unfreeze", tuple(report))


def frozen(model: torch.nn.Module) -> tuple[Frozen, ...]:
    """Every norm of the model of which ``freeze`` holds something now, and what."""
    _checks.module("frozen", model)
    found = [Frozen(name, name_of(m), _has_frozen_statistics(m), getattr(m, _TAKEN, ())) for name, m in norms(model)]
    return tuple(norm for norm in found if norm.statistics or norm.parameters)


def _chosen(call: str, model: torch.nn.Module, match: Match, what: What) -> list[tuple[str, torch.nn.Module]]:
    if what not in get_args(What):
        raise ArgumentError(f'{call}: expected what to be "statistics", "affine" or "both", got {what!r}; name one.')
    return matching(call, model, match)


def _has_frozen_statistics(module: torch.nn.Module) -> bool:
    return bool(vars(module).get("frozen_statistics", False))


def _freeze_parameters(module: torch.nn.Module) -> tuple[str, ...]:
    """The names of the parameters that required a gradient, and do not any more."""
    taken = tuple(name for name, p in module.named_parameters() if p.requires_grad)
    for name in taken:
        parameter = module.get_parameter(name)
        parameter.requires_grad_(False)
        parameter.grad = None  # an optimizer would go on applying it
    if taken:
        setattr(module, _TAKEN, (*getattr(module, _TAKEN, ()), *taken))
    return taken


def _unfreeze_parameters(module: torch.nn.Module) -> tuple[str, ...]:
    taken: tuple[str, ...] = getattr(module, _TAKEN, ())
    for name in taken:
        module.get_parameter(name).requires_grad_(True)
    if taken:
        delattr(module, _TAKEN)
    return taken
