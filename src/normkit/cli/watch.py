"""What a person sees while a command works through its runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from normkit.lab.comparison import Progress

MOST_RUNNING = 4  # lines of runs in progress
SECONDS_BETWEEN_LINES = 10.0


class Watcher(Protocol):
    """Takes snapshots of the work as they come."""

    def update(self, progress: Progress) -> None: ...


@contextmanager
def watch(console: Console, *, is_shown: bool, title: str = "normkit compare") -> Iterator[Watcher]:
    """A watcher that is seen at once, long before the first snapshot, and is gone afterwards."""
    if not is_shown:
        yield Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        view = LiveView(console, title)
        with Live(view, console=console, refresh_per_second=8, transient=True):
            yield view
    else:
        yield Lines(console, title)


class Silence:
    def update(self, progress: Progress) -> None:
        """Nothing is shown."""


class Lines:
    """A line at the start, one for each piece of news, and one every ten seconds."""

    def __init__(self, console: Console, title: str = "normkit compare") -> None:
        self.console = console
        self.note = ""
        self.is_begun = False
        self.last = time.monotonic()
        _say(console, f"{title}: starting")

    def update(self, progress: Progress) -> None:
        if not self.is_begun:
            self.is_begun = True
            _tell_what_is_there(self.console, progress)
            return
        now = time.monotonic()
        is_news = bool(progress.note) and progress.note != self.note
        if is_news or now - self.last >= SECONDS_BETWEEN_LINES or progress.done == progress.total:
            self.note, self.last = progress.note, now
            _say(self.console, " · ".join(filter(None, (_count(progress), _left(progress.remaining_s), progress.note))))


class LiveView:
    """Drawn anew several times a second, so that its clock moves while no news comes."""

    def __init__(self, console: Console, title: str = "normkit compare") -> None:
        self.console = console
        self.title = title
        self.started = time.monotonic()
        self.snapshot: tuple[Progress, float] | None = None  # and when it came

    def update(self, progress: Progress) -> None:
        if self.snapshot is None:
            _tell_what_is_there(self.console, progress)
        self.snapshot = (progress, time.monotonic())

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        title = Table.grid(expand=True)
        title.add_column(no_wrap=True, overflow="ellipsis")
        title.add_column(justify="right", no_wrap=True)
        if self.snapshot is None:
            title.add_row(Text(self.title, "bold"), _clock(now - self.started))
            return Group("", title, _bar(None), Text("starting: loading PyTorch and the data", "dim"))
        progress, came = self.snapshot
        left = None if progress.remaining_s is None else max(progress.remaining_s - (now - came), 0.0)
        title.add_row(
            Text.assemble((self.title, "bold"), f"   {_count(progress)}"),
            " · ".join(filter(None, (_clock(now - self.started), _left(left)))),
        )
        parts: list[RenderableType] = ["", title, _bar(progress)]
        if progress.note:
            parts.append(_line(progress.note, "italic"))
        parts += [_line(run, "dim") for run in progress.running[:MOST_RUNNING]]
        if len(progress.running) > MOST_RUNNING:
            parts.append(_line(f"and {len(progress.running) - MOST_RUNNING} more", "dim"))
        if progress.best:
            parts += ["", _best(progress)]
        return Group(*parts)


def _tell_what_is_there(console: Console, first: Progress) -> None:
    """What the store holds already, in a line that stays."""
    if first.resumed:
        then = "going on." if first.resumed < first.total else "nothing is left to compute."
        _say(console, f"{first.resumed} of {first.total} runs are there; {then}")


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _bar(progress: Progress | None) -> Padding:
    if progress is None:
        return Padding(ProgressBar(pulse=True), 0)  # the padding ends the line, which the bar does not
    return Padding(ProgressBar(total=max(progress.total, 1), completed=progress.done), 0)


def _line(words: str, style: str) -> Text:
    return Text(words, style, no_wrap=True, overflow="ellipsis")


def _count(progress: Progress) -> str:
    found = f" ({progress.resumed} found finished)" if progress.resumed else ""
    return f"{progress.done} of {progress.total} runs{found}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {_clock(seconds)} left"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _best(progress: Progress) -> Table:
    """The best norm so far of each task and batch size, with its validation NLL."""
    sizes = sorted({size for _, size in progress.best})
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("best so far", no_wrap=True, overflow="ellipsis")
    for size in sizes:
        table.add_column(f"batch {size}", no_wrap=True)
    for task in dict.fromkeys(task for task, _ in progress.best):
        cells = [Text(task)]
        for size in sizes:
            norm, nll = progress.best.get((task, size), ("", 0.0))
            cells.append(Text.assemble((norm, "bold"), f" {nll:.3f}") if norm else Text("–", "dim"))
        table.add_row(*cells)
    return table
