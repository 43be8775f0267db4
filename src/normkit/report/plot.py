"""What all figures have in common, as plotly's JSON: axes, paper, hover labels, colours by name.

A colour is written "@ink" or "@blue" (`palette`); the page replaces it by the value for the reader's
scheme, so that one figure serves light and dark paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figure = dict[str, Any]  # {"data": [...], "layout": {...}}
Trace = dict[str, Any]

FONT = '-apple-system, "Segoe UI", Inter, "Helvetica Neue", "Liberation Sans", "Noto Sans", Arial, sans-serif'
# The part of a figure's height that belongs to the numbers when a lane above holds what has none.
LANE = (0.0, 0.86)


def text(words: str) -> str:
    """Words for a figure's label: plotly reads a subset of HTML there, and the page reads "@" as a colour."""
    return html.escape(words, quote=False).replace("@", "&#64;")


def short(value: float | None) -> float | None:
    """Five significant digits: more than a screen shows, a third of the bytes. None where not finite."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def shorts(values: Iterable[float | None]) -> list[float | None]:
    return [short(value) for value in values]


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis that is a hairline and says what it is."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": "@soft"}, "standoff": 8},
        "gridcolor": "@line",
        "linecolor": "@line",
        "tickcolor": "@line",
        "tickfont": {"size": 12, "color": "@soft"},
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        **more,
    }


def log_axis(title: str, values: Iterable[float | None]) -> dict[str, Any]:
    """A logarithmic axis for these values."""
    ticks = log_ticks([v for v in values if v is not None and math.isfinite(v) and v > 0])
    return axis(title, type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def log_ticks(values: Sequence[float]) -> list[float]:
    """Round numbers a readable distance apart: the wider the range, the fewer a decade."""
    if not values:
        return []
    low, high = min(values), max(values)
    if high / low < 2:
        step = _round_up((high - low) / 4 or high / 4)
        first = math.floor(low / step) - 2
        return [float(f"{place * step:.6g}") for place in range(max(first, 1), first + 12)]
    finest = ((8, (1, 1.5, 2, 3, 5, 7)), (40, (1, 2, 5)), (1000, (1, 3)), (math.inf, (1,)))
    digits = next(digits for bound, digits in finest if high / low <= bound)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    return [float(f"{digit}e{decade}") for decade in decades for digit in digits]


def _round_up(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    decade = 10.0 ** math.floor(math.log10(step))
    return float(next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= 0.999 * step))


def places_axis(title: str, names: list[str]) -> dict[str, Any]:
    """Named places, evenly apart: batch sizes double or more at each step, so that a scale would lie."""
    n = len(names)
    return axis(
        title,
        tickvals=list(range(n)),
        ticktext=[text(name) for name in names],
        range=[-0.5, n - 0.5],
        showgrid=False,
    )


def layout(height: int, xaxis: Mapping[str, Any], yaxis: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": "@ink"},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "@card",
            "bordercolor": "@line",
            "font": {"family": FONT, "size": 13, "color": "@ink"},
            "align": "left",
        },
        "xaxis": dict(xaxis),
        "yaxis": dict(yaxis),
        **more,
    }


def add_lane(figure: Figure, traces: list[Trace], label: str) -> Figure:
    """A strip above the plot for what has no number: the traces sit on it, whatever the scale below."""
    if not traces:
        return figure
    figure["data"] += [{**trace, "yaxis": "y2"} for trace in traces]
    figure["layout"]["yaxis"]["domain"] = list(LANE)
    figure["layout"]["yaxis2"] = axis(
        domain=[0.9, 1.0],
        range=[0, 1],
        tickvals=[0.5],
        ticktext=[text(label)],
        showgrid=False,
        anchor="x",
    )
    figure["layout"].setdefault("shapes", []).append(
        {
            "type": "rect",
            "layer": "below",
            "xref": "paper",
            "yref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 0.9,
            "y1": 1.0,
            "line": {"width": 0},
            "fillcolor": "@wash",
        }
    )
    return figure
