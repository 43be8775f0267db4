"""The answer of a comparison in words: what the table on the page and the one in the terminal both show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from normkit.lab.comparison import Cell, CellStatus, Comparison, Score, TaskInfo
from normkit.report import wording
from normkit.report.turns import turn

Standing = Literal["best", "tie", "behind", "none"]  # "none": there is no score to compare

STATUS_WORDS: dict[CellStatus, str] = {
    "done": "finished",
    "diverged": "diverged",
    "impossible": "impossible",
    "failed": "failed",
    "not-run": "not run",
}

FULL_NAMES = {
    "none": "no normalization",
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
}


@dataclass(frozen=True)
class ScoreView:
    """One norm in one row of the table."""

    norm: str
    status: CellStatus
    standing: Standing
    nll: str
    span: str  # "0.128 to 0.156", or empty
    margin: str  # "±0.014", or empty
    accuracy: str
    note: str  # why there is no plain score: "diverged in 2 of 5 runs", or empty
    short_note: str  # the same for a narrow column: "2/5 diverged"
    behind: float | None  # nats behind the best of the row; None without a score, or while nobody has won
    is_tuned: bool  # False: the best learning rate still sits at the edge of the grid
    is_asked: bool = True  # False: the task does not compare this norm; another task does


@dataclass(frozen=True)
class RowView:
    task: str
    batch_size: int
    scores: tuple[ScoreView, ...]  # one for each norm of the comparison, in its order
    advice: str


@dataclass(frozen=True)
class TaskView:
    name: str
    description: str
    rows: tuple[RowView, ...]
    turn: str  # where BatchNorm and LayerNorm change places, or empty


@dataclass(frozen=True)
class NormView:
    """One norm over all rows."""

    name: str
    n_best: int  # rows in which it is best or tied for best
    worst: float | None  # the most it is behind the best of a row, in nats
    worst_where: str
    is_everywhere: bool  # it finished, without a diverged run, in every row
    troubles: str  # "impossible in 4 rows, diverged in 1 row", or empty


@dataclass(frozen=True)
class NoteView:
    """Why some scores are missing, said once for all rows that share the reason."""

    norm: str
    status: str
    where: str
    message: str


@dataclass(frozen=True)
class AnswerView:
    headline: str
    lead: str
    n_rows: int
    norms: tuple[NormView, ...]
    tasks: tuple[TaskView, ...]
    notes: tuple[NoteView, ...]


def answer(comparison: Comparison) -> AnswerView:
    """Everything that is said about who won."""
    rows = tuple(_row(cell, comparison.norms) for cell in comparison.cells)
    norms = tuple(_norm(name, rows) for name in comparison.norms)
    decided = [row for row in rows if any(s.standing in ("best", "tie") for s in row.scores)]
    return AnswerView(
        headline=_headline(norms, decided, len(rows)),
        lead=_lead(norms, decided),
        n_rows=len(rows),
        norms=norms,
        tasks=tuple(_task(info, rows, comparison.cells) for info in comparison.tasks),
        notes=_notes(comparison.cells),
    )


def in_words(norm: str) -> str:
    """The norm inside a sentence: "none is best" would read as its opposite."""
    return FULL_NAMES.get(norm, norm)


def _best_mean(cell: Cell) -> float | None:
    """The lowest mean of the winners; None while nobody has won."""
    means = (s.nll.mean for s in cell.scores if s.norm in cell.winners and s.nll is not None)
    return min(means, default=None)


def _task(info: TaskInfo, rows: Sequence[RowView], cells: Iterable[Cell]) -> TaskView:
    mine = tuple(row for row in rows if row.task == info.name)
    return TaskView(info.name, info.description, mine, turn(cell for cell in cells if cell.task == info.name))


def _row(cell: Cell, norms: Sequence[str]) -> RowView:
    best = _best_mean(cell)
    scores = {score.norm: _score(score, cell, best) for score in cell.scores}
    return RowView(cell.task, cell.batch_size, tuple(scores.get(n) or _not_asked(n) for n in norms), cell.advice)


def _not_asked(norm: str) -> ScoreView:
    dash = wording.MISSING
    return ScoreView(norm, "not-run", "none", "", "", "", "", dash, dash, None, is_tuned=True, is_asked=False)


def _score(score: Score, cell: Cell, best: float | None) -> ScoreView:
    standing: Standing = "behind" if score.nll is not None else "none"
    if score.norm in cell.winners:
        standing = "best" if len(cell.winners) == 1 else "tie"
    return ScoreView(
        norm=score.norm,
        status=score.status,
        standing=standing,
        nll="" if score.nll is None else wording.number(score.nll.mean),
        span=wording.span(score.nll),
        margin=wording.margin(score.nll),
        accuracy="" if score.accuracy is None else wording.percent(score.accuracy.mean),
        note=_status_note(score, "diverged in {} of {} runs"),
        short_note=_status_note(score, "{}/{} diverged"),
        behind=None if score.nll is None or best is None else score.nll.mean - best,
        is_tuned=score.tuning_complete,
    )


def _status_note(score: Score, some_diverged: str) -> str:
    if score.status == "done":
        return ""
    if score.status == "diverged" and 0 < score.n_diverged < score.n_runs:
        return some_diverged.format(score.n_diverged, score.n_runs)
    return STATUS_WORDS[score.status]


def _norm(name: str, rows: Sequence[RowView]) -> NormView:
    mine = [(row, s) for row in rows for s in row.scores if s.norm == name and s.is_asked]
    behind = [(score.behind, _place(row)) for row, score in mine if score.behind is not None]
    worst, worst_where = max(behind, default=(None, ""))
    counts = {
        words: len([1 for _, score in mine if score.status == status])
        for status, words in STATUS_WORDS.items()
        if status != "done"
    }
    return NormView(
        name=name,
        n_best=len([1 for _, score in mine if score.standing in ("best", "tie")]),
        worst=worst,
        worst_where=worst_where,
        is_everywhere=len(mine) == len(rows) and all(score.status == "done" for _, score in mine),
        troubles=", ".join(f"{words} in {wording.count(n, 'row')}" for words, n in counts.items() if n),
    )


def _place(row: RowView) -> str:
    return f"{row.task}, batch {row.batch_size}"


def _headline(norms: Sequence[NormView], decided: Sequence[RowView], n_rows: int) -> str:
    if not decided:
        return "Nothing finished yet, so there is no answer."
    most = max(norm.n_best for norm in norms)
    leaders = [in_words(norm.name) for norm in norms if norm.n_best == most]
    first = _capital(wording.listing(leaders))
    unfinished = "finished " if len(decided) < n_rows else ""
    if len(decided) == 1:
        verb = "tie for best" if len(leaders) > 1 else "is best"
        return f"{first} {verb}{' in the one row that finished' if unfinished else ''}."
    rows = f"every {unfinished}row" if most == len(decided) else f"{most} of {len(decided)} {unfinished}rows"
    verb = "is" if len(leaders) == 1 else "are each"
    return f"{first} {verb} best or tied for best in {rows}."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _lead(norms: Sequence[NormView], decided: Sequence[RowView]) -> str:
    """How often each other norm is best, and the choice that costs least at worst."""
    if len(decided) < 2:
        return ""
    most = max(norm.n_best for norm in norms)
    others = sorted((norm for norm in norms if 0 < norm.n_best < most), key=lambda norm: -norm.n_best)
    never = [in_words(norm.name) for norm in norms if norm.n_best == 0]
    tally = []
    if others:
        first, *rest = others
        counts = [f"{in_words(first.name)} is in {first.n_best}", *(f"{in_words(n.name)} in {n.n_best}" for n in rest)]
        tally.append(wording.listing(counts))
    if never:
        tally.append(f"{wording.listing(never)} never {'is' if len(never) == 1 else 'are'}")
    sentences = [f"{_capital('; '.join(tally))}."] if tally else []
    everywhere = [norm for norm in norms if norm.is_everywhere and norm.worst is not None]
    if everywhere:
        safest = min(everywhere, key=lambda norm: norm.worst or 0.0)
        cost = f"is at most {wording.number(safest.worst)} nats behind the best ({safest.worst_where})"
        if not safest.worst:
            cost = "is nowhere behind another"
        sentences.append(f"The safest single choice is {in_words(safest.name)}: it finished everywhere and {cost}.")
    return " ".join(sentences)


def _notes(cells: Iterable[Cell]) -> tuple[NoteView, ...]:
    places: dict[tuple[str, CellStatus, str], dict[str, list[str]]] = {}
    for cell in cells:
        for score in cell.scores:
            if score.status != "done" and score.message:
                tasks = places.setdefault((score.norm, score.status, score.message), {})
                tasks.setdefault(cell.task, []).append(str(cell.batch_size))
    return tuple(
        NoteView(
            norm,
            STATUS_WORDS[status],
            "; ".join(f"{task} at batch {wording.listing(sizes)}" for task, sizes in tasks.items()),
            message,
        )
        for (norm, status, message), tasks in places.items()
    )
