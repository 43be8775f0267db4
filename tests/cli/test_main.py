"""``normkit`` as a whole: help, versions, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import normkit
from normkit.cli import main


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"normkit {normkit.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["info", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: normkit")
    assert max(map(len, out.splitlines())) <= 80


def test_the_first_words_of_compare_and_help_do_not_wait_for_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from contextlib import contextmanager
from normkit.cli import compare, main
assert main(["--help"]) == 0
@contextmanager
def spy(console, *, is_shown):
    assert is_shown and "torch" not in sys.modules and "plotly" not in sys.modules
    print("painted")
    raise KeyboardInterrupt
    yield
compare.watch = spy
sys.exit(main(["compare", "--store", {str(tmp_path / "runs.sqlite")!r}, "--report", {str(tmp_path / "r.html")!r}]))
"""
    done = python("-c", code)
    assert done.stdout.endswith("painted\n")
    assert done.stderr.startswith("Interrupted. Every finished run is kept")
    assert done.returncode == 130


def test_python_m_normkit_is_normkit() -> None:
    done = python("-m", "normkit", "--version")
    assert (done.returncode, done.stdout) == (0, f"normkit {normkit.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: normkit"),
        (["compere"], "No such command 'compere'"),
        (["compare", "--norms", "batch"], "No such option: --norms"),
        (["compare", "--engine", "slurm"], "'slurm'"),
        (["compare", "--batch-size", "two"], "expected whole numbers of at least 1, got 'two'"),
        (["compare", "--task", ""], "--task: expected at least one value, got ''"),
        (["compare", "--norm", ""], "--norm: expected at least one value, got ''"),
        (["compare", "--batch-size", ""], "--batch-size: expected at least one value, got ''"),
        (
            ["compare", "--batch-size", "9999999999", "--no-progress"],
            "expected batch sizes from 1 to 1000000, got 9999",
        ),
        (["compare", "--export", "runs.xls"], "expected a file that ends in .csv, .jsonl or .parquet, got 'runs.xls'"),
        (["compare", "--norm", "layr", "--no-progress"], "layer"),
        (["compare", "--task", "digits-cn", "--no-progress"], "digits-cnn"),
        (["compare", "--budget", "soon", "--no-progress"], "soon"),
        (["compare", "--init", "task.txt"], "expected a file that ends in .py, got 'task.txt'"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_is_said_in_a_line_and_is_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out * (not arguments)
    assert "Traceback" not in captured.err


def test_a_broken_task_file_is_a_failure_that_names_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import torch\n\n1 / 0\n")
    assert main(["compare", "--task", "mine.py", "--no-progress"]) == 1
    assert capsys.readouterr().err == "normkit: mine.py:3: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_extra_is_one_sentence(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from normkit.cli import main; sys.exit(main(['info']))"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f'normkit: expected the package {package}, got none; run `pip install "normkit[lab]"`.\n'


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == normkit.info() + "\n"
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["info"] == normkit.info().splitlines()
    assert told["versions"]["normkit"] == normkit.__version__
