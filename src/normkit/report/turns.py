"""At which batch size BatchNorm and LayerNorm change places."""

from __future__ import annotations

from collections.abc import Iterable

from normkit.lab.comparison import Cell, Interval
from normkit.report import wording


def turn(cells: Iterable[Cell]) -> str:
    """One sentence where the lower mean of a task's rows changes once from one of the two to the other, else none.

    Rows in which either diverged or has no score say nothing here: their table does.
    """
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.batch_size):
        found = {score.norm: score.nll for score in cell.scores if score.nll is not None and score.status == "done"}
        if "batch" in found and "layer" in found:
            rows.append((cell.batch_size, found["batch"], found["layer"]))
    leads = [batch.mean < layer.mean for _, batch, layer in rows]
    changes = [i for i in range(1, len(rows)) if leads[i] != leads[i - 1]]
    if len(changes) != 1:
        return ""
    before, after = rows[changes[0] - 1], rows[changes[0]]
    first, second = ("BatchNorm", "LayerNorm") if leads[0] else ("LayerNorm", "BatchNorm")
    return (
        f"{second} overtakes {first} between batch {before[0]} and {after[0]}: "
        f"{_behind(before[1], before[2])} behind at {before[0]}, {_behind(after[1], after[2])} ahead at {after[0]}."
    )


def _behind(a: Interval, b: Interval) -> str:
    """The distance of the means, and whether the intervals leave it open."""
    distance = f"{wording.number(abs(a.mean - b.mean), 2)} nats"
    if a.low is None or a.high is None or b.low is None or b.high is None or max(a.low, b.low) <= min(a.high, b.high):
        return f"{distance} (within the intervals)"
    return distance
