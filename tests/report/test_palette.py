"""Colours that can be told from their paper, and from one another without colour."""

from __future__ import annotations

import pytest

from normkit.report.palette import DARK, HUES, LIGHT, MARKERS, looks

SCHEMES = {"light": LIGHT, "dark": DARK}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("hue", HUES)
def test_every_hue_stands_out_from_its_paper(scheme: str, hue: str) -> None:
    colours = SCHEMES[scheme]
    assert min(contrast(colours[hue], colours[paper]) for paper in ("paper", "card")) >= 3.0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ink", ["ink", "soft"])
@pytest.mark.parametrize("paper", ["paper", "card", "wash"])
def test_text_can_be_read(scheme: str, ink: str, paper: str) -> None:
    assert contrast(SCHEMES[scheme][ink], SCHEMES[scheme][paper]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("band", range(5))
def test_words_on_a_patch_can_be_read(scheme: str, band: int) -> None:
    # Words change from ink to paper at three fifths of the scale.
    colours = SCHEMES[scheme]
    assert contrast(colours["paper" if band / 4 > 0.6 else "ink"], colours[f"heat{band}"]) >= 3.0


def test_known_norms_keep_their_look_whoever_else_is_there() -> None:
    assert looks(["layer"])["layer"] == looks(["mine", "batch", "layer"])["layer"]


def test_norms_differ_in_hue_and_in_marker() -> None:
    found = looks(["none", "batch", "layer", "rms", "group", "instance", "mine", "yours", "theirs"])
    assert len({look.hue for look in found.values()}) == 9
    assert len({look.marker for look in found.values()}) == 9


def test_more_norms_than_hues_still_have_a_look() -> None:
    names = [f"norm{n}" for n in range(20)]
    assert set(looks(names)) == set(names)
    assert len(HUES) == len(MARKERS)


def test_unknown_norms_take_every_free_hue_before_one_is_used_again() -> None:
    found = looks(["layer", *(f"norm{n}" for n in range(8))])
    assert len({look.hue for look in found.values()}) == 9
