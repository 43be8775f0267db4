"""The whole register where every norm is alike: nothing may be found that only a difference could give.

The records that come with the package are made alike: every arm of an experiment gets values drawn from those of one of
its arms. What is true of each hypothesis is then known, and so what is true of each condition of each claim.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from normkit.claims import register, shipped
from normkit.claims.experiment import Condition, Measurement
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.logic import Outcome, evaluate, names
from normkit.claims.rulebook import rulebook
from normkit.claims.verdicts import decide
from normkit.lab.statistics import SIGNIFICANCE

RUNS = 300
# With no more of these runs in error the rate is below 5 %, with 95 % confidence (Clopper and Pearson).
ALLOWED = 8
# Of each arm; the shipped runs have 12, which takes longer and comes to the same.
SEEDS = 8
FAR = 8  # standard deviations
CLAIMS = tuple(claim for claim in register().values() if claim.conditions)
NAMED = tuple(dict.fromkeys(id_ for claim in CLAIMS for rule in claim.conditions for id_ in names(rule.expression)))
RULES = {id_: rulebook()[id_] for id_ in NAMED}
Arm = tuple[str, tuple[tuple[str, Condition], ...]]


def sides(rule: Hypothesis) -> list[Mapping[str, Condition]]:
    both = [rule.these, rule.those] if rule.kind in ("difference", "equivalence") else [rule.these]
    return both if "interaction" not in rule.kind else [rule.these, rule.those, rule.these_without, rule.those_without]


def meets(measurement: Measurement, rule: Hypothesis, side: Mapping[str, Condition]) -> bool:
    return measurement.experiment == rule.experiment and side.items() <= dict(measurement.conditions).items()


@cache
def of_chance(experiment: str) -> frozenset[str]:
    """The metrics of an experiment that rules other than exact ones ask for."""
    rules = [rule for rule in RULES.values() if rule.experiment == experiment and rule.kind != "exact"]
    return frozenset(rule.metric.removeprefix("-") for rule in rules)


@cache
def arms() -> dict[Arm, tuple[Measurement, ...]]:
    """The arms that those rules ask for; none with the mark of a search that ended at its edge."""
    asked = [(rule, side) for rule in RULES.values() if rule.kind != "exact" for side in sides(rule)]
    found: dict[Arm, list[Measurement]] = defaultdict(list)
    for m in shipped().measurements:
        if any(meets(m, rule, side) for rule, side in asked):
            metrics = {name: value for name, value in m.metrics.items() if name != "tuning_incomplete"}
            found[m.experiment, m.conditions].append(replace(m, metrics=metrics, series={}))
    return {arm: tuple(measured[:SEEDS]) for arm, measured in found.items()}


@cache
def exact() -> tuple[Measurement, ...]:
    """What no chance decides, as it was measured."""
    asked = [rule for rule in RULES.values() if rule.kind == "exact"]
    others = [m for m in shipped().measurements if (m.experiment, m.conditions) not in arms()]
    return tuple(m for m in others if any(meets(m, rule, rule.these) for rule in asked))


@cache
def source(experiment: str, metrics: frozenset[str]) -> tuple[Measurement, ...]:
    """The arm from which all of an experiment that have these metrics get their values: the first that varies."""
    whole = [
        measured
        for (e, _), measured in arms().items()
        if e == experiment and all(m.metrics.keys() >= metrics for m in measured)
    ]
    return next((arm for arm in whole if all(len({m.metrics[n] for m in arm}) > 1 for n in metrics)), whole[0])


@cache
def pool_of(arm: Arm) -> tuple[tuple[Measurement, ...], frozenset[str]]:
    experiment, _ = arm
    metrics = of_chance(experiment).intersection(next(m.metrics for m in arms()[arm] if m.metrics))
    return source(experiment, metrics), metrics


def alike(run: int) -> list[Measurement]:
    """Records in which all arms are alike, each from draws of its own; what is exact stays as it is."""
    rng = np.random.default_rng(run)
    found = []
    for arm, measured in arms().items():
        pool, metrics = pool_of(arm)
        for m, place in zip(measured, rng.integers(len(pool), size=len(measured)), strict=True):
            drawn = {name: pool[place].metrics[name] for name in metrics}
            found.append(replace(m, status="done", metrics={**m.metrics, **drawn}))
    return found


@cache
def truths() -> dict[str, Outcome]:
    """What is true of each hypothesis where all are alike; "inconclusive" where neither it nor its opposite is."""
    _, findings = decide(CLAIMS, RULES, [*alike(0), *exact()])
    return {id_: findings[id_].outcome if rule.kind == "exact" else truth(rule) for id_, rule in RULES.items()}


def truth(rule: Hypothesis) -> Outcome:
    match rule.kind:
        case "equivalence" | "no interaction":
            return "holds"
        case "slope":
            return "holds" if abs(rule.target) < rule.margin else "fails"
        case "value":
            pool, _ = pool_of(next(arm for arm, measured in arms().items() if meets(measured[0], rule, rule.these)))
            return "holds" if abs(fmean(m.metrics[rule.metric] for m in pool) - rule.target) < rule.margin else "fails"
    return "fails" if rule.margin > 0 and rule.kind != "trend" else "inconclusive"


def errors(measurements: list[Measurement]) -> Iterator[str]:
    """The conditions of claims of which is said what is not so."""
    verdicts, _ = decide(CLAIMS, RULES, [*measurements, *exact()])
    for verdict in verdicts:
        for rule, found in zip(verdict.claim.conditions, verdict.conditions, strict=True):
            assert found.outcome != "not run"
            if found.outcome != "inconclusive" and found.outcome != evaluate(rule.expression, truths()):
                yield f"{verdict.claim.id}, {rule.name}: {found.outcome}"


def test_where_all_are_alike_nothing_is_found_beyond_the_stated_rate() -> None:
    limit = stats.binomtest(ALLOWED, RUNS).proportion_ci(0.9, "exact").high  # one-sided 95 %
    assert limit < SIGNIFICANCE
    wrong = {run: found for run in range(RUNS) if (found := list(errors(alike(run))))}
    assert len(wrong) <= ALLOWED, wrong


def test_without_correction_that_test_would_find_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["normkit.claims.judge"], "holm", list)
    assert sum(any(errors(alike(run))) for run in range(20)) > 2


def test_a_planted_difference_is_found_in_every_experiment() -> None:
    """Of each experiment its first difference with a margin, far beyond it; all in one world."""
    planted = {
        rule.experiment: rule for rule in reversed(RULES.values()) if rule.kind == "difference" and rule.margin > 0
    }
    assert len(planted) > 12
    measurements = [shifted(m, planted.values()) for m in alike(0)]
    verdicts, findings = decide(CLAIMS, RULES, [*measurements, *exact()])
    outcomes = {rule.id: findings[rule.id].outcome for rule in planted.values()}
    assert outcomes == dict.fromkeys(outcomes, "holds")
    shown = {c.outcome for v in verdicts for c in v.conditions if c.hypotheses in {(id_,) for id_ in outcomes}}
    assert shown <= {"holds", "fails"}  # of a "not" it fails


def shifted(measurement: Measurement, planted: Collection[Hypothesis]) -> Measurement:
    for rule in planted:
        if meets(measurement, rule, rule.these):
            pool, _ = pool_of((measurement.experiment, measurement.conditions))
            pooled = [m.metrics[rule.metric] for m in pool]
            value = measurement.metrics[rule.metric]
            more = (
                value * (1 + rule.margin) * math.exp(FAR * float(np.std(np.log(pooled))))
                if rule.scale == "ratio"
                else value + 2 * rule.margin + FAR * float(np.std(pooled))
            )
            return replace(measurement, metrics={**measurement.metrics, rule.metric: more})
    return measurement
