"""What a person sees while the benchmark runs: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich import progress as bars
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from normkit.bench import CellResult, Progress

SECONDS_BETWEEN_LINES = 10.0


class BenchWatcher(Protocol):
    """Takes news of a benchmark as it comes."""

    def update(self, progress: Progress) -> None: ...

    def add(self, result: CellResult) -> None: ...

    def start_recurrent(self, name: str) -> None: ...

    def start_model(self, name: str) -> None: ...


@contextmanager
def watch_bench(console: Console, *, is_shown: bool) -> Iterator[BenchWatcher]:
    """A watcher that is seen at once, and is gone afterwards."""
    if not is_shown:
        yield Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
        )
        with bars.Progress(*columns, console=console, transient=True) as bar:
            yield Bar(bar)
    else:
        yield Lines(console)


class Silence:
    def update(self, progress: Progress) -> None:
        """Nothing is shown."""

    def add(self, result: CellResult) -> None:
        """Nothing is shown."""

    def start_recurrent(self, name: str) -> None:
        """Nothing is shown."""

    def start_model(self, name: str) -> None:
        """Nothing is shown."""


class Bar:
    """One bar, and above it a line for each cell that is done."""

    def __init__(self, bar: bars.Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("normkit bench: loading PyTorch", total=None)

    def update(self, progress: Progress) -> None:
        words = f"{progress.stage} {progress.note}".strip()
        self.bar.update(self.task, description=words, completed=progress.done, total=progress.total)

    def add(self, result: CellResult) -> None:
        self.bar.console.print(Text(news(result), "dim"))

    def start_recurrent(self, name: str) -> None:
        self.bar.update(self.task, description=f"timing {name}", completed=0, total=None)

    def start_model(self, name: str) -> None:
        self.bar.update(self.task, description=f"training steps of {name}", completed=0, total=None)


class Lines:
    """One line at the start, one a stage, and one every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage = ""
        self.last = time.monotonic()
        self._say("normkit bench: starting")

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self.stage or now - self.last >= SECONDS_BETWEEN_LINES:
            self.stage, self.last = progress.stage, now
            self._say(f"{progress.stage} · {progress.done} of {progress.total} · {progress.note}")

    def add(self, result: CellResult) -> None:
        if result.status == "red":
            self._say(news(result))

    def start_recurrent(self, name: str) -> None:
        self._say(f"timing · {name}")

    def start_model(self, name: str) -> None:
        self._say(f"training steps of {name}")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)


def news(result: CellResult) -> str:
    """One line on a cell that is done."""
    ratio = result.ratio
    return f"{result.cell}: {f'{ratio:.2f}x' if ratio is not None else f'{result.status} {result.message}'.strip()}"
