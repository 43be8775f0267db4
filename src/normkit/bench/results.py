"""What a benchmark leaves behind: plain data, and the few numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from normkit.bench.cases import OPS, Cell, Mode, Sequences
from normkit.bench.timing import Timing

Status = Literal["timed", "red", "skipped"]
COPY = "copy"
UNMASKED = "unmasked"  # normkit without the mask, beside it with the mask
MOST_TIMES_PLAIN = 1.25  # what a normalized recurrent layer may take, of the time of torch's without a norm
LEAST_TIMES_LOOP = 4.0  # how many times as fast as a Python loop of the same maths it must be
MOST_TIMES_UNMASKED = 1.3  # what a masked BatchNorm may take, of the time of the same without a mask
NOISE = 0.95  # a ratio from here to 1 is within what two runs on the same machine differ by


@dataclass(frozen=True)
class CellResult:
    """One cell. A red one has no times: a side gave wrong results."""

    cell: Cell
    status: Status
    floor_bytes: int
    message: str = ""  # why, for every status but "timed"
    times: dict[str, Timing] = field(default_factory=dict)  # by side, and of the copy
    error_shares: dict[str, float] = field(default_factory=dict)  # by side: largest error as a share of what is allowed
    saved_bytes: dict[str, int] = field(default_factory=dict)  # by side, for the backward
    absent: dict[str, str] = field(default_factory=dict)  # a side that did not run, and why

    @property
    def best_torch(self) -> str | None:
        """The faster of torch's two sides."""
        sides = [side for side in ("torch", "compile") if side in self.times]
        return min(sides, key=lambda side: self.times[side].median_ns) if sides else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the faster of torch eager and torch.compile."""
        best = self.best_torch
        if best is None or "normkit" not in self.times:
            return None
        return self.times[best].median_ns / self.times["normkit"].median_ns

    @property
    def gb_per_s(self) -> float | None:
        """normkit's, over the least bytes that the operation must move."""
        return self.floor_bytes / self.times["normkit"].median_ns if "normkit" in self.times else None

    @property
    def copy_share(self) -> float | None:
        """normkit's speed as a share of a copy of the same bytes."""
        if "normkit" not in self.times or COPY not in self.times:
            return None
        return self.times[COPY].median_ns / self.times["normkit"].median_ns


@dataclass(frozen=True)
class OverheadResult:
    """What a call costs where there is next to nothing to compute. A red one has no times."""

    op: str
    times: dict[str, Timing]
    status: Status = "timed"
    message: str = ""

    @property
    def ratio(self) -> float | None:
        return self.times["torch"].median_ns / self.times["normkit"].median_ns if self.times else None


STEPS = ("before", "after", "without")  # normkit.upgrade; with nothing where the norms were, which old records lack


@dataclass(frozen=True)
class ModelResult:
    """A whole training step before and after ``normkit.upgrade``."""

    model: str
    status: Status
    n_swapped: int
    n_left: int
    message: str = ""
    times: dict[str, Timing] = field(default_factory=dict)  # of STEPS

    @property
    def ratio(self) -> float | None:
        return self._times_as_fast("after")

    @property
    def ceiling(self) -> float | None:
        """The ratio of norms that take no time."""
        return self._times_as_fast("without")

    def _times_as_fast(self, side: str) -> float | None:
        return self.times["before"].median_ns / self.times[side].median_ns if side in self.times else None


@dataclass(frozen=True)
class RecurrentResult:
    """A recurrent layer beside torch's plain one and loops of the same maths. A red one has no times."""

    case: Sequences
    mode: Mode
    status: Status
    message: str = ""
    times: dict[str, Timing] = field(default_factory=dict)  # "torch", the "usual" and the careful "loop", "normkit"
    error_shares: dict[str, float] = field(default_factory=dict)  # as a cell's

    def __str__(self) -> str:
        return f"{self.case} {self.mode}"

    @property
    def times_plain(self) -> float | None:
        """The layer's time over that of torch's layer without a norm."""
        return self.times["normkit"].median_ns / self.times["torch"].median_ns if self.times else None

    @property
    def times_loop(self) -> float | None:
        """How many times as fast as the loop that is usually written, or, in records without it, the careful one."""
        usual = self.times.get("usual", self.times.get("loop"))
        return usual.median_ns / self.times["normkit"].median_ns if usual else None

    @property
    def times_careful(self) -> float | None:
        """How many times as fast as the careful loop."""
        return self.times["loop"].median_ns / self.times["normkit"].median_ns if self.times else None

    @property
    def misses(self) -> tuple[str, ...]:
        """The bars that are missed, in words; none where nothing was timed."""
        found = []
        if self.times_plain is not None and not self.times_plain <= MOST_TIMES_PLAIN:
            found.append(f"{self.times_plain:.2f} times the plain layer's time, not {MOST_TIMES_PLAIN}")
        if self.times_loop is not None and not self.times_loop >= LEAST_TIMES_LOOP:
            found.append(f"{self.times_loop:.2f} times as fast as the loop, not {LEAST_TIMES_LOOP:g}")
        return tuple(found)


@dataclass(frozen=True)
class Record:
    """One run of the benchmark."""

    provenance: Mapping[str, Any]  # versions, machine, flags, options, date: where the numbers hold
    cells: tuple[CellResult, ...] = ()
    overheads: tuple[OverheadResult, ...] = ()
    models: tuple[ModelResult, ...] = ()
    recurrent: tuple[RecurrentResult, ...] = ()

    @property
    def is_red(self) -> bool:
        statuses = [
            *(c.status for c in self.cells),
            *(o.status for o in self.overheads),
            *(m.status for m in self.models),
            *(r.status for r in self.recurrent),
        ]
        return "red" in statuses


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is.

    Example:
        >>> geometric_mean([2.0, None, 8.0])
        4.0
    """
    known = [ratio for ratio in ratios if ratio is not None]
    return math.exp(math.fsum(map(math.log, known)) / len(known)) if known else None


def without_masks(cells: Iterable[CellResult]) -> list[CellResult]:
    """The cells of what torch has: for a mask it has no layer, and what its users write is slow."""
    return [r for r in cells if OPS[r.cell.workload.op].unmasked is None]


def below_par(cells: Iterable[CellResult]) -> list[tuple[CellResult, float]]:
    """The cells where torch is faster, the worst first."""
    slower = [(cell, cell.ratio) for cell in cells if cell.ratio is not None and cell.ratio < 1]
    return sorted(slower, key=lambda pair: pair[1])


def costs_of_masks(cells: Iterable[CellResult]) -> list[tuple[CellResult, float]]:
    """The masked cells, and how many times as long as without a mask normkit takes."""
    return [(r, r.times["normkit"].median_ns / r.times[UNMASKED].median_ns) for r in cells if UNMASKED in r.times]
