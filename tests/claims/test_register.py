"""The register: complete, in words of its own, and nothing printed as a fact that nobody has verified."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from normkit.claims import contradictions, register
from normkit.claims.claim import ClaimKind, LiteratureVerdict, TextVerdict
from normkit.claims.experiments import files
from normkit.claims.logic import names
from normkit.claims.register import claim, evidence_hash, pilots
from normkit.claims.rulebook import rulebook, rules_hash
from normkit.claims.verdicts import named
from normkit.errors import ArgumentError

CLAIMS = register()
# No experiment decides who proposed what, or what is in common use.
OF_LITERATURE = {"001-01", "002-07"}


def test_all_59_claims_are_there() -> None:
    assert len(CLAIMS) == 59
    wanted = [f"000-{n:02d}" for n in range(1, 20)] + [f"{d}-{n:02d}" for d in ("001", "002") for n in range(1, 21)]
    assert list(CLAIMS) == wanted


@pytest.mark.parametrize("id_", CLAIMS)
def test_a_claim_is_complete(id_: str) -> None:
    found = CLAIMS[id_]
    assert found.document.number == id_[:3]
    assert found.kind in get_args(ClaimKind)
    assert found.text in get_args(TextVerdict)
    assert found.literature in get_args(LiteratureVerdict)
    for words in (found.statement, found.text_reason, found.literature_reason):
        assert words.endswith("."), words
    assert found.citations
    assert len({rule.name for rule in found.conditions}) == len(found.conditions)
    assert len(found.conditions) < 2 or all(rule.name for rule in found.conditions)


def test_every_claim_but_those_of_literature_names_what_decides_it() -> None:
    assert {id_ for id_, found in CLAIMS.items() if not found.conditions} == OF_LITERATURE


def test_evidence_names_hypotheses_that_exist() -> None:
    named = {h for found in CLAIMS.values() for rule in found.conditions for h in names(rule.expression)}
    assert named - rulebook().keys() == set()


def test_every_experiment_decides_something() -> None:
    """A run measures what claims and pilots ask for, and nothing else."""
    asked = named(rule for claim in register().values() for rule in claim.conditions)
    assert {id_[:3] for id_ in asked} == {rule.experiment for rule in rulebook().values()}


def test_every_rule_has_an_experiment() -> None:
    assert {rule.experiment for rule in rulebook().values()} - files().keys() == set()


def test_a_published_number_is_there_only_where_it_was_verified() -> None:
    for found in CLAIMS.values():
        for citation in found.citations:
            if citation.confidence != "V":
                assert citation.number == ""
                assert not re.search(r"\d", citation.finding), citation.id


def test_a_citation_says_where_it_stands_or_that_nobody_noted_it() -> None:
    assert {citation.id for found in CLAIMS.values() for citation in found.citations if not citation.locator} == set()


def test_pilots_name_hypotheses_that_exist_and_words_that_end() -> None:
    assert len(pilots()) == 5
    for pilot in pilots():
        assert {h for rule in pilot.conditions for h in names(rule.expression)} <= rulebook().keys()
        assert pilot.statement.endswith(".")
        assert pilot.trial.endswith(".")


def test_contradictions_are_between_claims_of_the_register() -> None:
    assert len(contradictions()) == 4
    assert {id_ for pair in contradictions() for id_ in pair.claims} <= CLAIMS.keys()


@pytest.mark.parametrize(
    ("typed", "meant"), [("001-3", "001-03"), ("01-03", "001-03"), ("001_03", "001-03"), ("002-21", "002-20")]
)
def test_an_unknown_claim_names_near_ones(typed: str, meant: str) -> None:
    with pytest.raises(ArgumentError, match=f"got '{typed}'; did you mean .*{meant}"):
        claim(typed)


def test_hashes_are_of_content() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", rules_hash())
    assert re.fullmatch(r"[0-9a-f]{64}", evidence_hash())
    assert rules_hash("E01") != rules_hash("E02")
