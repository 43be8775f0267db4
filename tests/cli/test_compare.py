"""``normkit compare``: what it asks the laboratory for, what it prints and writes, how it ends."""

from __future__ import annotations

import importlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normkit.cli import compare as compare_module
from normkit.cli import main
from normkit.cli.app import run
from normkit.lab import Comparison, Interval, Progress
from normkit.lab.store import Store
from normkit.lab.tasks import USUAL_TASKS
from report.example import example_comparison

TINY = str(Path(__file__).with_name("tiny_task.py"))
Compare = Callable[..., Comparison]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the laboratory was asked for; it answers with the example, without its failure."""
    seen: dict[str, Any] = {}

    def compare(tasks: Sequence[str], **choices: Any) -> Comparison:
        seen.update(choices, tasks=tasks)
        choices["on_progress"](Progress(1, 2, 0, ("x",), {}, 1.0, None))
        return without_failures(example_comparison())

    answer_with(monkeypatch, compare)
    return seen


def answer_with(monkeypatch: pytest.MonkeyPatch, compare: Compare) -> None:
    monkeypatch.setattr(importlib.import_module("normkit.lab.compare"), "compare", compare)


def without_failures(comparison: Comparison) -> Comparison:
    def mended(cell: Any) -> Any:
        return replace(
            cell, scores=tuple(replace(s, status="not-run") if s.status == "failed" else s for s in cell.scores)
        )

    return replace(comparison, cells=tuple(map(mended, comparison.cells)))


def test_options_reach_the_laboratory(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "digits-mlp,digits-cnn", "-t", "mine.py", "--norm", "batch,layer", "-b", "2", "-b", "16"]
    arguments += ["--seeds", "7", "--budget", "90s"]
    assert main(["compare", *arguments, "--engine", "ray", "--address", "a:1", "--workers", "3"]) == 0
    del asked["on_progress"]
    assert compare_module.WRITING_S < asked.pop("spent_s") < compare_module.WRITING_S + 30
    assert asked == {
        "tasks": ["digits-mlp", "digits-cnn", "mine.py"],
        "norms": ["batch", "layer"],
        "batch_sizes": [2, 16],
        "seeds": 7,
        "budget": "90s",
        "engine": "ray",
        "address": "a:1",
        "workers": 3,
        "store": Path("out/normkit.sqlite"),
    }
    assert capsys.readouterr().err.startswith("normkit compare: starting\n")


def test_without_options_every_task_runs_as_it_says_itself(asked: dict[str, Any]) -> None:
    assert main(["compare"]) == 0
    assert asked["tasks"] == list(USUAL_TASKS)
    assert asked["norms"] is asked["batch_sizes"] is asked["address"] is asked["workers"] is None
    assert (asked["seeds"], asked["budget"], asked["engine"]) == (5, "3m", "local")


def test_it_ends_with_table_cuts_counts_and_the_path_of_the_report(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--no-progress"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    out = captured.out
    assert "     64  0.204   0.115 best" in out
    assert "0.167 tie" in out
    assert "Use group: it beats every other norm here." in out
    assert "Cut: One tuning seed instead of two.\n" in out
    assert "42 runs found finished in out/normkit.sqlite, 699 computed in 2 min 51 s.\n" in out
    assert out.endswith("Report  out/report.html\n")
    assert "RMSNorm is best or tied" in Path("out/report.html").read_text(encoding="utf-8")


def test_json_is_all_there_is_on_stdout(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "--report", "r.html", "--export", "runs.csv"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cells"][2]["winners"] == ["batch"]
    assert told["cells"][2]["scores"][1]["nll"]["n"] == 5
    assert told["n_resumed"] == 42
    assert (told["report"], told["export"]) == ("r.html", "runs.csv")
    assert "records" not in told


def test_numbers_that_are_not_finite_are_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = example_comparison().cells[2]
    endless = replace(cell.scores[0], nll=Interval(math.inf, None, None, 1))
    comparison = replace(example_comparison(), cells=(replace(cell, scores=(endless, *cell.scores[1:])),))
    answer_with(monkeypatch, lambda *_, **__: comparison)
    assert main(["compare", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["cells"][0]["scores"][0]
    assert score["nll"] == {"mean": None, "low": None, "high": None, "n": 1}


def test_nothing_finished_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer_with(monkeypatch, lambda *_, **__: replace(example_comparison(), cells=(), records=()))
    assert main(["compare", "--no-progress"]) == 1
    assert "Nothing finished yet, so there is no answer." in capsys.readouterr().out


def test_export_writes_every_run_and_does_not_replace_a_file(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--export", "new/runs.jsonl"]) == 0
    lines = Path("new/runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(example_comparison().records)
    assert "Runs    new/runs.jsonl\n" in capsys.readouterr().out
    asked.clear()
    assert main(["compare", "--export", "new/runs.jsonl"]) == 2
    assert asked == {}  # refused before the work, not after
    assert "choose another name or add --force." in capsys.readouterr().err
    assert main(["compare", "--export", "new/runs.jsonl", "--force"]) == 0


def test_a_failed_run_is_said_and_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer_with(monkeypatch, lambda *_, **__: example_comparison())
    assert main(["compare", "--no-progress"]) == 1
    assert capsys.readouterr().err == (
        "normkit: digits-transformer, batch 64, group failed: the worker died three times; see its last line: Killed\n"
    )


def test_a_report_that_cannot_be_written_costs_no_answer(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("normkit.report.write_report", full)
    assert main(["compare", "--no-progress", "--export", "runs.csv"]) == 1
    captured = capsys.readouterr()
    assert "Use group: it beats every other norm here." in captured.out
    assert captured.out.endswith("Runs    runs.csv\n")
    assert captured.err == (
        "normkit: --report: out/report.html could not be written ([Errno 28] No space left on device); "
        "run the same command again.\n"
    )


def test_an_interrupted_comparison_says_what_is_kept_and_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, lambda *_, **__: example_comparison(interrupted=True))
    assert main(["compare", "--no-progress"]) == 130
    out = capsys.readouterr().out
    assert "Interrupted. Every finished run is kept in out/normkit.sqlite; the same command resumes.\n" in out
    assert "Interrupted." in Path("out/report.html").read_text(encoding="utf-8")


def test_init_writes_a_task_and_never_replaces_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--init", "mine.py"]) == 0
    assert capsys.readouterr().out == "Wrote mine.py. It runs as it is:\n\n  normkit compare --task mine.py\n"
    template = Path("mine.py").read_text(encoding="utf-8")
    assert "task = Task(" in template
    Path("mine.py").write_text("my work")
    assert main(["compare", "--init", "mine.py"]) == 2
    assert capsys.readouterr().err == (
        "normkit: --init: expected a path where nothing is, got 'mine.py'; choose another name or add --force.\n"
    )
    assert Path("mine.py").read_text() == "my work"
    assert main(["compare", "--init", "mine.py", "--force"]) == 0
    assert Path("mine.py").read_text(encoding="utf-8") == template
    assert not Path("out").exists()


def test_the_budget_starts_with_the_command(asked: dict[str, Any]) -> None:
    """Importing took 40 s, say: so much is spent, and the time to write the report is kept besides."""
    started_at = time.monotonic() - 40
    assert run(["compare", "--no-progress"], started_at) == 0
    assert 40 + compare_module.WRITING_S <= asked["spent_s"] < 40 + compare_module.WRITING_S + 30


def test_a_real_comparison_is_interrupted_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--task", TINY, "--batch-size", "4", "--workers", "1"]
    first = subprocess.Popen(
        [sys.executable, "-m", "normkit", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    store = Path("out/normkit.sqlite")
    while first.poll() is None and not (store.exists() and runs_in(store)):
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert "Traceback" not in err
    assert first.returncode in (0, 130)  # 0: it was done before the signal came
    assert ("the same command resumes." in out) == (first.returncode == 130)
    kept = runs_in(store)
    assert kept > 0

    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_resumed"] == kept
    assert [cell["task"] for cell in told["cells"]] == ["tiny"]
    assert all(score["status"] == "done" for score in told["cells"][0]["scores"])
    assert "tiny" in Path(told["report"]).read_text(encoding="utf-8")


def runs_in(store: Path) -> int:
    with Store(store) as kept:
        return len(list(kept.records()))
