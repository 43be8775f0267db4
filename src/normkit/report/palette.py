"""One colour and one marker for each norm, the same in every figure, on light and on dark paper.

The hues are Okabe and Ito's, which stay apart for every common kind of colour blindness
(https://jfly.uni-koeln.de/color/); each is darkened or lightened until it has a contrast of at least 3:1
with its paper. Markers differ as well, so that nothing rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HUES = ("vermilion", "blue", "sky", "green", "purple", "grey", "orange", "olive", "black")
MARKERS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "pentagon",
    "circle-open",
    "star",
    "hexagon",
    "cross",
)
KNOWN = {"batch": 0, "layer": 1, "rms": 2, "group": 3, "instance": 4, "none": 5}


def _with_tints(colours: dict[str, str]) -> dict[str, str]:
    """For each hue also "hue-tint", the same colour as a thin wash."""
    tints = {}
    for hue in HUES:
        red, green, blue = (int(colours[hue][place : place + 2], 16) for place in (1, 3, 5))
        tints[f"{hue}-tint"] = f"rgba({red},{green},{blue},0.16)"
    return colours | tints


# A figure names a colour by its key with "@" before it; the page puts in the value for the reader's scheme.
LIGHT = _with_tints(
    {
        "paper": "#fbfaf8",
        "card": "#ffffff",
        "ink": "#1c1e21",
        "soft": "#5c6168",
        "line": "#dedbd5",
        "wash": "#f2f0eb",
        "grey": "#73777d",
        "vermilion": "#d55e00",
        "blue": "#0067a3",
        "sky": "#2f97d4",
        "green": "#00885f",
        "purple": "#b0508a",
        "orange": "#b97f00",
        "olive": "#857a00",
        "black": "#1c1e21",
        "heat0": "#f6f3ec",
        "heat1": "#e9d3b4",
        "heat2": "#d39a6a",
        "heat3": "#a4573f",
        "heat4": "#5b1f2a",
    }
)
DARK = _with_tints(
    {
        "paper": "#14161a",
        "card": "#1b1e23",
        "ink": "#e9e7e3",
        "soft": "#a3a8b0",
        "line": "#33373e",
        "wash": "#23272d",
        "grey": "#9ba1a9",
        "vermilion": "#f5813a",
        "blue": "#4c9be8",
        "sky": "#93d2fa",
        "green": "#2fc797",
        "purple": "#e493c4",
        "orange": "#f0b232",
        "olive": "#e5da4e",
        "black": "#e9e7e3",
        "heat0": "#22262b",
        "heat1": "#4a3a34",
        "heat2": "#8a5640",
        "heat3": "#cf8557",
        "heat4": "#f6cf98",
    }
)


@dataclass(frozen=True)
class Look:
    """How a norm is drawn."""

    hue: str
    marker: str


def looks(norms: Sequence[str]) -> dict[str, Look]:
    """The look of each norm: a known norm always has its own; the others take what is left, in order."""
    free = [place for place in range(len(HUES)) if place not in {KNOWN.get(norm) for norm in norms}]
    places: dict[str, int] = {}
    for norm in norms:
        if norm in KNOWN:
            places[norm] = KNOWN[norm]
        else:
            taken = len([n for n in places if n not in KNOWN])
            places[norm] = free[taken % len(free)] if free else taken % len(HUES)
    return {norm: Look(HUES[place], MARKERS[place]) for norm, place in places.items()}
