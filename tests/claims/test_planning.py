"""What fits: seeds first, never below five, then whole experiments."""

from __future__ import annotations

import math

import pytest

from normkit.claims.experiment import Job, conditions
from normkit.claims.experiments import experiment, files
from normkit.claims.experiments._stacked_tuning import is_full
from normkit.claims.planning import Plan, cuts, fit, reduced
from normkit.claims.run import BUDGETS
from normkit.lab.planning import parse_duration


def test_the_quick_tier_is_planned_to_end_within_its_budget_with_seeds_to_spare() -> None:
    """On two cores, by what the experiments say of themselves."""
    planned = sum(experiment(id_).seconds(job) for id_ in files() for job in experiment(id_).jobs("quick"))
    assert planned / 2 < parse_duration(BUDGETS["quick"])


def jobs(experiment: str, n_seeds: int = 12, n_arms: int = 2) -> list[Job]:
    return [Job(experiment, conditions(arm=k), tuple(range(n_seeds))) for k in range(n_arms)]


def a_second_a_seed(job: Job) -> float:
    return float(len(job.seeds))


WANTED = {"E08": jobs("E08"), "E05": jobs("E05"), "E16": jobs("E16", n_arms=4)}  # 24 + 24 + 48 s


def seconds(plan_jobs: dict[str, tuple[Job, ...]]) -> float:
    return sum(a_second_a_seed(job) for some in plan_jobs.values() for job in some)


def test_without_a_limit_nothing_is_cut() -> None:
    plan = fit(WANTED, a_second_a_seed, math.inf)
    assert seconds(dict(plan.jobs)) == 96
    assert cuts(WANTED, plan, "to fit") == ()


@pytest.mark.parametrize(("budget", "n_seeds"), [(96, None), (95, 11), (64, 8), (49, 6), (48, 6)])
def test_seeds_go_first_in_every_experiment_alike(budget: float, n_seeds: int | None) -> None:
    plan = fit(WANTED, a_second_a_seed, budget)
    assert (plan.most_seeds, plan.left_out) == (n_seeds, ())
    assert seconds(dict(plan.jobs)) <= budget
    if n_seeds:
        assert cuts(WANTED, plan, "to fit 1m") == (f"At most {n_seeds} seeds instead of 12, to fit 1m.",)


def test_then_whole_experiments_from_the_end_and_what_still_fits_stays() -> None:
    plan = fit(WANTED, a_second_a_seed, 47)
    assert (plan.most_seeds, plan.left_out) == (6, ("E16",))
    assert "Left out to fit: E16." in cuts(WANTED, plan, "to fit")
    tight = fit({"E16": WANTED["E16"], "E05": WANTED["E05"]}, a_second_a_seed, 12)
    assert tight.left_out == ("E16",)
    assert list(tight.jobs) == ["E05"]


def test_never_so_few_seeds_that_nothing_is_decided_or_grids_are_those_of_another_tier() -> None:
    plan = fit(WANTED, a_second_a_seed, 0.5)
    assert plan.left_out == ("E08", "E05", "E16")
    assert plan.most_seeds == 6
    assert fit({"E05": jobs("E05", 5)}, a_second_a_seed, 0.5) == Plan({}, None, ("E05",))
    assert is_full(reduced(WANTED["E05"], 6)[0])
    assert not is_full(reduced(WANTED["E05"], 5)[0])


def test_seeds_are_those_of_each_condition() -> None:
    """E26's exact part has seeds of its own, and they are no reason to take those of its networks away."""
    mixed = [
        Job("E26", conditions(what="exact"), tuple(range(5))),
        *(Job("E26", conditions(arm=k), tuple(range(200, 212))) for k in range(2)),
    ]
    assert [job.seeds for job in reduced(mixed, 6)] == [tuple(range(5)), *[tuple(range(200, 206))] * 2]
    plan = fit({"E26": mixed}, a_second_a_seed, 27)
    assert cuts({"E26": mixed}, plan, "to fit 27s") == ("At most 11 seeds instead of 12, to fit 27s.",)


def test_an_experiment_of_fewer_seeds_keeps_its_own() -> None:
    plan = fit({"E01": jobs("E01", 3), "E05": jobs("E05")}, a_second_a_seed, 20)
    assert [len(job.seeds) for job in plan.jobs["E01"]] == [3, 3]
    assert [len(job.seeds) for job in plan.jobs["E05"]] == [7, 7]


def test_what_is_begun_is_not_left_out_and_keeps_its_place() -> None:
    plan = fit(WANTED, a_second_a_seed, 25, begun={"E16"})
    assert list(plan.jobs) == ["E16"]
    assert list(fit(WANTED, a_second_a_seed, 39, begun={"E16"}).jobs) == ["E08", "E16"]


def test_a_reduction_is_not_taken_back() -> None:
    assert fit(WANTED, a_second_a_seed, math.inf, most_seeds=6).most_seeds == 6


def test_jobs_of_single_seeds_are_reduced_alike() -> None:
    single = [Job("E05", conditions(norm=norm), (seed,)) for norm in "ab" for seed in range(8)]
    kept = reduced(single, 5)
    assert [(job.arm["norm"], job.seeds) for job in kept] == [(n, (s,)) for n in "ab" for s in range(5)]
