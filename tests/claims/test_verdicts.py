"""Verdicts from findings: what holds, what fails, on what it depends and where it turns."""

from __future__ import annotations

import math

import pytest

from claims.made_up import arm, noise, rule
from normkit.claims.claim import Claim, ConditionRule, Document
from normkit.claims.experiment import UNDEFINED, Measurement
from normkit.claims.verdicts import decide

NAN = math.nan
BATCHES = (2, 4, 16, 50)


def claim(*conditions: ConditionRule) -> Claim:
    document = Document("made-up", "000", "Made up", "nobody")
    return Claim("000-01", document, "LayerNorm wins.", "empirical", "right", "", "contested", "", (), conditions)


BY_BATCH = claim(*(ConditionRule(f"batch size {b}", f"E05-B{b}", "batch size", b) for b in BATCHES))
RULES = {
    f"E05-B{b}": rule(
        id=f"E05-B{b}", margin=0.0, these={"norm": "batch", "batch": b}, those={"norm": "layer", "batch": b}
    )
    for b in BATCHES
}


def measured(gaps: dict[int, float], n: int = 12) -> list[Measurement]:
    """At each batch size BatchNorm's error is that much above LayerNorm's."""
    found = []
    for b, gap in gaps.items():
        found += arm([gap + 0.1 * e for e in noise(b, n)], norm="batch", batch=b)
        found += arm([0.1 * e for e in noise(b + 1, n)], norm="layer", batch=b)
    return found


def evidence(gaps: dict[int, float], of: Claim = BY_BATCH) -> tuple[str, str]:
    (verdict,), _ = decide([of], RULES, measured(gaps))
    return verdict.evidence, verdict.condition


def test_it_holds_where_every_condition_holds() -> None:
    assert evidence({2: 9, 4: 5, 16: 3, 50: 1}) == ("holds", "")


def test_it_fails_where_every_condition_fails() -> None:
    assert evidence(dict.fromkeys(BATCHES, -3.0))[0] == "fails"


def test_it_depends_and_says_where_it_turns() -> None:
    verdict, condition = evidence({2: 9, 4: 5, 16: -3, 50: -3})
    assert verdict == "depends"
    assert condition == (
        "holds with batch size 2; batch size 4; fails with batch size 16; batch size 50; "
        "it turns at a batch size between 4 and 16"
    )


def test_where_it_turns_is_told_across_what_is_open() -> None:
    verdict, condition = evidence({2: 9, 4: 0, 50: -3})
    assert verdict == "depends"
    assert "inconclusive with batch size 4; not run with batch size 16" in condition
    assert condition.endswith("it turns at a batch size between 2 and 50")


@pytest.mark.parametrize("gone", BATCHES)
def test_no_condition_may_be_missing_for_it_to_hold(gone: int) -> None:
    gaps = {2: 9.0, 4: 5.0, 16: 3.0, 50: 1.0}
    del gaps[gone]
    verdict, condition = evidence(gaps)
    assert verdict == "not run"
    assert f"not run with batch size {gone}" in condition


def test_nothing_is_decided_by_nothing() -> None:
    assert evidence({})[0] == "not run"


def test_a_rule_that_is_not_there_is_not_run() -> None:
    assert evidence({2: 9.0}, claim(ConditionRule("", "E99-H1")))[0] == "not run"


def test_a_claim_for_the_literature_has_no_evidence() -> None:
    verdict, condition = evidence({}, claim())
    assert (verdict, condition) == ("not run", "no experiment can decide it; see the literature")


def test_a_failure_is_told_with_its_counterexample() -> None:
    exact = rule(id="E05-X", kind="exact", metric="gap", these={}, margin=1e-6)
    (verdict,), _ = decide([claim(ConditionRule("", "E05-X"))], {"E05-X": exact}, arm([0.5], "gap", norm="layer"))
    assert (verdict.evidence, verdict.condition) == ("fails", "off by 0.5 at norm=layer, seed 0")


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [([0.5, 0.0], "holds"), ([0.5, NAN], "holds"), ([NAN, 0.0], "inconclusive"), ([UNDEFINED, 0.0], "inconclusive")],
)
def test_that_two_differ_is_not_shown_by_what_is_no_number(errors: list[float], outcome: str) -> None:
    exact = rule(id="E05-X", kind="exact", metric="gap", these={}, margin=1e-6)
    differ = claim(ConditionRule("", "not E05-X"))
    (verdict,), _ = decide([differ], {"E05-X": exact}, arm(errors, "gap", norm="layer"))
    assert verdict.evidence == outcome
    assert verdict.condition.startswith("" if outcome == "holds" else "not finite at norm=layer, seed 0")
    same = claim(ConditionRule("", "E05-X"))
    (verdict,), _ = decide([same], {"E05-X": exact}, arm(errors, "gap", norm="layer"))
    assert verdict.evidence == "fails"


def test_verdicts_are_a_function_of_the_measurements_in_any_order() -> None:
    measurements = measured({2: 9, 4: 5, 16: -3, 50: 0.0})
    assert decide([BY_BATCH], RULES, measurements) == decide([BY_BATCH], RULES, measurements[::-1])
