"""The whole page as plain data: the answer, the figures, every number, how it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from normkit.lab.comparison import Cell, Comparison, Interval, Score
from normkit.report import figures, series, wording
from normkit.report.answer import STATUS_WORDS, AnswerView, answer, in_words
from normkit.report.method import MethodView, method
from normkit.report.palette import Look, looks
from normkit.report.plot import Figure

EVALUATION_WORDS = {
    "running": "running statistics",
    "batch": "statistics of the test batch",
    "recomputed": "recomputed statistics",
}


@dataclass(frozen=True)
class FigureView:
    id: str
    title: str
    label: str  # for who cannot see it
    figure: Figure


@dataclass(frozen=True)
class PanelView:
    """The figures of one task, one for each batch size; the reader picks a task."""

    task: str
    figures: tuple[FigureView, ...]


@dataclass(frozen=True)
class NumbersView:
    """Everything known of a task's scores as text, a row a norm and batch size."""

    task: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PageView:
    answer: AnswerView
    looks: dict[str, Look]
    scale: str  # "4 tasks, 3 batch sizes, 6 norms"
    interrupted: bool
    matrix: FigureView
    by_batch_size: tuple[FigureView, ...]
    by_learning_rate: tuple[PanelView, ...]
    loss_curves: tuple[PanelView, ...]
    evaluations: tuple[FigureView, ...]
    evaluation_finding: str
    step_times: tuple[FigureView, ...]
    step_time_finding: str
    numbers: tuple[NumbersView, ...]
    method: MethodView


def page(comparison: Comparison) -> PageView:
    """Everything the page shows, computed; the template only writes it down."""
    said = answer(comparison)
    look = looks(comparison.norms)
    names = [task.name for task in comparison.tasks]
    scores = {name: series.scores_by_norm(comparison, name) for name in names}
    matrix = FigureView(
        "matrix",
        "",
        "Heat map of how far each norm is behind the best; the same numbers stand in the table above.",
        figures.matrix(said.tasks, comparison.norms),
    )
    return PageView(
        answer=said,
        looks=look,
        scale=", ".join(
            (
                wording.count(len(names), "task"),
                wording.count(len(comparison.batch_sizes), "batch size"),
                wording.count(len(comparison.norms), "norm"),
            )
        ),
        interrupted=comparison.interrupted,
        matrix=matrix,
        by_batch_size=_each_task(
            names, "score", "Test NLL against batch size", lambda n: figures.by_batch_size(scores[n], look)
        ),
        by_learning_rate=_panels(
            comparison,
            "rate",
            "Validation NLL against learning rate",
            lambda name, size: figures.by_learning_rate(series.sweeps(comparison, name, size), look),
        ),
        loss_curves=_panels(
            comparison,
            "curve",
            "Training loss against step",
            lambda name, size: figures.loss_curves(series.curves(comparison, name, size), look),
        ),
        evaluations=_evaluations(comparison, names, look),
        evaluation_finding=_evaluation_finding(comparison.cells),
        step_times=_each_task(
            names, "time", "Milliseconds per training step", lambda n: figures.step_times(scores[n], look)
        ),
        step_time_finding=_step_time_finding(comparison),
        numbers=tuple(_numbers(comparison, place) for place in range(len(names))),
        method=method(comparison),
    )


def _each_task(names: Sequence[str], kind: str, what: str, draw: Callable[[str], Figure]) -> tuple[FigureView, ...]:
    """One figure a task; tasks with nothing to draw have none."""
    found = ((place, name, draw(name)) for place, name in enumerate(names))
    return tuple(
        FigureView(f"{kind}-{place}", name, f"{what} in {name}, a line for each norm.", figure)
        for place, name, figure in found
        if _is_drawn(figure)
    )


def _panels(comparison: Comparison, kind: str, what: str, draw: Callable[[str, int], Figure]) -> tuple[PanelView, ...]:
    panels = []
    for place, task in enumerate(comparison.tasks):
        sizes = sorted({cell.batch_size for cell in comparison.cells if cell.task == task.name})
        drawn = ((size, draw(task.name, size)) for size in sizes)
        views = tuple(
            FigureView(
                f"{kind}-{place}-{size}",
                f"batch {size}",
                f"{what} in {task.name} at batch size {size}, a line for each norm.",
                figure,
            )
            for size, figure in drawn
            if _is_drawn(figure)
        )
        if views:
            panels.append(PanelView(task.name, views))
    return tuple(panels)


def _is_drawn(figure: Figure) -> bool:
    return any(value is not None for trace in figure["data"] for value in trace["y"])


def _evaluations(comparison: Comparison, names: Sequence[str], look: Mapping[str, Look]) -> tuple[FigureView, ...]:
    return _each_task(
        names,
        "statistics",
        "Test NLL under each kind of statistics",
        lambda name: figures.evaluation_kinds(series.evaluations(comparison, name), look),
    )


def _evaluation_finding(cells: Iterable[Cell]) -> str:
    """The case in which the running statistics cost most."""
    costs = []
    for cell in cells:
        for score in cell.scores:
            others = {kind: i.mean for kind, i in score.evaluations.items() if kind != "running"}
            running = score.evaluations.get("running")
            if running is not None and others:
                kind = min(others, key=lambda k: others[k])
                costs.append((running.mean - others[kind], running.mean, others[kind], kind, score.norm, cell))
    if not costs:
        return ""
    cost, running_nll, other_nll, kind, norm, cell = max(costs, key=lambda found: found[0])
    if cost < figures.SMALL_NATS:
        return f"Here the running statistics cost next to nothing: at most {wording.number(cost)} nats."
    return (
        f"The running statistics cost most in {cell.task} at batch {cell.batch_size}: {in_words(norm)} scores "
        f"{wording.number(running_nll)} with them and {wording.number(other_nll)} with "
        f"{EVALUATION_WORDS.get(kind, kind)}."
    )


def _step_time_finding(comparison: Comparison) -> str:
    """The median over rows of each norm's time relative to no norm."""
    ratios: dict[str, list[float]] = {}
    for cell in comparison.cells:
        times = {s.norm: s.ms_per_step for s in cell.scores if s.ms_per_step}
        for norm, ms in times.items():
            if norm != "none" and "none" in times:
                ratios.setdefault(norm, []).append(ms / times["none"])
    if not ratios:
        return ""
    told = [f"{statistics.median(found):.2f}× with {in_words(norm)}" for norm, found in ratios.items()]
    return f"Against {in_words('none')}, a step takes {wording.listing(told)} (median over the rows)."


def _numbers(comparison: Comparison, place: int) -> NumbersView:
    task = comparison.tasks[place]
    columns = (
        "batch", "norm", "outcome", "test NLL", "95 % interval", "accuracy", "95 % interval",
        "behind the best", "95 % interval", "adjusted p",
        "sign-flip p", "learning rate", "runs", "diverged", "steps", "epochs",
        "ms per step", "parameters",
    )  # fmt: skip
    rows = tuple(
        _number_row(cell, score, task.parameters.get(score.norm))
        for cell in comparison.cells
        if cell.task == task.name
        for score in cell.scores
    )
    return NumbersView(task.name, columns, rows)


def _number_row(cell: Cell, score: Score, parameters: int | None) -> tuple[str, ...]:
    edge = "" if score.tuning_complete else " †"
    return (
        str(cell.batch_size),
        score.norm,
        STATUS_WORDS[score.status],
        _mean(score.nll),
        wording.span(score.nll) or wording.MISSING,
        wording.MISSING if score.accuracy is None else wording.percent(score.accuracy.mean),
        _percent_span(score.accuracy),
        _mean(score.difference),
        wording.span(score.difference) or wording.MISSING,
        wording.p_value(score.p_adjusted),
        wording.p_value(score.p_sign_flip),
        wording.rate(score.learning_rate) + edge,
        str(score.n_runs),
        str(score.n_diverged),
        str(score.steps),
        wording.number(score.epochs, 1),
        wording.number(score.ms_per_step, 2),
        wording.MISSING if parameters is None else f"{parameters:,}",
    )


def _mean(interval: Interval | None) -> str:
    return wording.MISSING if interval is None else wording.number(interval.mean)


def _percent_span(interval: Interval | None) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return wording.MISSING
    return f"{wording.percent(interval.low)} to {wording.percent(interval.high)}"
