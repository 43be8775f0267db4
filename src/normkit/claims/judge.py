"""From measurements to what they say of each hypothesis. Pure: no training, no files, no clock."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from normkit.claims import cells, trials
from normkit.claims.cells import UnclearError
from normkit.claims.experiment import UNDEFINED, Condition, Measurement
from normkit.claims.findings import Finding
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.trials import Trial
from normkit.lab.statistics import SIGNIFICANCE, holm, interval

# From so many seeds on the exact sign-flip test can be below 5 %, and a conclusion must pass it, too.
SIGN_FLIP_FROM = 6


def judge(
    hypotheses: Iterable[Hypothesis],
    measurements: Sequence[Measurement],
    families: Sequence[Collection[str]] = (),
) -> dict[str, Finding]:
    """Judge hypotheses by families: those of one that chance could decide share Holm's correction.

    A hypothesis holds or fails if the p of that conclusion, adjusted, is below 5 %, and from 6 seeds on also the exact
    sign-flip test without adjustment; else it is inconclusive. One of which any side was not measured is not run.

    Args:
        hypotheses: the rules.
        measurements: of any experiments, in any order.
        families: ids of hypotheses that are judged together. One that is in several must pass in each; one that is in
            none is judged among all, and makes none of a family harder to decide.

    Returns:
        Hypothesis -> finding.
    """
    found: dict[str, Finding] = {}
    open_trials: dict[str, tuple[Hypothesis, Trial]] = {}
    arms = cells.Arms(measurements)
    for hypothesis in hypotheses:
        sides = _sides(hypothesis)
        own = arms.of(hypothesis, sides)
        chosen = [cells.select(hypothesis, side, own) for side in sides]
        n_diverged = sum(cells.has_no_value(hypothesis, m) for side in chosen for m in side)
        blank = Finding(hypothesis.id, "not run", n_diverged=n_diverged)
        if not all(chosen):
            empty = [cells.describe(side) for side, some in zip(sides, chosen, strict=True) if not some]
            found[hypothesis.id] = replace(blank, reason=f"not measured: {'; '.join(empty)}")
            continue
        try:
            if hypothesis.kind == "exact":
                n_missing = len(cells.missing(hypothesis, sides[0], own))
                found[hypothesis.id] = _exact(hypothesis, chosen[0], n_missing, blank)
            else:
                trial = _trial(hypothesis, own)
                open_trials[hypothesis.id] = (hypothesis, trial)
                found[hypothesis.id] = replace(blank, reason=_doubt(hypothesis, trial, chosen))
        except UnclearError as unclear:
            found[hypothesis.id] = replace(blank, outcome="inconclusive", reason=str(unclear))
    adjusted = _adjusted({id_: trial.p for id_, (_, trial) in open_trials.items()}, families)
    for id_, (hypothesis, trial) in open_trials.items():
        found[id_] = _settled(hypothesis, trial, *adjusted[id_], found[id_])
    return found


def _adjusted(p: Mapping[str, float], families: Sequence[Collection[str]]) -> dict[str, tuple[float, int]]:
    """Each hypothesis' p by Holm's method in the family that is hardest on it, and how many are in that."""
    in_none = {id_ for id_ in p if not any(id_ in family for family in families)}
    found: dict[str, tuple[float, int]] = {}
    for members, asked in (*((family, family) for family in families), (p.keys(), in_none)):
        own = [id_ for id_ in p if id_ in members]
        for id_, adjusted in zip(own, holm([p[id_] for id_ in own]), strict=True):
            if id_ in asked:
                found[id_] = max(found.get(id_, (0.0, 0)), (adjusted, len(own)))
    return found


def _sides(hypothesis: Hypothesis) -> list[dict[str, Condition]]:
    """The conditions that choose measurements; a kind that compares has two or four."""
    n = {"difference": 2, "equivalence": 2, "interaction": 4, "no interaction": 4}.get(hypothesis.kind, 1)
    sides = (hypothesis.these, hypothesis.those, hypothesis.these_without, hypothesis.those_without)
    return [dict(side) for side in sides[:n]]


def _exact(hypothesis: Hypothesis, chosen: Sequence[Measurement], n_missing: int, blank: Finding) -> Finding:
    """Holds if the largest error is below the margin; else the measurement that has it is the counterexample.

    What is not a number is one only where there is no other, and no search holds of which a part is missing.
    """
    errors = [(m, _error(hypothesis, m)) for m in chosen]
    worst, error = max(errors, key=lambda pair: pair[1])
    if error < hypothesis.margin:
        blank = replace(blank, effect=error, n=len(chosen))
        if n_missing:
            return replace(blank, outcome="inconclusive", reason=f"{n_missing} of the search were not measured")
        return replace(blank, outcome="holds")
    if numbers := [pair for pair in errors if hypothesis.margin <= pair[1] < math.inf]:
        worst, error = max(numbers, key=lambda pair: pair[1])
    where = ", ".join((*(f"{name}={value}" for name, value in worst.conditions), f"seed {worst.seed}"))
    words = f"not finite at {where}" if math.isinf(error) else f"off by {error:.3g} at {where}"
    return replace(
        blank,
        outcome="fails",
        effect=None if math.isinf(error) else error,
        n=len(chosen),
        reason=". ".join(filter(None, (words, worst.message))),
    )


def _error(hypothesis: Hypothesis, measurement: Measurement) -> float:
    """What is not a number is as far off as can be, whatever the rule says of runs that diverge."""
    if measurement.status == "diverged":
        return math.inf
    error = cells.value(replace(hypothesis, diverged_as=math.inf), measurement)
    return error if abs(error) < UNDEFINED else math.inf


def _trial(hypothesis: Hypothesis, measurements: Sequence[Measurement]) -> Trial:
    is_ratio = hypothesis.scale == "ratio"
    margin = math.log1p(hypothesis.margin) if is_ratio else hypothesis.margin
    match hypothesis.kind:
        case "trend":
            lines = cells.curves(hypothesis, hypothesis.these, measurements)
            return trials.rises([[y for _, y in line] for line in lines.values()])
        case "slope":
            lines = cells.curves(hypothesis, hypothesis.these, measurements)
            slopes = [trials.log_slope(line) - hypothesis.target for line in lines.values()]
            return trials.within(slopes, margin)
        case "value":
            found = cells.by_seed(hypothesis, hypothesis.these, measurements)
            return trials.within([value - hypothesis.target for _, value in sorted(found.items())], margin)
    here = _gaps(hypothesis, measurements, without=False, is_ratio=is_ratio)
    if hypothesis.kind in ("interaction", "no interaction"):
        there = _gaps(hypothesis, measurements, without=True, is_ratio=is_ratio)
        here = trials.differences(here, there, is_ratio=False)
    values = [gap for _, gap in sorted(here.items())]
    return trials.within(values, margin) if hypothesis.is_likeness else trials.exceeds(values, margin)


def _gaps(
    hypothesis: Hypothesis, measurements: Sequence[Measurement], *, without: bool, is_ratio: bool
) -> dict[int, float]:
    """Seed -> these minus those."""
    sides = (hypothesis.these_without, hypothesis.those_without) if without else (hypothesis.these, hypothesis.those)
    these, those = (cells.by_seed(hypothesis, side, measurements) for side in sides)
    return trials.differences(these, those, is_ratio=is_ratio)


def _doubt(hypothesis: Hypothesis, trial: Trial, sides: Sequence[Sequence[Measurement]]) -> str:
    """Why a conclusion could turn in a better set-up: another learning rate, or one in which both sides learn; else "".

    Of two sides, a winner that does better would only win by more.
    """
    high_is_worse = cells.is_worse_where_higher(hypothesis.metric)
    if hypothesis.kind == "difference" and high_is_worse is not None:
        these_lose = (trial.conclusion == "holds") == high_is_worse
        sides = sides[:1] if these_lose else sides[1:]
    if any(map(cells.untuned, sides)):
        return "the best learning rate of a side lies at the edge of those tried, where it may do better"
    if not hypothesis.is_about_learning and any(map(cells.never_learned, sides)):
        return "a side learned nothing: most of its runs stayed near chance, which may be the set-up's doing"
    return ""


@dataclass(frozen=True)
class _Bounds:
    low: float | None
    high: float | None


def _settled(hypothesis: Hypothesis, trial: Trial, p_adjusted: float, n_judged: int, blank: Finding) -> Finding:
    """What a trial comes to among the others."""
    locked = trial.n >= SIGN_FLIP_FROM and trial.p_sign_flip is not None and trial.p_sign_flip >= SIGNIFICANCE
    is_decided = p_adjusted < SIGNIFICANCE and not locked and not blank.reason
    level = SIGNIFICANCE * (trial.p / p_adjusted if p_adjusted > 0 else 1 / n_judged)
    offset = hypothesis.target if hypothesis.kind in ("slope", "value") else 0.0
    plain, adjusted = _bounds(hypothesis, trial, SIGNIFICANCE, offset), _bounds(hypothesis, trial, level, offset)
    return replace(
        blank,
        outcome=trial.conclusion if is_decided else "inconclusive",
        effect=None if trial.effect is None else _in_unit(hypothesis, trial.effect + offset),
        low=plain.low,
        high=plain.high,
        adjusted_low=adjusted.low,
        adjusted_high=adjusted.high,
        n=trial.n,
        p=trial.p,
        p_adjusted=p_adjusted,
        p_sign_flip=trial.p_sign_flip,
        values=tuple(v for v in (_in_unit(hypothesis, value + offset) for value in trial.values) if v is not None),
        reason="" if is_decided else blank.reason or _why_open(trial, p_adjusted),
    )


def _bounds(hypothesis: Hypothesis, trial: Trial, level: float, offset: float) -> _Bounds:
    found = interval(trial.values, 1 - level) if trial.values else None
    if found is None or found.low is None or found.high is None:
        return _Bounds(None, None)
    return _Bounds(_in_unit(hypothesis, found.low + offset), _in_unit(hypothesis, found.high + offset))


def _in_unit(hypothesis: Hypothesis, value: float) -> float | None:
    """A ratio as a factor - 1, as its margin is; None where that is beyond all numbers."""
    if hypothesis.scale == "plain":
        return value
    return math.expm1(value) if value < 700 else None


def _why_open(trial: Trial, p_adjusted: float) -> str:
    if trial.p >= SIGNIFICANCE:
        return "the interval holds both sides of the margin"
    if p_adjusted >= SIGNIFICANCE:
        return "decided alone, but not among so many hypotheses"
    return "the t-test decides, the exact sign-flip test does not"
