"""What the learning page says rests on claims that exist, and on evidence that came out as it says."""

from __future__ import annotations

import math

import pytest

from normkit.claims import shipped
from normkit.claims.findings import Finding
from normkit.claims.logic import names
from normkit.claims.register import register
from normkit.study import content, examples
from normkit.study.content import Question, Said
from normkit.study.view import findings


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    return findings(shipped())


@pytest.mark.parametrize(
    "said", content.everything_said(), ids=lambda said: said.id if isinstance(said, Question) else said.text[:30]
)
def test_every_sentence_rests_on_hypotheses_of_its_claims_that_came_out_as_it_says(
    said: Said | Question, found: dict[str, Finding]
) -> None:
    assert said.claims
    assert said.expects
    assert {id_: found[id_].outcome for id_, _ in said.expects} == dict(said.expects)
    deciding = {
        id_: {name[:3] for rule in register()[id_].conditions for name in names(rule.expression)} for id_ in said.claims
    }
    assert {id_[:3] for id_, _ in said.expects} <= set().union(*deciding.values())
    # A claim that nothing of what is said rests on is decoration; one for the literature alone cannot be rested on.
    assert all(experiments & {id_[:3] for id_, _ in said.expects} for experiments in deciding.values() if experiments)


@pytest.mark.parametrize("question", content.QUESTIONS, ids=lambda question: question.id)
def test_every_question_has_one_right_answer(question: Question) -> None:
    assert len(set(question.options)) == len(question.options) >= 2
    assert 0 <= question.right < len(question.options)


def test_numbers_in_answers_are_those_of_the_runs(found: dict[str, Finding]) -> None:
    factor, layers = found["E14-H1"], found["E14-H6"]
    assert factor.low is not None
    assert factor.high is not None
    assert layers.high is not None
    assert 1.20 < factor.low < factor.high < 1.22  # "about 1.21"
    assert layers.high < 29 * math.log10(0.5)  # "shrinks by more than half at every layer", from the 30th to the 1st


@pytest.mark.parametrize("hypothesis", ["E18-H20"])
def test_the_transformers_in_which_batch_norm_is_said_to_be_better(found: dict[str, Finding], hypothesis: str) -> None:
    high = found[hypothesis].high
    assert high is not None
    assert high < 0  # "fails" alone could mean that the two are alike


def test_the_right_answers_do_not_stand_in_one_place() -> None:
    assert len({question.right for question in content.QUESTIONS}) >= 3


def test_example_tensors_have_the_sizes_of_their_shapes() -> None:
    for shape, values in examples.tensors().items():
        n, p, c = examples.SIZES[shape]
        assert len(values) == n * p * c
        assert all(round(value, 1) == value for value in values)
        assert len(set(values)) > len(values) / 3


def test_the_feature_is_real() -> None:
    values = examples.feature()
    assert len(values) == 1797
    assert {min(values), max(values)} == {0, 16}
