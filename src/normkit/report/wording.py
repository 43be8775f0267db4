"""How numbers and lists are written, on the page and in the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normkit.lab.comparison import Interval

MISSING = "–"


def number(value: float | None, decimals: int = 3) -> str:
    """A number to ``decimals`` places; fewer above 100, more where it would round to zero."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-6:
        text = f"{value:.1e}"
    elif size >= 100:
        text = f"{value:.0f}"
    elif 0 < size < 0.5 * 10**-decimals:
        text = f"{value:.{math.ceil(-math.log10(size))}f}"
    else:
        text = f"{value:.{decimals}f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{number(100 * value, 1)}%"


def span(interval: Interval | None) -> str:
    """The interval as "0.128 to 0.156"; nothing where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{number(interval.low)} to {number(interval.high)}"


def margin(interval: Interval | None) -> str:
    """Half of the interval as "±0.014"; nothing where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"±{number((interval.high - interval.low) / 2)}"


def gap(value: float) -> str:
    """A difference with its sign."""
    return f"+{number(value)}" if value >= 0 else number(value)


def rate(value: float | None) -> str:
    """A learning rate, without needless zeros."""
    return MISSING if value is None else f"{value:g}"


def p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(n: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 run" but "3 runs"."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """Words in a row: "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def duration(seconds: float) -> str:
    """Seconds as "8 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
