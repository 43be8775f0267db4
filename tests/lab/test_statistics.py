"""Intervals and tests against scipy's own and against enumeration; winners and ties on known data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normkit.errors import ArgumentError
from normkit.lab.comparison import Interval
from normkit.lab.statistics import contest, holm, interval, paired_differences, sign_flip_test, t_test

SAMPLES = [[0.3, 0.5], [1.0, 1.1, 0.7, 0.9, 1.3], list(np.random.default_rng(0).normal(3.0, 0.2, 12))]


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_interval_is_student_t(values: list[float]) -> None:
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    found = interval(values)
    assert found is not None
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_interval_of_one_value_has_no_bounds() -> None:
    assert interval([2.0]) == Interval(2.0, None, None, 1)


def test_interval_of_nothing_is_none() -> None:
    assert interval([]) is None
    assert interval([math.nan, math.inf]) is None


def test_interval_leaves_non_finite_values_out() -> None:
    assert interval([1.0, math.inf, 3.0, math.nan]) == interval([1.0, 3.0])


def test_interval_of_equal_values_has_no_width() -> None:
    assert interval([0.1] * 5) == Interval(0.1, 0.1, 0.1, 5)


def test_interval_holds_its_mean_in_95_of_100_samples_of_five() -> None:
    rng = np.random.default_rng(1)
    found = [interval(list(rng.normal(2.0, 1.0, 5))) for _ in range(4000)]
    held = [i is not None and i.low is not None and i.high is not None and i.low <= 2.0 <= i.high for i in found]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_differences_of_rounding_are_none() -> None:
    assert paired_differences([0.1 + 0.2, 1.0], [0.3, 0.5]) == [0.0, 0.5]


def test_differences_need_pairs() -> None:
    with pytest.raises(ArgumentError, match="got 2 and 1; pass the values of the same seeds"):
        paired_differences([1.0, 2.0], [1.0])


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_t_test_is_scipy_s(values: list[float]) -> None:
    differences = [value - 0.8 for value in values]
    assert t_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], None),
        ([0.5], None),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.5, 0.5, 0.5], 0.0),
        ([0.1, 0.1 + 1e-17, 0.1], 0.0),
        ([1.0, -1.0], 1.0),
    ],
    ids=["none", "one", "zeros", "constant", "constant-but-for-rounding", "mean-zero"],
)
def test_t_test_without_spread(differences: list[float], p: float | None) -> None:
    assert t_test(differences) == p


@settings(deadline=None)  # time is not what is tested, and other tests run beside it
@given(st.lists(st.integers(-320, 320).map(lambda i: i / 64), min_size=2, max_size=7))
def test_sign_flips_are_enumerated(differences: list[float]) -> None:
    # Multiples of 1/64 add without rounding, so that the count below is exact.
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_test(differences) == np.mean([s >= abs(sum(differences)) for s in sums])


def test_sign_flips_that_differ_by_rounding_count_as_equal() -> None:
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0  # the sum is 5.6e-17, not 0


def test_sign_flip_test_cannot_be_smaller_than_two_flips() -> None:
    assert sign_flip_test([1.0] * 5) == 2 / 2**5
    assert sign_flip_test([1.0] * 12) == 2 / 2**12


def test_sign_flip_test_gives_up_beyond_twenty() -> None:
    assert sign_flip_test([1.0] * 21) is None
    assert sign_flip_test([1.0]) is None


def test_holm_against_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_or_none() -> None:
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@settings(deadline=None)  # time is not what is tested, and other tests run beside it
@given(st.lists(st.floats(0, 1), max_size=10))
def test_holm_is_between_raw_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, new in zip(p_values, adjusted, strict=True):
        assert raw <= new <= min(1.0, len(p_values) * raw)
    in_order = [new for _, new in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)


def losses(seed: int, means: dict[str, float], spread: float = 0.02, n: int = 5) -> dict[str, list[float]]:
    """Norms that share what a seed does and differ by their mean and a little noise each."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.3, n)
    return {norm: list(mean + shared + rng.normal(0, spread, n)) for norm, mean in means.items()}


def test_a_clear_winner_wins_alone() -> None:
    found = contest(losses(0, {"none": 0.9, "layer": 0.2, "batch": 0.6}))
    assert found is not None
    assert found.best == "layer"
    assert found.winners == ("layer",)
    assert set(found.versus_best) == {"none", "batch"}
    none = found.versus_best["none"]
    assert none.difference.mean == pytest.approx(0.7, abs=0.05)
    assert none.difference.low is not None
    assert none.difference.low > 0.6
    assert none.p_adjusted < 0.001
    assert none.p_sign_flip == 2 / 2**5


def test_pairing_sees_what_the_seeds_hide() -> None:
    # The seeds differ by 0.3, the norms by 0.1: unpaired, no test of five would tell them apart.
    values = losses(3, {"layer": 0.2, "batch": 0.3})
    assert stats.ttest_ind(values["layer"], values["batch"]).pvalue > 0.3
    found = contest(values)
    assert found is not None
    assert found.winners == ("layer",)


def test_equals_tie_in_the_order_they_came() -> None:
    found = contest(losses(1, {"none": 0.9, "rms": 0.2, "layer": 0.2}))
    assert found is not None
    assert found.winners == ("rms", "layer")


def test_identical_arms_tie_exactly() -> None:
    values = losses(2, {"a": 0.5})["a"]
    found = contest({"a": values, "b": list(values), "c": list(values)})
    assert found is not None
    assert found.winners == ("a", "b", "c")
    assert found.versus_best["b"].p_adjusted == 1.0
    assert found.versus_best["b"].difference == Interval(0.0, 0.0, 0.0, 5)


def test_a_constant_difference_is_no_tie() -> None:
    values = [0.5, 0.25, 0.75]
    found = contest({"a": [v + 0.125 for v in values], "b": values})
    assert found is not None
    assert found.winners == ("b",)
    assert found.versus_best["a"].p_adjusted == 0.0


def test_one_seed_decides_nothing() -> None:
    found = contest({"a": [1.0], "b": [0.1]})
    assert found is not None
    assert (found.best, found.winners) == ("b", ("a", "b"))
    assert found.versus_best["a"].difference == Interval(0.9, None, None, 1)


def test_alone_or_nobody() -> None:
    alone = contest({"a": [1.0, 2.0]})
    assert alone is not None
    assert (alone.best, alone.winners, dict(alone.versus_best)) == ("a", ("a",), {})
    assert contest({}) is None


def test_equal_norms_are_rarely_told_apart() -> None:
    """The A/A check: of cells with five equal norms, at most 5 % may call any of them worse."""
    names = dict.fromkeys("abcde", 0.5)
    alarms = 0
    for seed in range(400):
        found = contest(losses(seed, names))
        assert found is not None
        alarms += len(found.winners) < 5
    assert alarms <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
