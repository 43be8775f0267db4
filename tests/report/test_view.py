"""The page as data: what is there, and the sentences that are computed."""

from __future__ import annotations

from dataclasses import replace

from normkit.lab.comparison import Interval
from normkit.report.method import method
from normkit.report.view import page
from report.example import example_comparison

COMPARISON = example_comparison()
PAGE = page(COMPARISON)


def test_every_task_and_batch_size_has_its_figures() -> None:
    assert [view.title for view in PAGE.by_batch_size] == [task.name for task in COMPARISON.tasks]
    for panels in (PAGE.by_learning_rate, PAGE.loss_curves):
        assert [panel.task for panel in panels] == [task.name for task in COMPARISON.tasks]
        assert [view.title for view in panels[0].figures] == ["batch 1", "batch 4", "batch 64"]
    assert PAGE.scale == "4 tasks, 3 batch sizes, 6 norms"


def test_what_was_not_run_has_no_figures() -> None:
    bare = page(replace(COMPARISON, records=(), cells=COMPARISON.cells[:1]))
    assert bare.by_learning_rate == bare.loss_curves == ()
    assert [view.title for view in bare.by_batch_size] == ["digits-mlp"]
    assert bare.evaluations == ()
    assert bare.evaluation_finding == ""


def test_the_worst_case_of_running_statistics_is_said() -> None:
    assert PAGE.evaluation_finding == (
        "The running statistics cost most in digits-transformer at batch 4: BatchNorm scores 0.835 with them and 0.668 "
        "with recomputed statistics."
    )


def test_running_statistics_that_cost_nothing_are_said_to() -> None:
    same = {"running": Interval(0.1, 0.1, 0.1, 5), "recomputed": Interval(0.099, 0.1, 0.1, 5)}
    cell = COMPARISON.cells[2]
    scores = tuple(replace(s, evaluations=same) if s.norm == "batch" else s for s in cell.scores)
    found = page(replace(COMPARISON, cells=(replace(cell, scores=scores),))).evaluation_finding
    assert found == "Here the running statistics cost next to nothing: at most 0.001 nats."


def test_step_times_are_told_as_ratios() -> None:
    finding = PAGE.step_time_finding
    assert finding.startswith("Against no normalization, a step takes 1.32× with LayerNorm, ")
    assert finding.endswith(" (median over the rows).")
    scores = tuple(s for s in COMPARISON.cells[0].scores if s.norm != "none")
    assert page(replace(COMPARISON, cells=(replace(COMPARISON.cells[0], scores=scores),))).step_time_finding == ""


def test_all_numbers_hold_a_row_a_norm_and_batch_size() -> None:
    table = PAGE.numbers[0]
    assert len(table.rows) == 18
    assert all(len(row) == len(table.columns) for row in table.rows)
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["norm"] == "none"
    assert first["learning rate"] == "0.03 †"
    assert first["parameters"] == "4,810"
    impossible = dict(zip(table.columns, table.rows[1], strict=True))
    assert (impossible["outcome"], impossible["test NLL"]) == ("impossible", "–")


def test_method_tells_runs_time_provenance_cuts_and_open_tuning() -> None:
    view = method(COMPARISON)
    facts = {fact.label: fact.value for fact in view.facts}
    assert facts["Runs"] == f"{COMPARISON.n_computed} computed, 42 found finished from earlier"
    assert facts["Time"] == "2 min 51 s"
    assert facts["Versions"] == "python 3.11.2; torch 2.13.0; numpy 2.4.6"
    assert facts["Seeds"] == "evaluation 0, 1, 2, 3, 4; tuning 1000, 1001"
    assert "Protocol" not in facts
    assert len(view.protocol) == 2
    assert view.cut == COMPARISON.cut
    assert view.untuned == ("digits-mlp, batch 1: none at learning rate 0.03",)


def test_a_protocol_in_one_sentence_is_a_list_of_one() -> None:
    assert method(replace(COMPARISON, provenance={"protocol": "As usual."})).protocol == ("As usual.",)
    assert method(replace(COMPARISON, provenance={})).protocol == ()
