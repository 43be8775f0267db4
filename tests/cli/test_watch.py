"""What is seen while a comparison runs."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from normkit.cli import watch
from normkit.lab.comparison import Progress

PROGRESS = Progress(
    done=45,
    total=120,
    resumed=42,
    running=tuple(f"digits-mlp · batch 16 · layer · lr 0.01 · seed {seed}" for seed in range(6)),
    best={("digits-mlp", 16): ("layer", 0.21456), ("digits-mlp", 2): ("none", 0.3), ("digits-cnn", 16): ("rms", 1.5)},
    elapsed_s=12.0,
    remaining_s=70.0,
    note="tuning",
)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "time", made)
    return made


def console(*, is_terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=is_terminal, width=80, color_system=None), file


def drawn(view: watch.LiveView) -> list[str]:
    shown, file = console(is_terminal=False)
    shown.print(view)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_view_stands_before_anything_is_known(clock: Clock) -> None:
    lines = drawn(watch.LiveView(console(is_terminal=False)[0]))
    assert lines[1].startswith("normkit compare")
    assert lines[1].endswith("0:00")
    assert lines[3] == "starting: loading PyTorch and the data"


def test_the_view_shows_how_much_is_done_and_left_what_runs_and_the_best(clock: Clock) -> None:
    view = watch.LiveView(console(is_terminal=False)[0])
    clock.now += 12
    view.update(PROGRESS)
    clock.now += 5
    lines = drawn(view)
    assert lines[1].split("   ")[1] == "45 of 120 runs (42 found finished)"
    assert lines[1].endswith("0:17 · about 1:05 left")
    assert lines[3] == "tuning"
    assert lines[4:8] == list(PROGRESS.running[:4])
    assert lines[8] == "and 2 more"
    assert [line.split() for line in lines[10:]] == [
        ["best", "so", "far", "batch", "2", "batch", "16"],
        ["digits-mlp", "none", "0.300", "layer", "0.215"],
        ["digits-cnn", "–", "rms", "1.500"],
    ]


def test_no_line_is_wider_than_the_terminal(clock: Clock) -> None:
    view = watch.LiveView(console(is_terminal=False)[0])
    view.update(replace(PROGRESS, running=("x" * 300,), note="y" * 300))
    assert max(map(len, drawn(view))) <= 80


def test_hostile_names_are_not_markup(clock: Clock) -> None:
    view = watch.LiveView(console(is_terminal=False)[0])
    view.update(replace(PROGRESS, running=("[bold]x[/bold]",), note="[red]", best={("[/]", 2): ("[b]", 0.1)}))
    text = "\n".join(drawn(view))
    assert "[bold]x[/bold]" in text
    assert "[red]" in text
    assert "[/]" in text


def test_in_a_terminal_the_view_is_drawn_at_once_and_gone_at_the_end() -> None:
    shown, file = console(is_terminal=True)
    with watch.watch(shown, is_shown=True) as watcher:
        assert "normkit compare" in file.getvalue()
        assert isinstance(watcher, watch.LiveView)
    assert file.getvalue().endswith("\x1b[2K")  # the last thing written clears a line


def test_elsewhere_lines_come_at_the_start_with_news_and_every_ten_seconds(clock: Clock) -> None:
    shown, file = console(is_terminal=False)
    with watch.watch(shown, is_shown=True) as watcher:
        assert file.getvalue() == "normkit compare: starting\n"
        watcher.update(replace(PROGRESS, done=42, running=(), note=""))
        watcher.update(PROGRESS)
        clock.now += 9
        watcher.update(replace(PROGRESS, done=60))
        clock.now += 1.5
        watcher.update(replace(PROGRESS, done=70))
        watcher.update(replace(PROGRESS, done=71, note="digits-cnn: a worker died, the run is tried again"))
        watcher.update(replace(PROGRESS, done=120, remaining_s=None, note=""))
    assert file.getvalue().splitlines()[1:] == [
        "42 of 120 runs are there; going on.",
        "45 of 120 runs (42 found finished) · about 1:10 left · tuning",
        "70 of 120 runs (42 found finished) · about 1:10 left · tuning",
        "71 of 120 runs (42 found finished) · about 1:10 left · digits-cnn: a worker died, the run is tried again",
        "120 of 120 runs (42 found finished)",
    ]


def test_a_terminal_keeps_the_line_on_what_is_there_already() -> None:
    shown, file = console(is_terminal=True)
    with watch.watch(shown, is_shown=True) as watcher:
        watcher.update(replace(PROGRESS, done=120, resumed=120))
        watcher.update(PROGRESS)
    assert file.getvalue().count("120 of 120 runs are there; nothing is left to compute.\n") == 1


def test_nothing_is_shown_where_nothing_is_wanted() -> None:
    shown, file = console(is_terminal=True)
    with watch.watch(shown, is_shown=False) as watcher:
        watcher.update(PROGRESS)
    assert file.getvalue() == ""


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(seconds: float, words: str, clock: Clock) -> None:
    view = watch.LiveView(console(is_terminal=False)[0])
    clock.now += seconds
    assert drawn(view)[1].endswith(f" {words}")
