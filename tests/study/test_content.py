"""What the learning page says rests on claims that exist, and on evidence that came out as it says."""

from __future__ import annotations

import pytest

from normkit.claims.register import register
from normkit.study import content, examples
from normkit.study.content import Question

EVERYTHING_SAID = [
    *content.FACTS,
    *(said for row in content.TABLE for said in (row.batch, row.layer)),
]


@pytest.mark.parametrize("said", EVERYTHING_SAID, ids=lambda said: said.text[:30])
def test_every_sentence_rests_on_claims_of_the_register(said: content.Said) -> None:
    assert said.claims
    assert set(said.claims) <= register().keys()


@pytest.mark.parametrize("question", content.QUESTIONS, ids=lambda question: question.id)
def test_every_question_has_one_right_answer_and_rests_on_claims(question: Question) -> None:
    assert len(set(question.options)) == len(question.options) >= 2
    assert 0 <= question.right < len(question.options)
    assert question.claims
    assert {*question.claims, *(claim for claim, _ in question.expects)} <= register().keys()


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
