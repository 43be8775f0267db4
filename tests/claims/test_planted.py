"""A layer with a bug: some claim that held does not hold any more."""

from __future__ import annotations

import pytest

from claims.planted_bugs import PLANTED_BUGS, exact_measurements
from normkit.claims.experiment import Measurement
from normkit.claims.logic import names
from normkit.claims.register import register
from normkit.claims.rulebook import rulebook
from normkit.claims.verdicts import decide

EXACT = {"E01", "E02", "E03", "E26", "E27"}
# Claims that exact experiments alone decide.
CLAIMS = [
    claim
    for claim in register().values()
    if claim.conditions and {id_[:3] for rule in claim.conditions for id_ in names(rule.expression)} <= EXACT
]


def evidence(measurements: list[Measurement]) -> dict[str, str]:
    verdicts, _ = decide(CLAIMS, rulebook(), measurements)
    return {verdict.claim.id: verdict.evidence for verdict in verdicts}


@pytest.fixture(scope="module")
def ours() -> dict[str, str]:
    return evidence(exact_measurements())


def test_every_exact_claim_is_decided(ours: dict[str, str]) -> None:
    assert len(CLAIMS) >= 20
    assert set(ours.values()) == {"holds", "fails", "depends"}
    assert {id_ for id_, verdict in ours.items() if verdict == "fails"} == {"001-03", "001-04", "001-05", "001-09"}


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_a_planted_bug_changes_a_verdict(bug: str, ours: dict[str, str]) -> None:
    found = evidence(exact_measurements(PLANTED_BUGS[bug]))
    broken = [id_ for id_, verdict in found.items() if verdict == "fails" and ours[id_] in ("holds", "depends")]
    assert broken or [id_ for id_ in found if (ours[id_], found[id_]) == ("holds", "depends")], bug
