"""Where BatchNorm and LayerNorm change places."""

from __future__ import annotations

from dataclasses import replace

from normkit.lab.comparison import Cell, CellStatus, Interval, Score
from normkit.report.turns import turn


def row(batch_size: int, batch: float, layer: float, half: float = 0.05) -> Cell:
    scores = tuple(
        Score(norm, "done", nll=Interval(mean, mean - half, mean + half, 5))
        for norm, mean in (("none", 0.0), ("batch", batch), ("layer", layer))
    )
    return Cell("task", batch_size, scores, (), "")


def test_one_change_is_said_with_both_distances() -> None:
    said = turn([row(128, 0.1, 0.3), row(2, 1.2, 0.2), row(16, 0.2, 0.22)])
    assert said == (
        "BatchNorm overtakes LayerNorm between batch 2 and 16: 1.00 nats behind at 2, 0.02 nats (within the intervals) "
        "ahead at 16."
    )
    assert turn([row(2, 0.1, 0.9), row(4, 0.9, 0.1)]).startswith("LayerNorm overtakes BatchNorm between batch 2 and 4")


def test_none_or_several_changes_say_nothing() -> None:
    assert turn([]) == ""
    assert turn([row(2, 0.1, 0.9), row(4, 0.1, 0.9)]) == ""
    assert turn([row(2, 0.1, 0.9), row(4, 0.9, 0.1), row(8, 0.1, 0.9)]) == ""


def test_of_several_changes_those_within_the_intervals_are_left_open() -> None:
    """One row at which chance decides does not hide a change that is clear on both sides of it."""
    said = turn([row(2, 1.2, 0.2), row(4, 0.50, 0.52), row(8, 0.50, 0.48), row(16, 0.1, 0.3)])
    assert said == (
        "BatchNorm overtakes LayerNorm between batch 2 and 16: 1.00 nats behind at 2, 0.20 nats ahead at 16. "
        "At 4 and 8 the intervals overlap."
    )
    clear = [row(2, 0.9, 0.1), row(4, 0.1, 0.9), row(8, 0.9, 0.1)]
    assert turn([*clear, row(16, 0.50, 0.52)]) == ""


def without_scores(cell: Cell, norm: str, status: CellStatus) -> Cell:
    scores = [replace(s, status=status, nll=None) if s.norm == norm else s for s in cell.scores]
    return replace(cell, scores=tuple(scores))


def test_who_cannot_train_is_behind() -> None:
    first = without_scores(row(1, 0.0, 0.3), "batch", "impossible")
    assert turn([first, row(16, 0.1, 0.3)]) == (
        "BatchNorm overtakes LayerNorm between batch 1 and 16: impossible at 1, 0.20 nats ahead at 16."
    )
    last = without_scores(row(128, 0.1, 0.0), "layer", "diverged")
    assert turn([row(2, 0.9, 0.1), last]) == (
        "BatchNorm overtakes LayerNorm between batch 2 and 128: 0.80 nats behind at 2, "
        "ahead at 128 (LayerNorm diverged)."
    )
    some = replace(last, scores=tuple(replace(s, n_diverged=2, n_runs=5) for s in last.scores))
    assert turn([row(2, 0.9, 0.1), some]).endswith("ahead at 128 (LayerNorm diverged in 2 of 5 runs).")
    assert turn([without_scores(row(1, 0.0, 0.3), "batch", "not-run"), row(16, 0.1, 0.3)]) == ""


def test_rows_without_both_scores_are_passed_over() -> None:
    diverged = row(8, 0.1, 0.9)
    diverged = replace(diverged, scores=tuple(replace(s, status="diverged") for s in diverged.scores))
    alone = replace(row(16, 0.9, 0.1), scores=row(16, 0.9, 0.1).scores[:2])
    assert turn([row(2, 0.9, 0.1), row(4, 0.8, 0.1), diverged, alone]) == ""
