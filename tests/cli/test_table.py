"""The answer in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from normkit.cli.table import answer_table, reasons
from normkit.report.answer import answer
from report.example import HOSTILE_NAME, example_comparison

VIEW = answer(example_comparison())


def printed(part: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_scores_stand_with_their_half_interval_and_their_standing() -> None:
    text = printed(answer_table(VIEW))
    assert (
        "  batch  none    batch       layer      rms        group      instance\n"
        "      1  0.199†  impossible  0.167 tie  0.171 tie  0.176 tie  impossible\n"
        "         ±0.010              ±0.005     ±0.005     ±0.006\n"
    ) in text
    assert "     64  0.204   0.115 best  0.152      0.156      0.165      impossible\n" in text
    assert "         2/5 diverged\n" in text


def test_every_row_has_its_advice_and_the_whole_its_headline() -> None:
    text = printed(answer_table(VIEW), width=400)
    for cell in example_comparison().cells:
        assert f"  batch {cell.batch_size}".ljust(12) + cell.advice in text
    assert f"\n{VIEW.headline}\n{VIEW.lead}\n" in text
    assert "† The best learning rate lies at the edge of the grid" in text


def test_the_dagger_is_explained_only_where_it_is() -> None:
    comparison = example_comparison()
    tuned = [cell for cell in comparison.cells if all(score.tuning_complete for score in cell.scores)]
    assert len(tuned) < len(comparison.cells)
    assert "†" not in printed(answer_table(answer(replace(comparison, cells=tuple(tuned)))))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, printed(answer_table(VIEW), width).splitlines())) <= width


def test_reasons_are_said() -> None:
    text = printed(reasons(VIEW), width=300)
    assert "batch impossible     batch needs more than one value per channel to train, got batch size 1" in text
    assert "group failed         the worker died three times; see its last line: Killed (digits-transformer at" in text


def test_text_from_outside_is_not_markup() -> None:
    view = answer(example_comparison(rename={"digits-mlp": "[bold]mine", "digits-cnn": HOSTILE_NAME}))
    text = printed(answer_table(view), width=200)
    assert "\n[bold]mine  Two hidden layers" in text
    assert HOSTILE_NAME in text
