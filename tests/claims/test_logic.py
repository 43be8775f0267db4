"""Expressions over what holds, fails and is not known."""

from __future__ import annotations

from itertools import product

import pytest

from normkit.claims.logic import Outcome, evaluate, names
from normkit.errors import ArgumentError

OUTCOMES: tuple[Outcome, ...] = ("holds", "fails", "inconclusive", "not run")
TRUTH = {"holds": True, "fails": False}


@pytest.mark.parametrize("expression", ["E01-A and E01-B", "E01-A or E01-B", "not E01-A or not (E01-A and E01-B)"])
def test_what_is_said_is_true_however_the_unknown_turns_out(expression: str) -> None:
    """Kleene's logic: "holds" only if every completion is true; and where all are known, it is Python's own."""
    python = expression.replace("E01-A", "a").replace("E01-B", "b")
    for one, other in product(OUTCOMES, repeat=2):
        found = evaluate(expression, {"E01-A": one, "E01-B": other})
        completions = {
            bool(eval(python, {"a": a, "b": b}))
            for a in ([TRUTH[one]] if one in TRUTH else [True, False])
            for b in ([TRUTH[other]] if other in TRUTH else [True, False])
        }
        if found in TRUTH:
            assert completions == {TRUTH[found]}
        elif {one, other} <= set(TRUTH):
            pytest.fail(f"{expression} is {found} though all is known")


def test_what_was_not_run_is_told_before_what_does_not_decide() -> None:
    assert evaluate("E01-A and E01-B", {"E01-A": "inconclusive", "E01-B": "not run"}) == "not run"
    assert evaluate("E01-A or E01-B", {"E01-A": "inconclusive", "E01-B": "not run"}) == "not run"
    assert evaluate("E01-A", {}) == "not run"


def test_and_binds_closer_than_or() -> None:
    known: dict[str, Outcome] = {"E01-A": "holds", "E01-B": "fails", "E01-C": "fails"}
    assert evaluate("E01-A or E01-B and E01-C", known) == "holds"
    assert evaluate("(E01-A or E01-B) and E01-C", known) == "fails"


@pytest.mark.parametrize("bad", ["", "E01-A and", "E01-A E01-B", "(E01-A", "E01-A)", "E1-A", "or", "E01-A & E01-B"])
def test_nonsense_is_refused(bad: str) -> None:
    with pytest.raises(ArgumentError, match="expected hypotheses with and, or, not"):
        evaluate(bad, {})


def test_names() -> None:
    assert names("not E10-H1.a or (E01-A and E10-H1.a)") == ("E10-H1.a", "E01-A")
