"""compare as a whole: the answer, resuming, interrupts, budgets and every kind of trouble."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lab import fakes
from lab.fakes import Inline
from normkit.errors import ArgumentError, EngineError, MissingExtraError, StoreError, TaskError
from normkit.lab import Comparison, Progress, RunRecord, RunSpec, Score
from normkit.lab.compare import compare
from normkit.lab.costs import CALIBRATION_STEPS
from normkit.lab.engines.base import Died, Event
from normkit.lab.engines.local import LocalEngine
from normkit.lab.loading import load_task
from normkit.lab.store import Store

TESTS = str(Path(__file__).parents[1])
TOY = str(Path(__file__).with_name("toy_task.py"))
NORMS = ["none", "batch", "layer", "rms", "group"]


def run_fakes(run: Callable[[RunSpec], RunRecord] = fakes.run, tasks: Any = TOY, **choices: Any) -> Comparison:
    """A comparison of made-up runs."""
    choices = {"norms": NORMS, "batch_sizes": [2, 16], "budget": None, **choices}
    return compare(tasks, engine=Inline(run), **choices)


def scores(comparison: Comparison, place: int = 0) -> dict[str, Score]:
    return {score.norm: score for score in comparison.cells[place].scores}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return run_fakes()


def test_the_answer_is_what_the_runs_say(whole: Comparison) -> None:
    assert [(cell.task, cell.batch_size) for cell in whole.cells] == [("toy", 2), ("toy", 16)]
    for cell in whole.cells:
        assert [score.norm for score in cell.scores] == NORMS
        assert cell.winners == ("layer", "rms")
        assert re.fullmatch(
            r"Use rms \(lowest mean\); at 5 seeds layer \(\+0\.00\d+\) cannot be told from it\. "
            r"Group is 0\.2 nats worse, batch 0\.3 and no normalization 0\.7\.",
            cell.advice,
        )
    assert (whole.norms, whole.batch_sizes) == (tuple(NORMS), (2, 16))
    assert (whole.cut, whole.interrupted, whole.n_resumed) == ((), False, 0)
    assert whole.n_computed == len(whole.records)


def test_each_score_is_at_its_own_tuned_learning_rate(whole: Comparison) -> None:
    found = scores(whole)
    assert {norm: score.learning_rate for norm, score in found.items()} == {
        "none": 0.01,
        "batch": 0.03,
        "layer": 0.01,
        "rms": 0.01,
        "group": 0.003,
    }
    assert all(score.tuning_complete for score in found.values())
    layer = found["layer"]
    runs = [fakes.run(r.spec) for r in whole.records if r.spec.norm == "layer" and r.spec.batch_size == 2]
    evaluated = [r for r in runs if r.spec.role == "evaluate"]
    assert len(runs) == (4 + 2) * 2 + 5  # 0.01 is at the edge of the grid: two rates below it were tried as well
    assert layer.nll is not None
    assert layer.nll.mean == pytest.approx(sum(r.metrics["test_nll"] for r in evaluated) / 5)
    assert (layer.n_runs, layer.n_diverged, layer.steps, layer.epochs, layer.ms_per_step) == (5, 0, 20, 1.5, 0.5)


def test_differences_are_to_the_best_over_the_same_seeds(whole: Comparison) -> None:
    found = scores(whole)
    best = min(NORMS, key=lambda norm: found[norm].nll.mean)  # type: ignore[union-attr]
    assert found[best].difference is None
    for norm in set(NORMS) - {best}:
        difference, p = found[norm].difference, found[norm].p_adjusted
        assert difference is not None
        assert p is not None
        assert difference.n == 5
        assert difference.mean == pytest.approx(found[norm].nll.mean - found[best].nll.mean)  # type: ignore[union-attr]
        assert (p >= 0.05) == (norm in whole.cells[0].winners)
    assert found["none"].p_sign_flip == 0.0625


def test_norms_with_running_statistics_are_scored_three_ways(whole: Comparison) -> None:
    found = scores(whole)
    ways = {kind: value.mean - found["batch"].nll.mean for kind, value in found["batch"].evaluations.items()}  # type: ignore[union-attr]
    assert ways == pytest.approx({"running": 0.0, "batch": 0.01, "recomputed": 0.02})
    assert found["layer"].evaluations == {}


def test_where_it_comes_from_is_told(whole: Comparison) -> None:
    told = whole.provenance
    assert told["seeds"] == {"evaluation": [0, 1, 2, 3, 4], "tuning": [1000, 1001]}
    assert told["engine"] == "inline, 2 workers, one thread each"
    assert told["budget"] == "none"
    assert {"python", "torch", "normkit"} <= set(told["versions"])
    (info,) = whole.tasks
    assert (info.name, info.description, info.text) == ("toy", "The sign of a sum.", TOY)
    assert info.parameters == fakes.PARAMETERS


def test_identical_arms_tie() -> None:
    for cell in run_fakes(fakes.alike).cells:
        assert cell.winners == tuple(NORMS)
        assert {score.p_adjusted for score in cell.scores} == {None, 1.0}
        assert cell.advice == (
            "Use no normalization (lowest mean); at 5 seeds batch (+0), group (+0), layer (+0) and rms (+0) cannot be "
            "told from it."
        )


def test_every_outcome_has_its_place() -> None:
    found = run_fakes(fakes.mixed, batch_sizes=[2])
    by_norm = scores(found)
    assert {norm: score.status for norm, score in by_norm.items()} == {
        "none": "diverged",
        "batch": "impossible",
        "layer": "done",
        "rms": "done",
        "group": "failed",
    }
    none = by_norm["none"]
    assert (none.n_diverged, none.n_runs, none.message) == (1, 5, "1 of 5 evaluation runs diverged")
    assert none.nll is not None
    assert none.nll.n == 4
    assert (none.difference, none.p_adjusted) == (None, None)
    assert by_norm["group"].message == "ZeroDivisionError: in the user's task"
    assert by_norm["batch"].nll is None
    assert found.cells[0].winners == ("layer", "rms")
    assert found.cells[0].advice == (
        "Use rms (lowest mean); at 5 seeds layer (+0.0028) cannot be told from it. "
        "No normalization diverged in 1 of 5 runs. Batch is impossible here. Group failed."
    )


def test_a_norm_that_diverged_cannot_win_however_good_the_rest_is() -> None:
    def run(spec: RunSpec) -> RunRecord:
        if spec.norm == "layer" and spec.seed == 4:
            return RunRecord(spec, "diverged", message="nan")
        record = fakes.run(spec)
        return record if spec.norm != "layer" else replace(record, metrics=dict.fromkeys(record.metrics, -9.0))

    (cell,) = run_fakes(run, norms=["layer", "group", "none"], batch_sizes=[2]).cells
    assert cell.winners == ("group",)
    assert cell.advice == "Use group: no normalization is 0.5 nats worse. Layer diverged in 1 of 5 runs."


def test_if_nobody_finishes_nobody_wins() -> None:
    (cell,) = run_fakes(fakes.diverge_at_high_rates, norms=["batch"], batch_sizes=[2]).cells
    assert cell.winners == ()
    assert cell.advice == "No norm finished all its runs. Batch diverged at every learning rate tried."


def test_if_everybody_is_impossible_that_is_all_there_is_to_say() -> None:
    impossible = lambda spec: RunRecord(spec, "impossible", message="more samples than there are")  # noqa: E731
    (cell,) = run_fakes(impossible, norms=["none", "batch"], batch_sizes=[2]).cells
    assert cell.winners == ()
    assert cell.advice == "No normalization and batch: impossible at this batch size."


def test_a_failing_task_is_reported_and_tried_again_next_time(store: Path) -> None:
    first = run_fakes(fakes.fail, store=store, batch_sizes=[2])
    assert {score.status for score in first.cells[0].scores} == {"failed"}
    assert first.n_computed <= 2 * len(NORMS)  # what was under way, and no more
    second = run_fakes(fakes.run, store=store, batch_sizes=[2])
    assert (second.n_resumed, second.cells[0].winners) == (0, ("layer", "rms"))


# Resuming.


def test_the_same_command_again_computes_nothing(store: Path, whole: Comparison) -> None:
    first = run_fakes(store=store)
    engine = Inline(fakes.run)
    again = compare(TOY, norms=NORMS, batch_sizes=[2, 16], budget="1m", engine=engine, store=store)
    assert engine.ran == []
    assert (again.n_computed, again.n_resumed) == (0, first.n_computed)
    assert again.cells == first.cells == whole.cells


def test_if_nothing_is_left_to_compute_no_worker_starts(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_fakes(store=store)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    again = compare(TOY, norms=NORMS, batch_sizes=[2, 16], store=store)
    assert again.cells == first.cells
    assert again.provenance["engine"] == "local, no run was computed"
    with pytest.raises(EngineError, match="expected to start a worker process"):
        compare(TOY, norms=NORMS, batch_sizes=[2, 16], seeds=6, store=store)


def test_a_larger_command_computes_only_what_is_new(store: Path, whole: Comparison) -> None:
    run_fakes(store=store, norms=["none", "layer"])
    rest = run_fakes(store=store)
    assert {r.spec.norm for r in rest.records} == set(NORMS)
    assert rest.n_resumed == sum(r.spec.norm in ("none", "layer") for r in whole.records)
    assert rest.cells == whole.cells


def test_more_seeds_keep_the_first_ones(store: Path) -> None:
    first = run_fakes(store=store)
    more = run_fakes(store=store, seeds=7)
    assert more.n_computed == 2 * 2 * len(NORMS)
    assert more.n_resumed == first.n_computed


def interrupt_after(n: int) -> Callable[[RunSpec], RunRecord]:
    done: list[RunSpec] = []

    def run(spec: RunSpec) -> RunRecord:
        if len(done) == n:
            raise KeyboardInterrupt
        done.append(spec)
        return fakes.run(spec)

    return run


@pytest.mark.parametrize("n", [0, 1, 30, 100])
def test_an_interrupt_keeps_what_is_finished(n: int, store: Path, whole: Comparison) -> None:
    engine = Inline(interrupt_after(n))
    part = compare(TOY, norms=NORMS, batch_sizes=[2, 16], budget=None, engine=engine, store=store)
    assert engine.is_closed
    assert part.interrupted
    assert part.n_computed == len(part.records) == n
    assert [cell.winners for cell in part.cells] == [("layer", "rms") if n == 100 else (), ()]
    assert "still to run" in part.cells[1].advice
    assert part.cut[-1].startswith("Not finished when the comparison was interrupted: toy at batch size ")
    rest = run_fakes(store=store)
    assert (rest.n_resumed, rest.n_computed) == (n, len(whole.records) - n)
    assert rest.cells == whole.cells


def test_a_full_disk_ends_the_work_and_keeps_what_was_finished(
    store: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(store).close()
    check = Store._check_content

    def check_and_limit(self: Store) -> None:
        check(self)
        self._connection.execute("PRAGMA max_page_count = 20")

    engine = Inline(fakes.run)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_check_content", check_and_limit)
        with pytest.raises(StoreError, match="got a full disk"):
            compare(TOY, norms=NORMS, batch_sizes=[2, 16], budget=None, engine=engine, store=store)
    assert engine.is_closed
    rest = run_fakes(store=store)
    assert rest.n_resumed == len(engine.ran) - 1 > 10
    assert rest.cells == whole.cells


PROCESS = f"""
import sys, time; sys.path.insert(0, {TESTS!r})
from lab import fakes
from normkit.lab.compare import compare
from normkit.lab.costs import CALIBRATION_STEPS
time.sleep(max(0, float(sys.argv[2]) - time.time()))
progress = lambda p: print(p.done, flush=True)
result = compare(
    {TOY!r}, norms={NORMS!r}, batch_sizes=[2, 16], budget=None, store=sys.argv[1],
    engine=fakes.Inline(fakes.run_quite_slowly), on_progress=progress,
)
print("computed", result.n_computed, result.n_resumed, [cell.winners for cell in result.cells], flush=True)
"""


def start(store: Path, at: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(store), str(at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_command_is_taken_up_where_it_stopped(store: Path, whole: Comparison) -> None:
    process = start(store)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 30:
        continue
    process.kill()
    process.communicate()
    rest = run_fakes(store=store)
    assert rest.n_resumed >= 30
    assert rest.n_resumed + rest.n_computed == len(whole.records)
    assert rest.cells == whole.cells


def test_two_commands_share_a_store_and_the_work(store: Path, whole: Comparison) -> None:
    at = time.time() + 5
    processes = [start(store, at) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in processes]
    assert [errors for _, errors in results] == ["", ""]
    last = [output.splitlines()[-1] for output, _ in results]
    assert all(line.endswith("[('layer', 'rms'), ('layer', 'rms')]") for line in last)
    computed = [int(line.split()[1]) for line in last]
    resumed = [int(line.split()[2]) for line in last]
    assert [c + r for c, r in zip(computed, resumed, strict=True)] == [len(whole.records)] * 2
    with Store(store) as kept:
        assert len(kept) == len(whole.records)
    assert run_fakes(store=store).cells == whole.cells


# Workers, progress and the order of work.


def test_workers_do_not_wait_for_each_other() -> None:
    engine = Inline(fakes.run)
    compare([TOY, "digits-cnn"], norms=NORMS, batch_sizes=[2, 16], budget=None, engine=engine)
    # Only near the very end, where no other cell has work for them.
    assert [n for n, idle in enumerate(engine.n_idle) if idle and n < len(engine.ran) - 10] == []


def test_cells_are_finished_one_after_the_other() -> None:
    engine = Inline(fakes.run)
    compare(TOY, norms=NORMS, batch_sizes=[2, 16, 128], budget=None, engine=engine)
    sizes = [spec.batch_size for spec in engine.ran]
    for size in (2, 16):
        end = max(i for i, s in enumerate(sizes) if s == size)
        early = sum(s > size for s in sizes[:end])
        assert early <= 6  # runs of a worker that would have been idle


def test_whoever_watches_sees_it_all() -> None:
    seen: list[Progress] = []
    result = run_fakes(on_progress=seen.append)
    first, *seen = seen
    assert (first.done, first.resumed, first.total) == (0, 0, seen[0].total)
    assert [p.done for p in seen] == list(range(len(result.records) + 1))
    assert seen[0].total == 2 * 5 * (4 * 2 + 5)
    assert (seen[-1].done, seen[-1].total, seen[-1].running) == (len(result.records),) * 2 + ((),)
    assert all(len(p.running) <= 2 for p in seen)
    assert seen[1].running[0].startswith("toy · batch 2 · none · lr 0.")
    assert seen[-1].best[("toy", 16)][0] in ("layer", "rms")
    assert {p.note for p in seen} == {"", "tuning", "evaluating"}
    assert seen[-1].remaining_s == 0
    assert all(a.elapsed_s <= b.elapsed_s for a, b in pairwise(seen))


def test_whoever_watches_is_told_what_was_found(store: Path) -> None:
    first = run_fakes(store=store, batch_sizes=[2])
    seen: list[Progress] = []
    run_fakes(store=store, on_progress=seen.append)
    assert (seen[0].resumed, seen[0].done) == (first.n_computed,) * 2
    assert {p.resumed for p in seen} == {first.n_computed}


def test_the_death_of_a_worker_is_news() -> None:
    class Mortal(Inline):
        def wait(self, timeout_s: float) -> list[Event]:
            return super().wait(timeout_s) if self.n_idle else [self.die()]

        def die(self) -> Died:
            self.n_idle.append(self.free)
            return Died(self.waiting[0], "was ended by SIGKILL")

    seen: list[Progress] = []
    result = compare(TOY, norms=["layer"], budget=None, engine=Mortal(fakes.run), on_progress=seen.append)
    assert result.cells[0].winners == ("layer",)
    news = [p.note for p in seen if "died" in p.note]
    assert news == ["toy · batch 2 · layer · lr 0.01 · seed 1000: a worker died, the run is tried again"]


# Budgets.


def take(seconds_per_step: float) -> Callable[[RunSpec], RunRecord]:
    """Runs that really take as long as they say."""

    def run(spec: RunSpec) -> RunRecord:
        seconds = spec.steps * seconds_per_step
        time.sleep(seconds)
        return replace(fakes.run(spec), ms_per_step=seconds_per_step * 1e3, wall_s=seconds)

    return run


def test_a_budget_is_kept_and_the_same_command_gets_it_all_done_in_the_end(store: Path) -> None:
    # About 250 runs of 20 or 16 ms one after the other: some 4 s, in parts of 1 s. The engine says that it has two
    # workers and has one, so that predictions are half of the truth.
    n_kept, cuts = 0, []
    for _ in range(20):
        started = time.monotonic()
        part = run_fakes(take(1e-3), store=store, budget=1.0, seeds=8)
        assert time.monotonic() - started < 2.5  # the runs here cannot be ended half-way
        assert part.wall_s < 1.5
        assert not part.interrupted
        with Store(store) as kept:
            assert len(kept) == n_kept + part.n_computed
            n_kept = len(kept)
        cuts.append(part.cut)
        if not part.cut:
            break
    assert len(cuts) > 2
    assert cuts[-1] == ()
    assert any("to fit the budget of 1s" in sentence for sentence in cuts[0])
    at_once = run_fakes(seeds=8)
    assert [cell.winners for cell in part.cells] == [cell.winners for cell in at_once.cells]
    for place in range(2):
        expected = {norm: (score.nll, score.learning_rate) for norm, score in scores(at_once, place).items()}
        assert {norm: (score.nll, score.learning_rate) for norm, score in scores(part, place).items()} == expected


def test_a_row_is_begun_even_if_it_cannot_be_finished(store: Path) -> None:
    parts = [run_fakes(take(1e-2), store=store, budget=2.0) for _ in range(2)]
    assert all(part.n_computed >= 1 for part in parts)
    with Store(store) as kept:
        assert len(kept) == sum(part.n_computed for part in parts)
        assert {record.spec.batch_size for record in kept.records()} == {16}
    assert re.fullmatch(
        r"No row could be finished within the budget of 2s\. Its \d+ runs are kept and the same command goes on with "
        r"them; at once it takes about \d+s\.",
        parts[0].cut[-1],
    )


def test_a_budget_in_which_no_run_fits_says_so_and_what_would_do(store: Path) -> None:
    # A short run takes 0.24 s, a whole one 0.32 s.
    part = run_fakes(take(0.02), store=store, budget=0.5, batch_sizes=[16], norms=["layer"])
    assert part.n_computed == 0
    assert re.fullmatch(
        r"No run could be finished within the budget of 0s: starting and measuring took it up\. The same command would "
        r"do no better; take about 10s\.",
        part.cut[-1],
    )


def test_what_the_caller_spent_or_keeps_is_not_used() -> None:
    started = time.monotonic()
    part = run_fakes(take(1e-3), budget=60.0, spent_s=59.0)
    assert time.monotonic() - started < 1.5
    assert part.n_computed > 0


def test_if_predictions_were_too_long_the_time_left_is_used() -> None:
    def run(spec: RunSpec) -> RunRecord:
        record = take(0.0)(spec)
        return replace(record, ms_per_step=300.0) if spec.steps == CALIBRATION_STEPS else record

    engine = Inline(run)
    result = compare([TOY, "digits-mlp"], norms=NORMS, batch_sizes=[2, 4, 8], budget=20, engine=engine)
    cells = list(dict.fromkeys((Path(spec.task).stem, spec.batch_size) for spec in engine.ran[30:]))
    assert cells[:2] == [("toy_task", 8), ("digits-mlp", 8)]
    assert result.cut == ()
    assert len(result.cells) == 6
    assert result.wall_s < 15


def test_if_predictions_were_too_short_rows_are_dropped_and_others_finished() -> None:
    """Everything seemed to fit; it takes ten times as long."""

    def run(spec: RunSpec) -> RunRecord:
        record = take(1e-3)(spec)
        return replace(record, ms_per_step=0.01, wall_s=1e-4) if spec.steps == CALIBRATION_STEPS else record

    part = run_fakes(run, batch_sizes=[2, 4, 8, 16, 32, 64, 128], seeds=20, budget=3.0)
    finished = [cell.batch_size for cell in part.cells if cell.winners]
    assert 128 in finished
    assert any("evaluation seeds instead of 20" in sentence for sentence in part.cut)
    assert len(part.cells) - len(finished) <= 1


def test_a_row_of_every_task_comes_before_a_second_of_any() -> None:
    tasks = [TOY, "digits-mlp", "digits-cnn"]
    engine = Inline(fakes.run)
    compare(tasks, norms=["layer", "rms"], batch_sizes=[2, 16, 128], budget="10m", engine=engine)
    rows = list(dict.fromkeys((spec.task, spec.batch_size) for spec in engine.ran if spec.role == "evaluate"))
    assert [size for _, size in rows] == [128] * 3 + [2] * 3 + [16] * 3


def test_rows_are_answered_in_the_order_asked_for() -> None:
    found = run_fakes(tasks=[TOY, "digits-mlp"], batch_sizes=[2, 16, 128], budget="10m")
    expected = [(task, size) for task in ("toy", "digits-mlp") for size in (2, 16, 128)]
    assert [(cell.task, cell.batch_size) for cell in found.cells] == expected


def test_what_is_finished_is_in_the_answer_also_where_the_time_was_up(store: Path) -> None:
    def run(spec: RunSpec) -> RunRecord:
        if spec.task != TOY and spec.batch_size == 2 and spec.role == "evaluate":
            raise KeyboardInterrupt
        return fakes.run(spec)

    part = run_fakes(run, tasks=[TOY, "digits-mlp"], budget="1m")
    statuses = [{score.status for score in cell.scores} for cell in part.cells]
    assert statuses == [{"done"}, {"done"}, {"not-run"}, {"done"}]


def test_a_budget_of_nothing_answers_from_the_store(store: Path) -> None:
    first = run_fakes(store=store, batch_sizes=[16])
    engine = Inline(fakes.run)
    part = compare(TOY, norms=NORMS, batch_sizes=[2, 16], budget=0, engine="local", store=store)
    assert engine.ran == []
    assert part.cells == first.cells
    assert (part.n_computed, part.n_resumed) == (0, first.n_computed)
    assert part.cut == ("toy at batch size 2 was left out, since nothing was to be computed.",)
    assert part.provenance["engine"] == "local, no run was computed"


def test_a_budget_of_nothing_and_a_store_with_nothing_say_so(store: Path) -> None:
    part = compare(TOY, budget=0, store=store)
    assert (part.records, part.cut) == ((), ("The store holds no finished row of what was asked for.",))


def test_measuring_leaves_time_for_the_work(store: Path) -> None:
    # A short run takes 0.3 s; one for each of 10 arms would be all of the budget.
    part = run_fakes(take(25e-3), store=store, budget=3.0)
    assert part.n_computed >= 2


def test_a_row_that_does_not_fit_is_not_begun(store: Path) -> None:
    # The row of batch size 16 takes about 0.4 s, that of batch size 2 ten times as long.
    slow = lambda spec: take(2e-2 if spec.batch_size == 2 else 1e-3)(spec)  # noqa: E731
    part = run_fakes(slow, store=store, budget=3.0, norms=["none", "layer"], batch_sizes=[2, 16])
    assert [(cell.batch_size, {score.status for score in cell.scores}) for cell in part.cells] == [(16, {"done"})]
    assert part.cut[-1] == "toy at batch size 2 was left out, to fit the budget of 3s."
    with Store(store) as kept:
        assert {record.spec.batch_size for record in kept.records()} == {16}


def test_a_run_that_is_too_slow_is_ended_with_the_budget(tmp_path: Path) -> None:
    started = time.monotonic()
    with LocalEngine("lab.fakes:run_for_long", workers=2) as engine:
        pids = [worker._process.pid for worker in engine._workers]
        part = compare("digits-mlp", budget="2s", engine=engine, store=tmp_path / "runs.sqlite")
    assert time.monotonic() - started < 4
    assert part.wall_s < 2.5
    assert part.n_computed == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert part.cut[-2].startswith("Not finished when the budget of 2s ended: digits-mlp at batch size 2, ")
    assert part.cut[-1].startswith("No run could be finished within the budget of 2s")


def test_few_seeds_are_noted() -> None:
    few = run_fakes(seeds=3, batch_sizes=[2], norms=["layer", "rms"])
    assert few.cut == ("3 evaluation seeds, as asked for: fewer than 5 show large differences only.",)
    assert {score.n_runs for score in few.cells[0].scores} == {3}


# Wrong usage, all before anything is computed.


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"norms": ["layer", "lyer"]}, r"expected none, batch, .* got 'lyer'; did you mean layer\?"),
        ({"norms": []}, "expected at least one norm, got none"),
        ({"tasks": "digits-cnnn"}, r"got 'digits-cnnn'; did you mean digits-cnn\?"),
        ({"tasks": []}, "expected at least one task, got none"),
        ({"tasks": [3]}, "expected tasks by name or as paths of files, got 3"),
        ({"tasks": [load_task("digits-mlp")]}, "got the object 'digits-mlp', which worker processes cannot load; save"),
        ({"batch_sizes": []}, "expected at least one batch size, got none"),
        ({"batch_sizes": [0]}, "expected batch sizes from 1 to 1000000, got 0"),
        ({"batch_sizes": [10**9]}, "expected batch sizes from 1 to 1000000, got 1000000000; pass"),
        ({"batch_sizes": [2.0]}, "expected batch sizes from 1 to 1000000, got 2.0"),
        ({"seeds": 1}, "expected seeds to be 2 or more, got 1"),
        ({"seeds": 5.0}, "expected seeds to be 2 or more, got 5.0"),
        ({"seeds": 1001}, "expected seeds to be 1000 at most, got 1001; those from 1000 on are for tuning"),
        ({"budget": "soon"}, "budget: expected a duration such as .* got 'soon'"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(choices: dict[str, Any], words: str, store: Path) -> None:
    with pytest.raises(ArgumentError, match=words):
        run_fakes(store=store, **choices)
    assert not store.exists()


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"engine": "spark"}, "expected engine local or ray, got 'spark'"),
        ({"engine": "Ray"}, r"got 'Ray'; did you mean ray\?"),
        ({"engine": "local", "address": "auto"}, "expected no address with engine 'local', got 'auto'"),
        ({"engine": "local", "workers": 0}, "expected workers to be a positive integer, got 0"),
    ],
)
def test_wrong_engines_say_what_would_be_right(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        compare("digits-mlp", **choices)


def test_a_missing_store_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected an existing directory"):
        run_fakes(store=tmp_path / "nowhere" / "runs.sqlite")


@pytest.mark.parametrize("package", ["sklearn", "scipy"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'expected the package {package}, .*"normkit\[lab\]"'):
        run_fakes(tasks="digits-mlp")


# Tasks of the user's own.


def test_a_task_of_the_user_is_really_trained(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "my_task.py"
    path.write_text(Path(TOY).read_text())
    norms = ["none", "batch", "layer"]
    found = compare(str(path), batch_sizes=[1, 8], norms=norms, workers=2, store=store, budget="2m")
    assert [(cell.task, cell.batch_size) for cell in found.cells] == [("toy", 1), ("toy", 8)]
    one, eight = scores(found, 0), scores(found, 1)
    assert one["batch"].status == "impossible"
    assert "batch" in one["batch"].message.lower()
    for score in (one["none"], one["layer"], *eight.values()):
        assert (score.status, score.n_runs) == ("done", 5)
        assert score.nll is not None
        assert 0 < score.nll.mean < 5
    assert set(eight["batch"].evaluations) == {"running", "batch", "recomputed"}
    assert found.tasks[0].text == str(path)
    assert {r.spec.task for r in found.records} == {str(path)}
    path.write_text(Path(TOY).read_text().replace("else 16", "else 17"))
    edited = compare(str(path), batch_sizes=[8], norms=["none"], workers=1, store=store, budget="2m")
    assert edited.n_resumed == 0  # an edited task is another task


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("20 if", "0 if"), r"toy: expected steps\(2\) to be a positive integer, got 0"),
        (("20 if", "1 / 0 if"), r"my_task.py:23: ZeroDivisionError"),
        (("import torch\n", "1 / 0\n"), r"my_task.py:3: ZeroDivisionError"),
    ],
)
def test_a_task_that_fails_at_once_says_where(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = tmp_path / "my_task.py"
    path.write_text(Path(TOY).read_text().replace(*change))
    with pytest.raises(TaskError, match=words):
        run_fakes(tasks=path, norms=["none"])


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(Path(TOY).read_text())
    with pytest.raises(ArgumentError, match="got several called 'toy'; rename"):
        run_fakes(tasks=[tmp_path / "a.py", tmp_path / "b.py"])


def test_a_task_named_twice_is_one() -> None:
    found = run_fakes(tasks=["digits-lstm", "digits-lstm:lengths=fixed"], norms=["layer"], batch_sizes=[2])
    assert [cell.task for cell in found.cells] == ["digits-lstm"]


def test_tasks_bring_their_own_norms_and_batch_sizes() -> None:
    found = compare([TOY, "digits-mlp"], budget=None, engine=Inline(fakes.run))
    assert [cell.batch_size for cell in found.cells if cell.task == "toy"] == [2, 128]
    assert [score.norm for score in found.cells[0].scores] == ["none", "layer"]
    digits = load_task("digits-mlp")
    assert [score.norm for score in found.cells[-1].scores] == list(digits.norms)
    assert found.norms == tuple(dict.fromkeys(("none", "layer", *digits.norms)))


def test_importing_the_laboratory_is_light() -> None:
    heavy = ("scipy", "sklearn", "ray", "pyarrow", "plotly", "jinja2", "typer", "rich")
    code = f"import normkit.lab, sys; print([m for m in {heavy} if m in sys.modules], callable(normkit.lab.compare))"
    code += "; import normkit.lab.compare; print(callable(normkit.lab.compare))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[] True\nTrue\n"


CTRL_C = f"""
import sys; sys.path.insert(0, {TESTS!r})
from normkit.lab.compare import compare
from normkit.lab.costs import CALIBRATION_STEPS
from normkit.lab.engines.base import Died, Event
from normkit.lab.engines.local import LocalEngine
engine = LocalEngine("lab.fakes:run_slowly", workers=2)
print(*[worker._process.pid for worker in engine._workers], flush=True)
seen = lambda p: print("done", p.done, flush=True)
result = compare("digits-mlp", budget=None, engine=engine, store=sys.argv[1], on_progress=seen)
print("interrupted", result.interrupted, result.n_computed)
"""


def test_ctrl_c_in_a_terminal_ends_it_at_once_and_loses_nothing(store: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    while process.stdout.readline() != "done 5\n":
        continue
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert errors == ""
    word, is_interrupted, n_computed = output.splitlines()[-1].split()
    assert (word, is_interrupted) == ("interrupted", "True")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with Store(store) as kept:
        # One more if the signal came between its saving and its counting.
        assert int(n_computed) + 1 >= len(kept) >= int(n_computed) >= 5
