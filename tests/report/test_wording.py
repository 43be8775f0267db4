"""Numbers as readers see them."""

from __future__ import annotations

import math

import pytest

from normkit.lab.comparison import Interval
from normkit.report import wording


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.14159, "0.142"),
        (-0.0412, "−0.041"),
        (0.0, "0.000"),
        (0.00032, "0.0003"),
        (-0.00002, "−0.00002"),
        (99.9994, "99.999"),
        (123.4, "123"),
        (2.5e7, "2.5e+07"),
        (3e-9, "3.0e−09"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_number(value: float | None, words: str) -> None:
    assert wording.number(value) == words


def test_an_interval_is_said_by_its_ends_or_by_its_half() -> None:
    interval = Interval(0.14, 0.128, 0.152, 5)
    assert wording.span(interval) == "0.128 to 0.152"
    assert wording.margin(interval) == "±0.012"


@pytest.mark.parametrize("interval", [None, Interval(0.14, None, None, 1)])
def test_one_run_has_no_interval(interval: Interval | None) -> None:
    assert wording.span(interval) == wording.margin(interval) == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.6, "8 s"), (59.6, "1 min 00 s"), (171.4, "2 min 51 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(("words", "sentence"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c")])
def test_listing(words: list[str], sentence: str) -> None:
    assert wording.listing(words) == sentence


def test_small_forms() -> None:
    assert wording.count(1, "run") == "1 run"
    assert wording.count(3, "run") == "3 runs"
    assert wording.gap(0.0321) == "+0.032"
    assert wording.gap(-0.0321) == "−0.032"
    assert wording.percent(0.9644) == "96.4%"
    assert wording.rate(0.001) == "0.001"
    assert wording.p_value(0.0004) == "< 0.001"
    assert wording.p_value(0.0312) == "0.031"
