"""What ``upgrade`` says it did."""

from __future__ import annotations

from dataclasses import dataclass


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
