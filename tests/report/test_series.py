"""From records to lines."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from normkit.report import series
from report.example import LEARNING_RATES, SEEDS, example_comparison

COMPARISON = example_comparison()


def test_sweep_averages_the_finished_tuning_runs_and_counts_the_diverged() -> None:
    sweep = next(s for s in series.sweeps(COMPARISON, "digits-lstm", 4) if s.norm == "none")
    assert [point.learning_rate for point in sweep.points] == list(LEARNING_RATES)
    runs = [
        r.metrics["val_nll"]
        for r in COMPARISON.records
        if r.spec.role == "tune" and (r.spec.task, r.spec.batch_size, r.spec.norm) == ("digits-lstm", 4, "none")
        if r.spec.learning_rate == 1e-3
    ]
    assert sweep.points[0].val_nll == pytest.approx(statistics.fmean(runs))
    assert sweep.points[0].n_diverged == 0
    assert sweep.points[3].val_nll is None
    assert (sweep.points[3].n_diverged, sweep.points[3].n_runs) == (2, 2)


def test_exactly_the_chosen_rate_is_marked() -> None:
    for cell in COMPARISON.cells:
        chosen = {score.norm: score.learning_rate for score in cell.scores}
        for sweep in series.sweeps(COMPARISON, cell.task, cell.batch_size):
            marked = [point.learning_rate for point in sweep.points if point.is_chosen]
            assert marked == [chosen[sweep.norm]]


def test_norms_that_were_not_tuned_have_no_sweep() -> None:
    assert "batch" not in {s.norm for s in series.sweeps(COMPARISON, "digits-cnn", 1)}


def test_curves_are_means_over_seeds_with_the_diverged_runs_apart() -> None:
    curves = {c.norm: c for c in series.curves(COMPARISON, "digits-lstm", 4)}
    assert len(curves["none"].diverged) == 2
    assert curves["layer"].diverged == ()
    runs = [
        dict(r.curve)
        for r in COMPARISON.records
        if r.spec.role == "evaluate" and (r.spec.task, r.spec.batch_size, r.spec.norm) == ("digits-lstm", 4, "layer")
    ]
    step = curves["layer"].steps[3]
    assert len(runs) == len(SEEDS)
    assert curves["layer"].mean[3] == pytest.approx(statistics.fmean(run[step] for run in runs))
    assert curves["layer"].low[3] == min(run[step] for run in runs)
    assert curves["layer"].high[3] == max(run[step] for run in runs)


def test_a_norm_whose_every_run_diverged_has_only_those_curves() -> None:
    curve = next(c for c in series.curves(COMPARISON, "digits-transformer", 1) if c.norm == "none")
    assert curve.steps == curve.mean == ()
    assert len(curve.diverged) == 5


def test_curves_of_different_lengths_are_averaged_where_all_have_points() -> None:
    first, *others = (r for r in COMPARISON.records if r.spec.role == "evaluate" and r.spec.norm == "layer")
    short = replace(first, curve=first.curve[:4])
    curve = next(
        c
        for c in series.curves(replace(COMPARISON, records=(short, *others)), first.spec.task, first.spec.batch_size)
        if c.norm == "layer"
    )
    assert curve.steps == tuple(step for step, _ in first.curve[:4])


def test_scores_go_by_batch_size_whatever_the_order_of_the_cells() -> None:
    turned = replace(COMPARISON, cells=COMPARISON.cells[::-1])
    points = series.scores_by_norm(turned, "digits-cnn")["layer"]
    assert [point.batch_size for point in points] == [1, 4, 64]


def test_only_norms_evaluated_in_several_ways_are_listed() -> None:
    found = series.evaluations(COMPARISON, "digits-cnn")
    assert set(found) == {"batch"}
    assert list(found["batch"]) == ["running", "batch", "recomputed"]
    assert [size for size, _ in found["batch"]["running"]] == [4, 64]


def test_runs_of_a_task_file_are_found_by_its_path() -> None:
    info = replace(COMPARISON.tasks[0], name="mine", text="digits-mlp")
    cells = tuple(replace(cell, task="mine") for cell in COMPARISON.cells if cell.task == "digits-mlp")
    mine = replace(COMPARISON, tasks=(info,), cells=cells)
    assert series.sweeps(mine, "mine", 4) == series.sweeps(COMPARISON, "digits-mlp", 4)
    assert series.curves(mine, "mine", 4) == series.curves(COMPARISON, "digits-mlp", 4)
