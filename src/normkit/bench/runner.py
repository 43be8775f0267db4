"""A whole run: compile, then one workload after the other, inside the time that it was given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from normkit.bench.cases import MODES, Cell, Workload, floor_bytes
from normkit.bench.measure import measure
from normkit.bench.precompile import precompile
from normkit.bench.results import CellResult
from normkit.bench.timing import Plan

SHORTEST_SLICE_S = 0.1

Measure = Callable[..., list[CellResult]]
Precompile = Callable[..., dict[Workload, str]]


@dataclass(frozen=True)
class Options:
    """How a run is done."""

    limit_s: float  # of the whole run
    plan: Plan
    overhead_s: float = 1.2  # what a cell costs beside its slice: tensors, float64, the gate, loading what is compiled
    compiles: bool = True
    n_workers: int = 1  # processes that compile at once


@dataclass(frozen=True)
class Progress:
    """A snapshot, for whoever watches."""

    stage: str  # "compiling", "timing"
    done: int
    total: int
    note: str = ""  # what is under way
    elapsed_s: float = 0.0


class Budget:
    """Seconds since the start, and how long a cell may take of what is left."""

    def __init__(self, limit_s: float, overhead_s: float, clock: Callable[[], float]) -> None:
        self.limit_s, self.overhead_s, self.clock, self.start = limit_s, overhead_s, clock, clock()

    def elapsed_s(self) -> float:
        return self.clock() - self.start

    def left_s(self) -> float:
        return self.limit_s - self.elapsed_s()

    def slice_s(self, wanted_s: float, n_cells: int) -> float:
        """The slice of each of the ``n_cells`` to come: what is wanted, or what there is time for."""
        fair = self.left_s() / max(n_cells, 1) - self.overhead_s
        return min(wanted_s, max(fair, SHORTEST_SLICE_S))


def run(
    workloads: Sequence[Workload],
    options: Options,
    on_progress: Callable[[Progress], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    measure: Measure = measure,
    precompile: Precompile = precompile,
) -> Iterator[CellResult]:
    """Measure workload after workload, and give each cell as it is done.

    Where time runs short, slices shrink; cells for which there is none are given as skipped.

    Args:
        workloads: what to measure.
        options: how.
        on_progress: told what is under way.
        clock, measure, precompile: as a test has them.
    """
    budget = Budget(options.limit_s, options.overhead_s, clock)
    n_cells = len(workloads) * len(MODES)
    absent = _compile(workloads, options, budget, on_progress, precompile)
    for i, workload in enumerate(workloads):
        on_progress(Progress("timing", i, len(workloads), str(workload), budget.elapsed_s()))
        if budget.left_s() <= 0:
            yield from _skipped(workload)
            continue
        plan = replace(options.plan, slice_s=budget.slice_s(options.plan.slice_s, n_cells - i * len(MODES)))
        yield from measure(workload, plan, absent=absent[workload])
    on_progress(Progress("timing", len(workloads), len(workloads), "", budget.elapsed_s()))


def _compile(
    workloads: Sequence[Workload],
    options: Options,
    budget: Budget,
    on_progress: Callable[[Progress], None],
    precompile: Precompile,
) -> Mapping[Workload, dict[str, str]]:
    """For each workload, the sides that are not there and why."""
    if not options.compiles:
        return {workload: {"compile": "not asked for"} for workload in workloads}
    if not workloads:
        return {}
    needed_s = len(workloads) * len(MODES) * (options.plan.slice_s / 2 + options.overhead_s)  # half a slice will do

    def on_done(n: int) -> None:
        on_progress(Progress("compiling", n, len(workloads), "torch.compile", budget.elapsed_s()))

    on_done(0)
    missing = precompile(
        workloads,
        n_workers=options.n_workers,
        n_threads=torch.get_num_threads(),
        limit_s=max(options.limit_s - needed_s, options.limit_s / 3),
        on_done=on_done,
    )
    return {workload: {"compile": missing[workload]} if workload in missing else {} for workload in workloads}


def _skipped(workload: Workload) -> Iterator[CellResult]:
    for mode in MODES:
        cell = Cell(workload, mode)
        yield CellResult(cell, "skipped", floor_bytes(cell), "the time limit was reached")
