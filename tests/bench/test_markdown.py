"""The tables of a Markdown file, from a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.example import BATCH_NORM, PROVENANCE, cell, record, recurrent
from normkit.bench.cases import Cell
from normkit.bench.markdown import every_cell, summary, update
from normkit.bench.results import Record
from normkit.errors import BenchError


def row(text: str, start: str) -> list[str]:
    """The cells of the table row that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [part.strip() for part in line.strip("|").split(" | ")]


def test_the_summary_says_where_it_was_measured() -> None:
    first = summary(record(), "benchmarks/a.jsonl").splitlines()[0]
    assert first == (
        "Measured on A processor (2 cores, 2 threads, AVX2), normkit 0.1.0, torch 2.13.0, 2026-11-20, load 0.1 before; "
        "record: `benchmarks/a.jsonl`."
    )


def test_the_summary_has_a_row_an_operation_and_one_for_all() -> None:
    text = summary(record(), "")
    assert row(text, "`layer_norm`") == ["`layer_norm`", "4.00 (4.00)", "–", "0.50 (0.50)", "–", "57%", "0.50"]
    assert row(text, "`batch_norm`") == ["`batch_norm`", "–", "0.97 (0.97)", "–", "–", "80%", "–"]
    assert row(text, "**all**")[:3] == ["**all**", "4.00 (4.00)", "0.97 (0.97)"]
    assert "3 cells, 2 of them with `torch.compile`; 1.25 in all." in text


def test_cells_where_torch_is_faster_are_listed_with_its_best() -> None:
    text = summary(record(), "")
    assert "torch is faster in 2 of 3 cells (1 of them within noise, 0.95 and more):" in text
    assert row(text, "layer_norm 512x768 float32 fwd+bwd") == [
        "layer_norm 512x768 float32 fwd+bwd",
        "0.1",
        "torch",
        "0.2",
        "0.50",
    ]


def test_none_slower_is_said_too() -> None:
    example = record()
    assert "torch is faster in none of 1 cells." in summary(Record(example.provenance, example.cells[:1]), "")


def test_what_was_not_timed_is_listed_with_the_reason_and_bars_stay_text() -> None:
    text = summary(record(), "")
    assert "| rms_norm 4x8 float32 fwd | skipped | no time \\| left |" in text
    assert row(text, "batch_norm 32x64x56x56 channels_last bfloat16 fwd+bwd")[1:] == ["red", "normkit: output 0 is off"]


def test_the_mean_is_said_without_masks_too() -> None:
    example = record()
    masked = replace(example.cells[0], cell=Cell(replace(BATCH_NORM, op="group_norm_masked"), "fwd"))
    text = summary(Record(PROVENANCE, (*example.cells, masked)), "")
    assert "; 1.67 in all, and 1.25 over the 3 without a mask." in text
    assert row(text, "**all without a mask**")[1:] == row(summary(example, ""), "**all**")[1:]


def test_what_masks_cost_has_a_table_that_says_where_the_bar_is_missed() -> None:
    masked = replace(BATCH_NORM, op="batch_norm_masked")
    shown = summary(
        Record(
            record().provenance,
            tuple(
                cell(masked, mode, torch=970, unmasked=100, normkit=us) for mode, us in (("fwd", 125), ("fwd+bwd", 140))
            ),
        ),
        "a.json",
    )
    assert "The bar: at most 1.3." in shown
    assert "| batch_norm_masked 32x64x56x56 channels_last bfloat16 fwd | 0.125 | 1.25 |" in shown
    assert "| batch_norm_masked 32x64x56x56 channels_last bfloat16 fwd+bwd | 0.14 | **1.40** |" in shown
    assert "What a mask costs" not in summary(record(), "a.json")


def test_models_and_calls_have_tables_of_their_own() -> None:
    text = summary(record(), "")
    assert row(text, "llama") == ["llama", "9 of 10", "3", "2", "1.5", "1.50", "2.00"]
    assert row(text, "resnet") == ["resnet", "9 of 9", "3", "2.5", "–", "1.20", "–"]  # as old records have it
    assert row(text, "gpt") == ["gpt", "9 of 9", "–", "–", "–", "red: the loss is nan", "–"]
    assert row(text, "`layer_norm` | 2000") == ["`layer_norm`", "2000", "4000", "0.50"]


def test_recurrent_layers_have_a_table_that_says_where_the_bar_is_missed() -> None:
    text = summary(record(), "")
    bars = "at most 1.25 times the plain layer's time, and at least 4 times the loop's speed."
    assert f"{bars} One or both are missed in 1 of 2 (bold).\n" in text
    assert "**2.00**" in row(text, "lstm 50x1x128x128 fwd+bwd")
    assert row(text, "lstm 50x1x128x128 fwd")[1:] == ["1", "4", "3", "1", "1.00", "4.00", "3.00"]
    assert row(text, "gru 5x4x3x2 fwd")[1:] == [*["–"] * 6, "red: normkit is off"]
    assert "Met in all 1." in summary(Record(PROVENANCE, recurrent=recurrent()[:1]), "")
    assert "1.25 in all." in text  # the mean is that of the norms


def test_every_cell_has_a_row_with_its_numbers() -> None:
    lines = every_cell(record()).splitlines()
    assert len(lines) == 2 + 5
    assert lines[3] == (
        "| layer_norm 512x768 float32 fwd+bwd | 0.1 | 0.4 | 0.2 | 1 | 0.50 | 15.0 | 40% | 1.00 / 0.50 |"
    )
    assert "skipped: no time" in lines[-1]


def test_tables_replace_what_is_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "# Title\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nmiddle\n"
        "<!-- bench-cells:begin -->\n<!-- bench-cells:end -->\nend\n",
        encoding="utf-8",
    )
    update(path, record(), "benchmarks/a.jsonl")
    once = path.read_text(encoding="utf-8")
    assert once.startswith("# Title\n<!-- bench:begin -->\nMeasured on")
    assert "\n<!-- bench:end -->\nmiddle\n<!-- bench-cells:begin -->\n| cell |" in once
    assert once.endswith("<!-- bench-cells:end -->\nend\n")
    assert "\nold\n" not in once
    update(path, record(), "benchmarks/a.jsonl")
    assert path.read_text(encoding="utf-8") == once


def test_a_file_without_markers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(BenchError, match="expected the markers <!-- bench:begin --> and <!-- bench:end -->"):
        update(path, record(), "a")
    assert path.read_text(encoding="utf-8") == "nothing"
