"""Tuning as a pure function: what it asks for next, what it takes, when it says that it is not sure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from normkit.lab.tuning import Tuning, mean_loss, tune

GRID = (1e-3, 3e-3, 1e-2, 3e-2)


def valley(bottom: float) -> Callable[[float], float]:
    """A loss that is lowest at one learning rate."""
    return lambda rate: abs(math.log10(rate / bottom))


def follow(grid: tuple[float, ...], loss: Callable[[float], float], n_seeds: int = 2) -> Tuning:
    """Run whatever tuning asks for until it has chosen."""
    losses: dict[float, list[float]] = {}
    for _ in range(10):
        step = tune(grid, losses, n_seeds)
        if not step.missing:
            return step
        for rate in step.missing:
            losses[rate] = [loss(rate)] * n_seeds
    raise AssertionError("tuning never ends")


def test_the_whole_grid_comes_first() -> None:
    assert tune((1e-2, 1e-3, 1e-2), {}, 2).missing == (1e-3, 1e-2)


def test_a_learning_rate_needs_all_its_seeds() -> None:
    losses = {1e-3: [0.5, 0.5], 3e-3: [0.4], 1e-2: [0.3, 0.3], 3e-2: []}
    assert tune(GRID, losses, 2).missing == (3e-3, 3e-2)


def test_an_inner_best_is_taken() -> None:
    assert follow(GRID, valley(1e-2)) == Tuning((), 1e-2, True, GRID)


@pytest.mark.parametrize(
    ("bottom", "chosen", "complete", "tried"),
    [
        (3e-2, 3e-2, True, (*GRID, 0.1, 0.3)),
        (0.1, 0.1, True, (*GRID, 0.1, 0.3)),
        (0.3, 0.3, True, (*GRID, 0.1, 0.3, 1.0, 3.0)),
        (3.0, 3.0, False, (*GRID, 0.1, 0.3, 1.0, 3.0)),
        (1e-3, 1e-3, True, (1e-4, 3e-4, *GRID)),
        (1e-5, 1e-5, False, (1e-5, 3e-5, 1e-4, 3e-4, *GRID)),
        (1e-9, 1e-5, False, (1e-5, 3e-5, 1e-4, 3e-4, *GRID)),
    ],
)
def test_the_grid_grows_where_the_best_is_at_its_edge(
    bottom: float, chosen: float, complete: bool, tried: tuple[float, ...]
) -> None:
    assert follow(GRID, valley(bottom)) == Tuning((), chosen, complete, tried)


@pytest.mark.parametrize(
    ("grid", "tried"),
    [
        ((1e-2,), (1e-3, 0.00316228, 1e-2, 0.0316228, 0.1)),
        ((1e-3, 1e-2), (1e-5, 1e-4, 1e-3, 1e-2)),
        ((1e-3, 2e-3, 4e-3), (0.00025, 0.0005, 1e-3, 2e-3, 4e-3)),
    ],
    ids=["one-point", "decades", "doubling"],
)
def test_the_grid_grows_in_its_own_rhythm(grid: tuple[float, ...], tried: tuple[float, ...]) -> None:
    assert follow(grid, valley(grid[0])).tried == tried


def test_a_diverged_run_is_infinitely_bad_and_not_left_out() -> None:
    losses = {1e-3: [0.5, 0.5], 3e-3: [0.4, 0.4], 1e-2: [0.1, math.inf], 3e-2: [math.inf, math.inf]}
    assert tune(GRID, losses, 2).chosen == 3e-3
    assert mean_loss([0.1, math.inf]) == math.inf
    assert mean_loss([0.1, math.nan]) == math.inf


def test_if_all_diverge_smaller_rates_are_tried_and_then_nothing_is_chosen() -> None:
    assert follow(GRID, lambda rate: math.inf) == Tuning((), None, False, (1e-5, 3e-5, 1e-4, 3e-4, *GRID))


def test_if_only_smaller_rates_train_one_of_them_is_taken() -> None:
    found = follow(GRID, lambda rate: math.inf if rate > 5e-4 else valley(3e-4)(rate))
    assert (found.chosen, found.complete) == (3e-4, True)


def test_equals_do_not_push_the_grid_outwards() -> None:
    assert follow(GRID, lambda rate: 0.5) == Tuning((), 3e-3, True, GRID)


def test_the_order_of_results_does_not_matter() -> None:
    random.seed(0)
    for bottom in (1e-5, 1e-3, 0.05, 10.0):
        known: dict[float, list[float]] = {}
        while step := tune(GRID, known, 3).missing:
            known.setdefault(random.choice(step), []).append(0.0)
            for rate in known:
                known[rate] = [valley(bottom)(rate)] * len(known[rate])
        assert tune(GRID, known, 3) == follow(GRID, valley(bottom), 3)
