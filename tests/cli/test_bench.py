"""`normkit bench` as people and machines call it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.example import record
from normkit.bench import runner
from normkit.bench.records import read, write
from normkit.bench.threads import thread_count
from normkit.cli import main
from normkit.lab.provenance import available_cores

TINY = ("bench", "--op", "layer_norm", "--shape", "8x16", "--no-compile", "--slice", "0.002", "--threads", "1")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))


@pytest.mark.usefixtures("idle")
def test_a_table_for_people_and_progress_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY]) == 0
    out, err = capsys.readouterr()
    assert "layer_norm 8x16 float32 fwd+bwd" in out
    assert "as a geometric mean over 2 cells" in out
    assert "2 cells without compile: not asked for" in out
    assert "timing · 0 of 1 · layer_norm 8x16 float32" in err
    assert "Warning" not in err


@pytest.mark.usefixtures("idle")
def test_json_is_strict_and_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--json", "--dtype", "bfloat16", "--no-progress"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [c["cell"]["workload"]["dtype"] for c in result["cells"]] == ["bfloat16"] * 2
    assert result["cells"][0]["ratio"] > 0
    assert result["provenance"]["options"]["grid"] == "quick"
    assert result["provenance"]["threads"] == 1
    assert len(result["overheads"]) >= 1
    assert result["models"] == []
    assert err == ""


@pytest.mark.usefixtures("idle")
def test_save_writes_a_record_that_show_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--save", "--folder", str(tmp_path), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    (path,) = tmp_path.glob("*-quick.jsonl")
    assert main(["bench", "--show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert len(read(path).cells) == 2


def test_half_a_core_of_other_work_is_too_much_for_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It turns some calls into one more turn of the scheduler, 8 ms, whoever's they are."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.5 * available_cores(), 0.0, 0.0))
    assert main([*TINY, "--save", "--folder", str(tmp_path)]) == 1
    assert "expected an idle machine for a record" in capsys.readouterr().err


@pytest.mark.usefixtures("busy")
def test_a_busy_machine_is_warned_of_and_stores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--no-progress"]) == 0
    assert "Warning: the load average is 1000.0" in capsys.readouterr().err
    assert main([*TINY, "--save", "--folder", str(tmp_path)]) == 1
    assert "expected an idle machine for a record, got a load average of 1000.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_update_renews_the_tables_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(record(), tmp_path / "benchmarks")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:begin -->\n<!-- bench:end -->\n", encoding="utf-8")
    assert main(["bench", "--show", str(path), "--update", str(readme)]) == 0
    assert f"record: `benchmarks/{path.name}`" in readme.read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "red  batch_norm 32x64x56x56 channels_last bfloat16 fwd+bwd: normkit: output 0 is off" in out
    assert "layer_norm 512x768 float32 fwd+bwd: 0.50x, torch" in out
    assert "red: the loss is nan" in out


@pytest.mark.usefixtures("idle")
def test_recurrent_layers_are_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ("bench", "--op", "lstm,gru", "--shape", "3x1x4x8", "--slice", "0.002", "--threads", "1")
    assert main([*tiny, "--save", "--folder", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "gru 3x1x4x8 fwd+bwd" in out
    assert "geometric mean" not in out  # which is that of the norms
    assert "timing · lstm 3x1x4x8" in err
    (path,) = tmp_path.glob("*-quick.jsonl")
    assert main(["bench", "--show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [f"{r['case']['op']} {r['mode']}" for r in shown["recurrent"]] == [
        "lstm fwd", "lstm fwd+bwd", "gru fwd", "gru fwd+bwd",
    ]  # fmt: skip
    assert shown["cells"] == []


@pytest.mark.usefixtures("idle")
def test_a_shape_alone_is_one_of_rows_or_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("normkit.bench.measure_recurrent", lambda cases, *_: asked.extend(cases) or ())
    assert main([*TINY[:1], *TINY[3:]]) == 0
    assert asked == []


@pytest.mark.usefixtures("idle")
def test_a_wrong_result_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("normkit.bench.gate.TOLERANCES", dict.fromkeys((torch.float32, torch.bfloat16), 0.0))
    assert main([*TINY]) == 1
    assert "red  layer_norm 8x16 float32 fwd: torch: output 0 is off by" in capsys.readouterr().out


@pytest.mark.usefixtures("idle")
def test_an_interrupt_shows_what_there_is_and_stores_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_then_interrupt(*args: Any, **kwargs: Any) -> Any:
        yield from runner.run(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr("normkit.bench.run", two_then_interrupt)
    assert main([*TINY, "--save", "--folder", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert "layer_norm 8x16 float32 fwd+bwd" in out
    assert "Interrupted. What was measured is shown; nothing is stored." in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "lstm", "--shape", "8x16"], "expected operations for the shapes, got lstm and 8x16; give .* TxNxIxH"),
        (["--op", "layernorm"], "expected an operation of .*did you mean layer_norm"),
        (["--shape", "4096"], "expected a shape of two or four sizes"),
        (
            ["--op", "layer_norm", "--shape", "2x3x4x5"],
            "expected operations for the shapes, got layer_norm and 2x3x4x5",
        ),
        (["--update", "README.md"], "--update: expected a stored record, got none; add --show RECORD"),
        (["--grid", "huge"], "huge"),
    ],
)
@pytest.mark.usefixtures("idle")
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_missing_record_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--show", str(tmp_path / "none.jsonl")]) == 1
    assert "expected a record written by" in capsys.readouterr().err


@pytest.mark.usefixtures("idle")
def test_grid_none_leaves_only_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    with thread_count(1):
        assert main(["bench", "--grid", "none", "--slice", "0.002", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["cells"] == []
    assert result["geometric_mean"] is None
    assert result["overheads"]
