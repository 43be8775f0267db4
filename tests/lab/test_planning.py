"""Planning: durations, the order of cuts, predictions, and which run comes next."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab import fakes
from normkit.errors import ArgumentError
from normkit.lab.costs import CALIBRATION_STEPS, EVALUATION_OVERHEAD, Costs
from normkit.lab.planning import (
    Plan,
    PlannedCell,
    RemainingS,
    describe_cuts,
    fit,
    format_duration,
    in_working_order,
    parse_duration,
    to_begin,
)
from normkit.lab.provenance import environment
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.schedule import Arm, Schedule, stage

RATES = (1e-3, 3e-3, 1e-2, 3e-2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3m", 180),
        ("1h30m", 5400),
        ("2H", 7200),
        ("1h 0m 5s", 3605),
        ("0.5m", 30),
        (12, 12),
        (1.5, 1.5),
        ("0", 0),
        ("0s", 0),
        (0, 0),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "3", "3 minutes", "m", "-3m", "30m1h", "1e9s", "nan", -1, math.inf, math.nan, True],
)
def test_what_is_no_duration(text: str | float) -> None:
    with pytest.raises(ArgumentError, match="budget: expected a duration such as 90s, 3m or 1h30m, or 0, got"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), [(180, "3m"), (5400, "1h30m"), (59.6, "1m"), (3605, "1h5s"), (0.2, "0s")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def cell(task: str, batch_size: int) -> PlannedCell:
    return PlannedCell(task, f"hash of {task}", task, batch_size, 100, ("none", "layer"), RATES)


def plan(tasks: str = "abc", sizes: tuple[int, ...] = (2, 16, 128), seeds: int = 8, tuning: int = 2) -> Plan:
    return Plan(tuple(cell(task, size) for task in tasks for size in sizes), seeds, tuning)


def by_runs(plan: Plan, cell: PlannedCell) -> float:
    """Cost in runs."""
    arms = plan.arms(cell)
    return sum(len(arm.grid) * arm.n_tuning_seeds + arm.n_seeds for arm in arms)


def cut(plan: Plan, remaining_s: RemainingS, available_s: float) -> Plan:
    """The plan, cut to fit."""
    fitting = fit(plan, remaining_s, available_s)
    assert fitting is not None
    return fitting


def kept(plan: Plan) -> tuple[int, int, int, list[str]]:
    cells = [f"{cell.task}{cell.batch_size}" for cell in plan.cells]
    return plan.n_seeds, plan.n_tuning_seeds, plan.n_rates_dropped, cells


# In working order.
ALL = [f"{task}{size}" for size in (128, 2, 16) for task in "abc"]


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (288, (8, 2, 0, ALL)),
        (287, (7, 2, 0, ALL)),
        (234, (5, 2, 0, ALL)),
        (233, (5, 1, 0, ALL)),
        (161, (5, 1, 1, ALL)),
        (143, (5, 1, 1, ALL[:8])),
        (95, (5, 1, 1, ALL[:5])),
        (63, (5, 1, 1, ALL[:3])),
        (16, (5, 1, 1, ALL[:1])),
    ],
)
def test_cuts_come_in_order_and_only_as_far_as_needed(
    available: float, expected: tuple[int, int, int, list[str]]
) -> None:
    assert kept(cut(plan(), by_runs, available)) == expected


def test_the_extremes_of_all_tasks_come_first_and_what_takes_longest_last() -> None:
    many = plan("ab", (1, 2, 16, 128, 512))
    takes = {"a": 5.0, "b": 3.0}
    order = in_working_order(many, lambda plan, cell: takes[cell.task])
    assert [cell.task for cell in order] == ["b", "a"] * 5
    assert [cell.batch_size for cell in order[::2]] == [512, 1, 128, 2, 16]


def test_a_row_that_does_not_fit_leaves_its_time_to_the_next() -> None:
    takes = lambda plan, cell: by_runs(plan, cell) * (100 if cell.task == "b" else 1)  # noqa: E731
    assert kept(cut(plan(), takes, 100))[3] == ["a128", "c128", "a2", "c2", "a16", "c16"]


def test_fewer_seeds_than_five_stay_as_asked() -> None:
    assert cut(plan(seeds=3), by_runs, 20).n_seeds == 3


def test_short_grids_stay_as_they_are() -> None:
    short = replace(cell("a", 2), learning_rates=(1e-3, 1e-2))
    smallest = cut(Plan((short, cell("b", 2)), 5, 1), by_runs, 20)
    assert [arm.grid for arm in smallest.arms(short)] == [(1e-3, 1e-2)] * 2
    assert [arm.grid for arm in smallest.arms(cell("b", 2))] == [RATES[1:]] * 2


def test_what_is_finished_is_never_cut() -> None:
    finished = {"a16", "c2", "c16", "c128"}
    remaining = lambda plan, cell: 0.0 if f"{cell.task}{cell.batch_size}" in finished else by_runs(plan, cell)  # noqa: E731
    assert set(kept(cut(plan(), remaining, 20))[3]) == finished | {"a128"}


def test_where_no_row_fits_one_of_the_smallest_plan_is_begun() -> None:
    assert fit(plan(), by_runs, 15) is None
    assert kept(to_begin(plan(), by_runs)) == (5, 1, 1, ALL[:1])


def test_if_what_fits_is_finished_the_next_larger_plan_is_begun() -> None:
    # Five seeds are done already, six in one row, and each further one takes longer than there is time.
    more_seeds = lambda plan, cell: 100.0 * max(0, plan.n_seeds - 5 - (cell == plan.cells[0]))  # noqa: E731
    assert fit(plan(), more_seeds, 10) is None
    assert kept(to_begin(plan(), more_seeds)) == (6, 2, 0, ["a2", "a128"])


def test_if_everything_is_finished_nothing_more_fits() -> None:
    assert fit(plan(), lambda plan, cell: 0.0, 1e9) is None


def test_cuts_are_said() -> None:
    asked, why = plan(), "to fit the budget of 3m"
    assert describe_cuts(asked, asked, why) == ()
    assert describe_cuts(asked, cut(asked, by_runs, 150), why) == (
        "5 evaluation seeds instead of 8, to fit the budget of 3m.",
        "1 tuning run a learning rate instead of 2, to fit the budget of 3m.",
        "Tuning starts from a grid with 1 learning rate less at its lower end, to fit the budget of 3m.",
    )
    assert describe_cuts(asked, cut(asked, by_runs, 33), why)[3:] == (
        "a at batch size 2 and 16 was left out, to fit the budget of 3m.",
        "b at batch size 2 and 16 was left out, to fit the budget of 3m.",
        "c was left out, to fit the budget of 3m.",
    )


ARM = Arm("toy", "abc", 16, "layer", steps=1000, grid=RATES, n_tuning_seeds=2, n_seeds=5)


def timed(spec: RunSpec, *, overhead_s: float, ms: float) -> RunRecord:
    wall_s = overhead_s + spec.steps * ms / 1e3
    return replace(fakes.run(spec), steps_done=spec.steps, ms_per_step=ms, wall_s=wall_s, provenance=environment())


def short(arm: Arm) -> RunSpec:
    return replace(arm.spec("tune", 1e-2, 1000), steps=CALIBRATION_STEPS)


def test_a_short_run_predicts_a_long_one() -> None:
    costs = Costs()
    assert not costs.knows(ARM)
    costs.learn_from_short(timed(short(ARM), overhead_s=0.1, ms=2))
    assert costs.knows(ARM)
    assert costs.run_s(ARM, "tune") == pytest.approx(0.1 + 2.0)
    assert costs.run_s(ARM, "evaluate") == pytest.approx(0.1 * EVALUATION_OVERHEAD + 2.0)


def test_whole_runs_predict_themselves() -> None:
    costs = Costs()
    costs.learn_from_short(timed(short(ARM), overhead_s=0.1, ms=2))
    for seed, overhead in enumerate((0.5, 0.6, 9.0)):
        costs.learn(timed(ARM.spec("evaluate", 1e-2, seed), overhead_s=overhead, ms=3))
    assert costs.run_s(ARM, "evaluate") == pytest.approx(3.6)


def test_the_first_runs_of_workers_do_not_spoil_the_prediction() -> None:
    costs = Costs()
    for norm, overhead in (("none", 5.0), ("batch", 5.0), ("layer", 0.1), ("rms", 0.1)):
        costs.learn_from_short(timed(short(replace(ARM, norm=norm)), overhead_s=overhead, ms=1))
    assert costs.run_s(replace(ARM, norm="none"), "tune") == pytest.approx(1.1)


def test_runs_of_another_machine_predict_nothing_here() -> None:
    record = timed(ARM.spec("tune", 1e-2, 1000), overhead_s=0.1, ms=2)
    assert not Costs([replace(record, provenance={**environment(), "cores": 4096})]).knows(ARM)
    assert Costs([record]).knows(ARM)


def test_an_unknown_norm_costs_what_the_others_do() -> None:
    costs = Costs()
    costs.learn_from_short(timed(short(replace(ARM, norm="none")), overhead_s=0.1, ms=2))
    assert costs.run_s(ARM, "tune") == pytest.approx(2.1)
    assert costs.run_s(replace(ARM, task_hash="other"), "tune") == 1.0


def test_short_runs_that_misled_are_corrected_by_whole_ones() -> None:
    costs = Costs()
    for size in (16, 128):
        costs.learn_from_short(timed(short(replace(ARM, batch_size=size)), overhead_s=0, ms=size))
    costs.learn(timed(ARM.spec("tune", 1e-2, 1000), overhead_s=0, ms=4))
    assert costs.run_s(replace(ARM, batch_size=128), "tune") == pytest.approx(128 / 4)


def test_remaining_work_counts_tuning_what_it_may_add_and_evaluation() -> None:
    costs = Costs([timed(ARM.spec("tune", 1e-2, 1000), overhead_s=0, ms=1)])
    costs.learn(timed(ARM.spec("evaluate", 1e-2, 0), overhead_s=1, ms=1))
    assert costs.remaining_s(ARM, stage(ARM, {})) == pytest.approx((8 + 2) * 1 + 5 * 2)


# The stages of an arm.


def finish(arm: Arm, run: Callable[[RunSpec], RunRecord], n: int = 1000) -> dict[RunSpec, RunRecord]:
    """Do up to n of the runs that the arm asks for, in an order of chance."""
    random.seed(0)
    records: dict[RunSpec, RunRecord] = {}
    while len(records) < n and (missing := stage(arm, records).missing):
        spec = random.choice(missing)
        records[spec] = run(spec)
    return records


def test_an_arm_is_tuned_and_then_evaluated_at_its_best() -> None:
    assert [spec.role for spec in stage(ARM, {}).missing] == ["tune"] * 8
    now = stage(ARM, finish(ARM, fakes.run, 8))
    assert now.learning_rate == 1e-2
    assert [(spec.role, spec.seed, spec.learning_rate) for spec in now.missing] == [
        ("evaluate", seed, 1e-2) for seed in range(5)
    ]
    end = stage(ARM, finish(ARM, fakes.run))
    assert (end.missing, end.status, end.tuning_complete) == ((), "done", True)


def test_tuning_and_evaluation_share_no_seed() -> None:
    records = finish(ARM, fakes.run)
    seeds = {role: {spec.seed for spec in records if spec.role == role} for role in ("tune", "evaluate")}
    assert seeds == {"tune": {1000, 1001}, "evaluate": {0, 1, 2, 3, 4}}


def test_choosing_never_looks_at_the_test_data() -> None:
    def spoiled(spec: RunSpec) -> RunRecord:
        record = fakes.run(spec)
        return replace(record, metrics={**record.metrics, "test_nll": -spec.learning_rate})

    assert stage(ARM, finish(ARM, spoiled)).learning_rate == stage(ARM, finish(ARM, fakes.run)).learning_rate


def test_an_impossible_arm_stops_at_once() -> None:
    arm = replace(ARM, norm="batch")
    records = finish(arm, fakes.mixed)
    assert len(records) == 1
    end = stage(arm, records)
    assert (end.status, end.message) == ("impossible", "batch: expected more than 1 value per channel")


def test_an_arm_that_diverges_everywhere_says_so() -> None:
    arm = replace(ARM, norm="batch")
    end = stage(arm, finish(arm, fakes.diverge_at_high_rates))
    assert (end.status, end.message) == ("diverged", "diverged at every learning rate tried, from 1e-05 to 0.03")
    assert not any(spec.role == "evaluate" for spec in finish(arm, fakes.diverge_at_high_rates))


def test_an_evaluation_run_that_diverges_is_the_outcome() -> None:
    arm = replace(ARM, norm="none")
    end = stage(arm, finish(arm, fakes.mixed))
    assert (end.status, end.message) == ("diverged", "1 of 5 evaluation runs diverged")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_divergence_whatever_the_run_says(loss: float) -> None:
    def run(spec: RunSpec) -> RunRecord:
        record = fakes.run(spec)
        return replace(record, metrics={**record.metrics, "test_nll": loss}) if spec.seed == 2 else record

    assert stage(ARM, finish(ARM, run)).status == "diverged"


# The order of runs over all cells.

CELLS = tuple(tuple(replace(ARM, batch_size=size, norm=norm) for norm in ("none", "layer")) for size in (2, 16, 128))


def missing(schedule: Schedule) -> list[int]:
    return [len(schedule.missing(cell)) for cell in schedule.cells]


def test_known_runs_are_taken_over_and_foreign_ones_ignored() -> None:
    known = list(finish(CELLS[0][0], fakes.run).values())
    foreign = [
        fakes.run(fakes.spec(task_hash="other")),
        fakes.run(replace(CELLS[0][1].spec("tune", 1e-2, 1000), steps=9)),
    ]
    schedule = Schedule(CELLS, known + foreign)
    assert missing(schedule) == [8, 16, 16]
    assert schedule.stage(CELLS[0][0]).status == "done"
    assert sorted(r.spec.key for r in schedule.used(CELLS[0][0])) == sorted(r.spec.key for r in known)
    assert schedule.used(CELLS[0][1]) == []


def test_a_run_under_way_is_not_missing() -> None:
    schedule = Schedule(CELLS)
    assert not schedule.is_open(CELLS[1])
    spec = schedule.missing(CELLS[1])[0]
    schedule.start(spec)
    assert (missing(schedule), schedule.is_open(CELLS[1])) == ([16, 15, 16], True)
    schedule.finish(fakes.run(spec))
    assert (missing(schedule), schedule.running, schedule.is_open(CELLS[1])) == ([16, 15, 16], set(), True)


def test_runs_that_no_longer_count_are_not_used() -> None:
    records = finish(ARM, fakes.run)
    other_choice = fakes.run(ARM.spec("evaluate", 3e-3, 0))
    other_grid = fakes.run(ARM.spec("tune", 0.5, 1000))
    other_seed = fakes.run(ARM.spec("tune", 1e-2, 1002))
    schedule = Schedule([[ARM]], [*records.values(), other_choice, other_grid, other_seed])
    assert {r.spec for r in schedule.used(ARM)} == set(records)
