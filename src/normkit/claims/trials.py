"""The tests behind the judge: from numbers, one a seed, to a conclusion and how easily chance alone gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normkit.claims.cells import UnclearError
from normkit.lab.statistics import sign_flip_test, t_test

# With fewer seeds a mean decides nothing, however alike they are.
FEWEST_SEEDS = 5

# Places of a trend whose orders are counted one by one: 8! = 40,320.
_MOST_PLACES = 8


@dataclass(frozen=True)
class Trial:
    """A conclusion and its p; what the judge makes of it depends on all the others.

    Attributes:
        conclusion: the one that lies nearer.
        p: at most so often would chance give it, were the opposite true.
        p_sign_flip: the same, exact and free of assumptions; None where it cannot be had.
        effect: the mean, or the median where a run diverged; None if that is infinite.
        values: what the interval is of; empty where there is none.
    """

    conclusion: Literal["holds", "fails"]
    p: float
    p_sign_flip: float | None
    effect: float | None
    values: tuple[float, ...]
    n: int


def exceeds(values: Sequence[float], margin: float) -> Trial:
    """Whether the mean exceeds the margin: two-sided paired t-test of the mean against it.

    Where a run diverged its value is infinite, and ranks take the place of values: the exact sign-flip test of the
    signed ranks (Wilcoxon's), in which what is infinite ranks highest.
    """
    _check_number(values)
    if not all(map(math.isfinite, values)):
        return _exceeds_by_rank(values, margin)
    shifted = [_apart(value, margin) for value in values]
    mean = math.fsum(shifted) / len(shifted)
    return Trial(
        conclusion="holds" if mean > 0 else "fails",
        p=_p(shifted),
        p_sign_flip=sign_flip_test(shifted),
        effect=math.fsum(values) / len(values),
        values=tuple(values),
        n=len(values),
    )


def within(values: Sequence[float], margin: float) -> Trial:
    """Whether the mean lies within the margin of 0, either way: two one-sided t-tests (Schuirmann 1987).

    It fails if the mean lies outside: two-sided t-test against the nearer bound.
    """
    _check_number(values)
    if not all(map(math.isfinite, values)):
        raise UnclearError("a run diverged, which is within no margin and outside of none")
    above = [_apart(value, -margin) for value in values]  # all positive if within
    below = [_apart(margin, value) for value in values]
    mean = math.fsum(values) / len(values)
    if abs(mean) < margin:
        p, flip = max(_one_sided(above), _one_sided(below)), max(_one_sided_flip(above), _one_sided_flip(below))
        return Trial("holds", p, flip, mean, tuple(values), len(values))
    nearer = below if mean > 0 else above
    return Trial("fails", _p(nearer), sign_flip_test(nearer), mean, tuple(values), len(values))


def rises(lines: Sequence[Sequence[float]]) -> Trial:
    """Whether values rise along the places: mean of Spearman's rank correlation, one for each seed.

    Its p is exact: among all orders of the places, each as likely, in each seed on its own.

    Args:
        lines: for each seed its values, in the order of the places; infinite where a run diverged.
    """
    n_places = len(lines[0]) if lines else 0
    if n_places < 3:
        raise UnclearError(f"{n_places} places along the way are too few for a trend; it takes 3")
    if n_places > _MOST_PLACES:
        raise UnclearError(f"{n_places} places along the way are more than the {_MOST_PLACES} that are counted")
    correlations = [_spearman(line) for line in lines]
    scale = n_places * (n_places**2 - 1) / 6  # the sum of squared differences of ranks is scale * (1 - correlation)
    observed = math.fsum(scale * (1 - rho) for rho in correlations)
    chances = _sums(n_places, len(lines))
    sums = np.arange(chances.size)
    as_low, as_high = chances[sums <= observed + 1e-6].sum(), chances[sums >= observed - 1e-6].sum()
    mean = math.fsum(correlations) / len(correlations)
    return Trial(
        conclusion="holds" if mean > 0 else "fails",
        p=float(min(1.0, 2 * min(as_low, as_high))),
        p_sign_flip=None,
        effect=mean,
        values=tuple(correlations),
        n=len(lines),
    )


def log_slope(line: Sequence[tuple[float, float]]) -> float:
    """Slope of log value against log place, by least squares."""
    if len(line) < 3 or min(min(pair) for pair in line) <= 0 or not all(math.isfinite(v) for _, v in line):
        raise UnclearError("a slope takes 3 places, and places and values above 0")
    x, y = np.log(np.asarray(line, dtype=np.float64)).T
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def differences(these: Mapping[int, float], those: Mapping[int, float], *, is_ratio: bool) -> dict[int, float]:
    """Seed -> these minus those, of the seeds that both have; of logarithms for a ratio."""
    return {seed: _difference(these[seed], those[seed], is_ratio) for seed in sorted(these.keys() & those.keys())}


def _difference(one: float, other: float, is_ratio: bool) -> float:
    if not is_ratio:
        return _apart(one, other)
    if min(one, other) <= 0:
        raise UnclearError("a ratio takes values above 0")
    return _apart(math.log(one), math.log(other))


def _apart(one: float, other: float) -> float:
    """The difference; 0 where it is rounding alone, and of two runs that both diverged."""
    if one == other or abs(one - other) <= 2.0**-49 * max(abs(one), abs(other)) < math.inf:
        return 0.0
    return one - other


def _exceeds_by_rank(values: Sequence[float], margin: float) -> Trial:
    shifted = [_apart(value, margin) for value in values]
    ranks = _midranks([abs(value) for value in shifted])
    signed = [math.copysign(rank, value) if value else 0.0 for rank, value in zip(ranks, shifted, strict=True)]
    p = sign_flip_test(signed)
    middle = median(values)
    return Trial(
        conclusion="holds" if math.fsum(signed) > 0 else "fails",
        p=1.0 if p is None else p,
        p_sign_flip=p,
        effect=middle if math.isfinite(middle) else None,
        values=(),
        n=len(values),
    )


def _check_number(values: Sequence[float]) -> None:
    if len(values) < FEWEST_SEEDS:
        raise UnclearError(f"{len(values)} seeds decide nothing; it takes {FEWEST_SEEDS}")


def _p(values: Sequence[float]) -> float:
    p = t_test(values)
    assert p is not None
    return p


def _one_sided(values: Sequence[float]) -> float:
    """p of "the mean is not above 0"."""
    p = _p(values)
    return p / 2 if math.fsum(values) > 0 else 1 - p / 2


def _one_sided_flip(values: Sequence[float]) -> float:
    p = sign_flip_test(values)
    if p is None:
        return _one_sided(values)
    return p / 2 if math.fsum(values) > 0 else 1 - p / 2


def _spearman(line: Sequence[float]) -> float:
    """Rank correlation of values with their places; 0 where all are equal."""
    ranks = np.asarray(_midranks(line))
    places = np.arange(1, ranks.size + 1, dtype=np.float64)
    a, b = ranks - ranks.mean(), places - places.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else 0.0


def _midranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties in the middle."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


@cache
def _sums(n_places: int, n_seeds: int) -> NDArray[np.float64]:
    """How likely each sum over the seeds of squared differences of ranks is, if every order is as likely."""
    orders = np.array(list(permutations(range(n_places))))
    one = np.bincount(((orders - np.arange(n_places)) ** 2).sum(1)).astype(np.float64) / len(orders)
    total = one
    for _ in range(n_seeds - 1):
        total = np.convolve(total, one)
    return total
