"""At which batch size BatchNorm and LayerNorm change places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normkit.lab.comparison import Cell, Interval, Score
from normkit.report import wording

_NAMES = {"batch": "BatchNorm", "layer": "LayerNorm"}


@dataclass(frozen=True)
class _Row:
    batch_size: int
    leader: str
    distance: str  # of the two means; empty where the leader alone trained in all runs
    fate: str  # of the other there: "impossible", "diverged in 2 of 5 runs"
    is_clear: bool  # the intervals do not overlap


def turn(cells: Iterable[Cell]) -> str:
    """One sentence where the lead in a task's rows changes once from one of the two to the other, else none.

    The lower mean leads, or the one that trains in all runs where the other does not. Where the lead changes several
    times, rows whose intervals overlap are left out, and named. Rows with less than two outcomes say nothing: their
    table does.
    """
    rows = [row for row in map(_row, sorted(cells, key=lambda cell: cell.batch_size)) if row is not None]
    left_out: list[_Row] = []
    if len(_changes(rows)) > 1:
        rows, left_out = [row for row in rows if row.is_clear], [row for row in rows if not row.is_clear]
    changes = _changes(rows)
    if len(changes) != 1:
        return ""
    before, after = rows[changes[0] - 1], rows[changes[0]]
    between = [str(r.batch_size) for r in left_out if before.batch_size < r.batch_size < after.batch_size]
    behind = f"{before.distance} behind" if before.distance else before.fate
    ahead = f"{after.distance} ahead".strip()
    alone = "" if after.distance else f" ({_NAMES[before.leader]} {after.fate})"
    undecided = f" At {wording.listing(between)} the intervals overlap." if between else ""
    return (
        f"{_NAMES[after.leader]} overtakes {_NAMES[before.leader]} between batch {before.batch_size} and "
        f"{after.batch_size}: {behind} at {before.batch_size}, {ahead} at {after.batch_size}{alone}.{undecided}"
    )


def _changes(rows: Sequence[_Row]) -> list[int]:
    return [i for i in range(1, len(rows)) if rows[i].leader != rows[i - 1].leader]


def _row(cell: Cell) -> _Row | None:
    found = {score.norm: score for score in cell.scores if score.norm in _NAMES}
    done = {norm: score.nll for norm, score in found.items() if score.nll is not None and score.status == "done"}
    fates = [_fate(score) for score in found.values() if score.status in ("diverged", "impossible")]
    if len(done) == 1 and fates:
        return _Row(cell.batch_size, next(iter(done)), distance="", fate=fates[0], is_clear=True)
    if len(done) < 2:
        return None
    leader = min(done, key=lambda norm: done[norm].mean)
    is_clear = _apart(done["batch"], done["layer"])
    distance = f"{wording.number(abs(done['batch'].mean - done['layer'].mean), 2)} nats"
    return _Row(cell.batch_size, leader, distance if is_clear else f"{distance} (within the intervals)", "", is_clear)


def _fate(score: Score) -> str:
    some = 0 < score.n_diverged < score.n_runs
    return f"{score.status} in {score.n_diverged} of {score.n_runs} runs" if some else score.status


def _apart(a: Interval, b: Interval) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return max(a.low, b.low) > min(a.high, b.high)
