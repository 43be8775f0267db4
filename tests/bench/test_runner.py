"""A run inside its time: what is compiled, how long a cell may take, what is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from normkit.bench import threads
from normkit.bench.cases import MODES, Cell, Workload
from normkit.bench.precompile import compile_one, precompile
from normkit.bench.results import CellResult
from normkit.bench.runner import SHORTEST_SLICE_S, Budget, Options, Progress, run
from normkit.bench.timing import Plan

LOADS = [Workload("layer_norm", (n, 8), "contiguous", "float32") for n in (2, 3, 4, 5)]


class World:
    """A clock, a compiler and a measurement that take the time that they say."""

    def __init__(self, *, compile_s: float = 0.0, measure_s: float = 0.0, missing: Sequence[Workload] = ()) -> None:
        self.now = 100.0
        self.compile_s, self.measure_s, self.missing = compile_s, measure_s, missing
        self.slices: list[float] = []
        self.absent: list[dict[str, str]] = []
        self.compile_limit_s = 0.0
        self.news: list[Progress] = []

    def clock(self) -> float:
        return self.now

    def precompile(
        self, workloads: Sequence[Workload], *, limit_s: float, on_done: Any, **_: Any
    ) -> dict[Workload, str]:
        self.compile_limit_s = limit_s
        self.now += self.compile_s
        on_done(len(workloads))
        return dict.fromkeys(self.missing, "too late")

    def measure(self, workload: Workload, plan: Plan, *, absent: dict[str, str]) -> list[CellResult]:
        self.now += self.measure_s
        self.slices.append(plan.slice_s)
        self.absent.append(absent)
        return [CellResult(Cell(workload, mode), "timed", 1) for mode in MODES]

    def run(self, options: Options) -> list[CellResult]:
        return list(
            run(
                LOADS,
                options,
                self.news.append,
                clock=self.clock,
                measure=self.measure,
                precompile=self.precompile,
            )
        )


def test_every_cell_of_every_workload_comes_in_order() -> None:
    results = World().run(Options(100.0, Plan()))
    assert [r.cell for r in results] == [Cell(w, mode) for w in LOADS for mode in MODES]


def test_with_time_to_spare_a_cell_gets_the_slice_it_should() -> None:
    world = World(compile_s=1.0, measure_s=2.0)
    world.run(Options(1000.0, Plan(slice_s=0.5)))
    assert world.slices == [0.5] * 4


def test_slices_shrink_where_time_is_short_and_late_cells_are_skipped() -> None:
    world = World(compile_s=10.0, measure_s=4.0)
    results = world.run(Options(21.0, Plan(slice_s=0.8), overhead_s=1.2))
    assert world.slices[0] == pytest.approx(11.0 / 8 - 1.2)
    assert world.slices[1:] == [SHORTEST_SLICE_S] * 2
    assert [r.status for r in results] == ["timed"] * 6 + ["skipped"] * 2
    assert results[-1].message == "the time limit was reached"


def test_compilation_leaves_time_to_measure() -> None:
    world = World()
    world.run(Options(100.0, Plan(slice_s=1.0), overhead_s=0.3))
    assert world.compile_limit_s == pytest.approx(100.0 - 8 * (0.5 + 0.3))


def test_what_was_not_compiled_is_measured_without() -> None:
    world = World(missing=LOADS[1:2])
    world.run(Options(100.0, Plan()))
    assert world.absent == [{}, {"compile": "too late"}, {}, {}]


def test_nothing_is_compiled_where_it_is_not_asked_for() -> None:
    world = World()
    world.run(Options(100.0, Plan(), compiles=False))
    assert world.compile_limit_s == 0.0
    assert world.absent == [{"compile": "not asked for"}] * 4


def test_progress_tells_the_stage_and_how_far_it_is() -> None:
    world = World(measure_s=1.0)
    world.run(Options(100.0, Plan()))
    told = [(p.stage, p.done, p.total) for p in world.news]
    assert told == [("compiling", 0, 4), ("compiling", 4, 4)] + [("timing", i, 4) for i in range(5)]
    assert world.news[2].note == str(LOADS[0])
    assert world.news[-1].elapsed_s == 4.0


def test_a_budget_that_is_spent_still_gives_the_shortest_slice() -> None:
    world = World()
    budget = Budget(10.0, 0.5, world.clock)
    world.now += 30.0
    assert budget.left_s() == -20.0
    assert budget.slice_s(1.0, 5) == SHORTEST_SLICE_S


def test_what_cannot_be_compiled_says_why_across_processes() -> None:
    broken = Workload("no_such_operation", (2, 2), "contiguous", "float32")
    done: list[int] = []
    missing = precompile([broken], n_workers=1, n_threads=1, limit_s=60.0, on_done=done.append)
    assert missing == {broken: "KeyError: 'no_such_operation'"}
    assert done == [1]
    assert compile_one(broken) == missing[broken]


def test_compilation_ends_when_its_time_is_up() -> None:
    done: list[int] = []
    missing = precompile(LOADS, n_workers=1, n_threads=1, limit_s=0.0, on_done=done.append)
    assert missing == dict.fromkeys(LOADS, "not compiled within the time limit")
    assert done == []


def test_threads_are_set_and_given_back() -> None:
    before = torch.get_num_threads()
    with threads.thread_count(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with threads.thread_count(None):
        assert torch.get_num_threads() == before
