"""From records to the lines of the figures: grouping and averaging, nothing drawn yet."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from normkit.lab.comparison import Comparison, Interval, Score
from normkit.lab.records import RunRecord


@dataclass(frozen=True)
class SweepPoint:
    """One learning rate of one norm: the mean over the tuning runs that finished."""

    learning_rate: float
    val_nll: float | None  # None: no run finished
    n_diverged: int
    n_runs: int
    is_chosen: bool


@dataclass(frozen=True)
class Sweep:
    norm: str
    points: tuple[SweepPoint, ...]  # by learning rate, ascending


@dataclass(frozen=True)
class Curves:
    """Training loss of one norm's evaluation runs. ``low`` and ``high`` are the extremes over the seeds."""

    norm: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    diverged: tuple[tuple[tuple[int, float], ...], ...]  # each diverged run by itself, up to where it broke


@dataclass(frozen=True)
class ScorePoint:
    """One norm at one batch size, or why there is nothing to draw."""

    batch_size: int
    score: Score


def scores_by_norm(comparison: Comparison, task: str) -> dict[str, tuple[ScorePoint, ...]]:
    """Each norm's scores in a task, by batch size."""
    cells = sorted((c for c in comparison.cells if c.task == task), key=lambda c: c.batch_size)
    return {
        norm: tuple(ScorePoint(c.batch_size, s) for c in cells for s in c.scores if s.norm == norm)
        for norm in comparison.norms
    }


def sweeps(comparison: Comparison, task: str, batch_size: int) -> tuple[Sweep, ...]:
    """Validation NLL over the learning rates tried, for each norm that was tuned."""
    chosen = {
        score.norm: score.learning_rate
        for cell in comparison.cells
        if (cell.task, cell.batch_size) == (task, batch_size)
        for score in cell.scores
    }
    lines = []
    for norm in comparison.norms:
        by_rate: dict[float, list[RunRecord]] = {}
        for record in _records(comparison, task, batch_size, norm, "tune"):
            by_rate.setdefault(record.spec.learning_rate, []).append(record)
        if by_rate:
            points = (_sweep_point(rate, by_rate[rate], chosen.get(norm)) for rate in sorted(by_rate))
            lines.append(Sweep(norm, tuple(points)))
    return tuple(lines)


def _sweep_point(rate: float, records: list[RunRecord], chosen: float | None) -> SweepPoint:
    finished = [r.metrics["val_nll"] for r in records if r.status == "done" and "val_nll" in r.metrics]
    n_diverged = len([r for r in records if r.status == "diverged"])
    mean = statistics.fmean(finished) if finished else None
    return SweepPoint(rate, mean, n_diverged, len(records), rate == chosen)


def curves(comparison: Comparison, task: str, batch_size: int) -> tuple[Curves, ...]:
    """Training loss against step of the evaluation runs, for each norm that has some."""
    lines = []
    for norm in comparison.norms:
        records = [r for r in _records(comparison, task, batch_size, norm, "evaluate") if r.curve]
        if records:
            lines.append(_curves(norm, records))
    return tuple(lines)


def _curves(norm: str, records: list[RunRecord]) -> Curves:
    finished = [dict(r.curve) for r in records if r.status == "done"]
    shared = sorted(set.intersection(*(set(curve) for curve in finished))) if finished else []
    columns = [[curve[step] for curve in finished] for step in shared]
    return Curves(
        norm,
        tuple(shared),
        tuple(statistics.fmean(column) for column in columns),
        tuple(min(column) for column in columns),
        tuple(max(column) for column in columns),
        tuple(r.curve for r in records if r.status == "diverged"),
    )


def evaluations(comparison: Comparison, task: str) -> dict[str, dict[str, tuple[tuple[int, Interval], ...]]]:
    """norm -> kind of statistics -> (batch size, test NLL), for norms that were evaluated in several ways."""
    found: dict[str, dict[str, list[tuple[int, Interval]]]] = {}
    for norm, points in scores_by_norm(comparison, task).items():
        for point in points:
            for kind, interval in point.score.evaluations.items():
                found.setdefault(norm, {}).setdefault(kind, []).append((point.batch_size, interval))
    return {norm: {kind: tuple(line) for kind, line in kinds.items()} for norm, kinds in found.items()}


def _records(comparison: Comparison, task: str, batch_size: int, norm: str, role: str) -> Iterable[RunRecord]:
    texts = {info.name: info.text or info.name for info in comparison.tasks}
    wanted = (texts.get(task, task), batch_size, norm, role)
    return (
        record
        for record in comparison.records
        if (record.spec.task, record.spec.batch_size, record.spec.norm, record.spec.role) == wanted
    )
