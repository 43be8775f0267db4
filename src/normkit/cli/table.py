"""The result of a comparison for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from normkit.report.answer import AnswerView, ScoreView, TaskView

STYLES = {"best": "bold green", "tie": "bold", "behind": "", "none": "dim"}


def answer_table(view: AnswerView) -> Group:
    """Each task with its scores and a line of advice a row, then what holds over all rows."""
    parts: list[RenderableType] = []
    for task in view.tasks:
        parts += ["", Text.assemble((task.name, "bold"), "  ", (task.description, "dim")), "", _scores(task)]
        parts += ["", _advice(task)]
    parts += ["", Text(view.headline, "bold")]
    if view.lead:
        parts.append(Text(view.lead))
    if any(not score.is_tuned for task in view.tasks for row in task.rows for score in row.scores):
        parts.append(Text("† The best learning rate lies at the edge of the grid; this norm may do better.", "dim"))
    parts.append(Text("Scores are test NLL in nats with half of their 95 % interval; lower is better.", "dim"))
    return Group(*parts)


def reasons(view: AnswerView) -> RenderableType:
    """Why some scores are missing."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(style="dim")
    for note in view.notes:
        table.add_row(Text(f"{note.norm} {note.status}"), Text(f"{note.message} ({note.where})"))
    return table


def _scores(task: TaskView) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("batch", justify="right", no_wrap=True)
    for score in task.rows[0].scores if task.rows else ():
        table.add_column(Text(score.norm), no_wrap=True)
    for row in task.rows:
        table.add_row(str(row.batch_size), *(_score(score) for score in row.scores))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _score(score: ScoreView) -> Text:
    """The mean and its standing, the half interval below; colour is never the only mark."""
    lines = []
    if score.nll:
        mark = "" if score.is_tuned else "†"
        standing = f" {score.standing}" if score.standing in ("best", "tie") else ""
        lines.append((f"{score.nll}{mark}{standing}", STYLES[score.standing]))
        lines.append((score.margin or "one run", "dim"))
    if score.note:
        lines.append((score.short_note, "dim italic"))
    return Text("\n").join(Text(words, style) for words, style in lines)


def _advice(task: TaskView) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in task.rows:
        table.add_row(Text(f"batch {row.batch_size}", "dim"), Text(row.advice))
    if task.turn:
        table.add_row("", Text(task.turn))
    return Padding(table, (0, 0, 0, 2), expand=False)
