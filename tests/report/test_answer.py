"""Who won, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normkit.lab.comparison import Cell, Comparison, Interval, Score, TaskInfo
from normkit.report.answer import answer
from report.example import example_comparison


def small(*cells: Cell) -> Comparison:
    """A comparison of one task with these cells and no runs."""
    norms = tuple(dict.fromkeys(score.norm for cell in cells for score in cell.scores))
    return Comparison(
        tasks=(TaskInfo("task", "", {}),),
        norms=norms,
        batch_sizes=tuple(cell.batch_size for cell in cells),
        cells=cells,
        records=(),
        cut=(),
        n_resumed=0,
        n_computed=0,
        wall_s=0.0,
        interrupted=False,
        provenance={},
    )


def cell(batch_size: int, means: dict[str, float | None], *winners: str) -> Cell:
    scores = [
        Score(norm, "not-run") if mean is None else Score(norm, "done", nll=Interval(mean, mean, mean, 5))
        for norm, mean in means.items()
    ]
    return Cell("task", batch_size, tuple(scores), winners, "")


def test_a_single_winner_is_best_and_the_others_behind() -> None:
    row = answer(small(cell(2, {"batch": 0.3, "layer": 0.1}, "layer"))).tasks[0].rows[0]
    assert [score.standing for score in row.scores] == ["behind", "best"]
    assert row.scores[0].behind == pytest.approx(0.2)
    assert row.scores[1].behind == 0


def test_several_winners_tie() -> None:
    row = answer(small(cell(2, {"batch": 0.3, "layer": 0.1, "rms": 0.12}, "layer", "rms"))).tasks[0].rows[0]
    assert [score.standing for score in row.scores] == ["behind", "tie", "tie"]


def test_worse_by_its_own_interval_is_unclear_and_counts_for_nothing() -> None:
    """Holm's correction may leave a norm beside the best that its own interval does not."""

    def with_rms_unclear(winners: tuple[str, ...]) -> list[str]:
        found = cell(2, {"batch": 0.3, "layer": 0.1, "rms": 1.5}, *winners)
        scores = tuple(replace(s, unclear=s.norm == "rms") for s in found.scores)
        told = answer(small(replace(found, scores=scores)))
        assert told.norms[2].n_best == 0
        return [score.standing for score in told.tasks[0].rows[0].scores]

    assert with_rms_unclear(("batch", "layer", "rms")) == ["tie", "tie", "unclear"]
    assert with_rms_unclear(("layer", "rms")) == ["behind", "lowest", "unclear"]


def test_distance_is_to_the_best_winner_not_to_a_lower_mean_that_cannot_be_compared() -> None:
    found = cell(2, {"batch": 0.05, "layer": 0.1}, "layer")
    diverged = replace(found.scores[0], status="diverged", n_diverged=4, n_runs=5)
    row = answer(small(replace(found, scores=(diverged, found.scores[1])))).tasks[0].rows[0]
    assert row.scores[1].behind == 0
    assert row.scores[0].standing == "behind"
    assert row.scores[0].note == "diverged in 4 of 5 runs"
    assert row.scores[0].short_note == "4/5 diverged"


def test_headline_of_one_row() -> None:
    assert answer(small(cell(2, {"a": 0.3, "rms": 0.1}, "rms"))).headline == "RMSNorm is best."
    tied = answer(small(cell(2, {"layer": 0.1, "rms": 0.1}, "layer", "rms")))
    assert tied.headline == "LayerNorm and RMSNorm tie for best."
    assert tied.lead == ""


def test_headline_says_when_rows_are_missing() -> None:
    means, waiting = {"batch": 0.2, "layer": 0.1}, cell(8, {"batch": None, "layer": None})
    view = answer(small(cell(2, means, "layer"), waiting))
    assert view.headline == "LayerNorm is best in the one row that finished."
    view = answer(small(cell(2, means, "layer"), cell(4, means, "layer"), waiting))
    assert view.headline == "LayerNorm is best or tied for best in every finished row."
    view = answer(small(cell(2, means, "layer"), cell(4, means, "batch"), waiting))
    assert view.headline == "BatchNorm and LayerNorm are each best or tied for best in 1 of 2 finished rows."


def test_headline_counts_the_rows() -> None:
    means = {"batch": 0.2, "layer": 0.1}
    view = answer(small(cell(2, means, "layer"), cell(4, means, "layer"), cell(8, means, "batch", "layer")))
    assert view.headline == "LayerNorm is best or tied for best in every row."
    view = answer(small(cell(2, means, "layer"), cell(4, means, "layer"), cell(8, means, "batch")))
    assert view.headline == "LayerNorm is best or tied for best in 2 of 3 rows."
    assert view.lead.startswith("BatchNorm is in 1. ")


def test_leaders_with_the_same_count_share_the_headline() -> None:
    means = {"none": 0.2, "mine": 0.1}
    view = answer(small(cell(2, means, "none"), cell(4, means, "mine")))
    assert view.headline == "No normalization and mine are each best or tied for best in 1 of 2 rows."


def test_the_safest_choice_is_the_one_that_loses_least_at_worst() -> None:
    rows = (
        cell(2, {"batch": 0.9, "layer": 0.15, "rms": 0.1, "group": None}, "rms"),
        cell(64, {"batch": 0.1, "layer": 0.2, "rms": 0.4, "group": 0.1}, "batch"),
    )
    assert answer(small(*rows)).lead.endswith(
        "The safest single choice is LayerNorm: it finished everywhere and is at most 0.100 nats behind the best "
        "(task, batch 64)."
    )


def test_a_norm_that_was_asked_for_in_some_rows_only_is_no_safest_choice() -> None:
    rows = (
        cell(2, {"batch": 0.2, "layer": 0.15}, "layer"),
        cell(64, {"batch": 0.1, "layer": 0.12, "instance": 0.1}, "batch"),
    )
    assert "safest single choice is LayerNorm" in answer(small(*rows)).lead


def test_rows_where_nothing_finished_do_not_count() -> None:
    view = answer(small(cell(2, {"batch": None}), cell(4, {"batch": None})))
    assert view.headline == "Nothing finished yet, so there is no answer."
    assert view.lead == ""
    assert view.norms[0].troubles == "not run in 2 rows"
    assert not view.norms[0].is_everywhere


def test_reasons_are_said_once_for_all_rows_that_share_them() -> None:
    notes = answer(example_comparison()).notes
    batch = next(note for note in notes if note.norm == "batch")
    assert batch.status == "impossible"
    assert batch.where.startswith("digits-mlp at batch 1; digits-cnn at batch 1; ")
    assert len({(note.norm, note.message) for note in notes}) == len(notes)


def test_every_norm_is_counted_over_all_rows() -> None:
    view = answer(example_comparison())
    assert [norm.name for norm in view.norms] == ["none", "batch", "layer", "rms", "group", "instance"]
    counts = {norm.name: norm.n_best for norm in view.norms}
    winners = [name for row in example_comparison().cells for name in row.winners]
    assert counts == {name: winners.count(name) for name in counts}
    assert next(norm for norm in view.norms if norm.name == "none").troubles == "diverged in 2 rows"


def test_a_norm_that_a_task_does_not_compare_leaves_its_column_empty() -> None:
    comparison = replace(small(cell(2, {"layer": 0.1}, "layer")), norms=("batch", "layer"))
    view = answer(comparison)
    assert [score.norm for score in view.tasks[0].rows[0].scores] == ["batch", "layer"]
    assert view.tasks[0].rows[0].scores[0].note == "–"
    assert view.norms[0].troubles == ""
    assert not view.norms[0].is_everywhere


def test_while_nobody_has_won_nobody_is_behind() -> None:
    view = answer(small(cell(2, {"batch": 0.3, "layer": 0.1, "rms": None})))
    assert [score.behind for score in view.tasks[0].rows[0].scores] == [None, None, None]
    assert [score.standing for score in view.tasks[0].rows[0].scores] == ["behind", "behind", "none"]
    assert view.norms[0].worst is None
