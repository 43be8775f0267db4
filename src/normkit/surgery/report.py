"""What the changes to a model say they did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


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


class MeanAndVar(NamedTuple):
    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Recalibrated:
    """A norm whose running statistics are those of the data now."""

    name: str
    kind: str
    values: int  # that reached each channel
    before: MeanAndVar
    after: MeanAndVar

    def mean_moved(self) -> float:
        """By how many standard deviations, as they are now, the mean of a channel moved at most."""
        spread = self.after.var.double().sqrt()
        moved = (self.after.mean.double() - self.before.mean.double()).abs()
        return float((moved / spread.clamp(min=1e-300)).max()) if len(moved) else 0.0

    def variance_ratios(self) -> tuple[float, float]:
        """The smallest and the largest ratio of a channel's variance now to that before."""
        ratios = self.after.var.double() / self.before.var.double().clamp(min=1e-300)
        return (float(ratios.min()), float(ratios.max())) if len(ratios) else (1.0, 1.0)


@dataclass(frozen=True)
class RecalibrationReport:
    """What ``recalibrate`` did. ``print`` it for a table."""

    layers: tuple[Recalibrated, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"normkit.surgery.recalibrate: {len(self.layers)} norms recalibrated, {len(self.left)} left alone"]
        for layer in self.layers:
            low, high = layer.variance_ratios()
            lines.append(
                f"  {layer.name or '(the model)'}: {layer.values:,} values a channel; "
                f"mean moved by up to {layer.mean_moved():.3g} σ, variance × {low:.3g} to {high:.3g}"
            )
        lines += [f"  left {x.name or '(the model)'}: {x.kind}: {x.reason}" for x in self.left]
        return "\n".join(lines)
