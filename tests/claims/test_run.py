"""Running: anytime, resumed, within a budget, and never on measurements of other code."""

from __future__ import annotations

import gzip
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from claims.made_up import rule
from claims.toy import World
from normkit import claims
from normkit.claims import shipped
from normkit.claims.archive import Archive
from normkit.claims.experiment import Job, Measurement, conditions
from normkit.claims.records import JOBS, JobRecord, JobSpec
from normkit.claims.run import _missing
from normkit.claims.shipped import write
from normkit.errors import ArgumentError, StoreError
from normkit.lab.comparison import Progress
from normkit.lab.store import Store

TURNS = "holds with batch size 2; fails with batch size 50; it turns at a batch size between 2 and 50"


def evidence(verdicts: claims.Verdicts) -> tuple[str, str]:
    (verdict,) = verdicts.verdicts
    return verdict.evidence, verdict.condition


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def test_a_tier_is_measured_and_judged(world: World, store: Path) -> None:
    seen: list[Progress] = []
    verdicts = claims.run("full", store=store, on_progress=seen.append)
    assert evidence(verdicts) == ("depends", TURNS)
    assert (verdicts.n_computed, verdicts.n_resumed, verdicts.cut, verdicts.notes) == (4, 0, (), ())
    assert verdicts.counts() == {"holds": 0, "fails": 0, "depends": 1, "inconclusive": 0, "not run": 0}
    assert (seen[0].done, seen[0].total, seen[-1].done) == (0, 4, 4)
    assert "E05 · batch 2 · norm batch · 12 seeds" in {label for p in seen for label in p.running}


def test_the_same_again_computes_nothing(world: World, store: Path) -> None:
    first = claims.run("full", store=store)
    again = claims.run("full", store=store)
    assert (again.n_computed, again.n_resumed) == (0, 4)
    assert len(world.ran) == 4
    assert (again.verdicts, again.findings) == (first.verdicts, first.findings)


def test_a_smaller_tier_is_answered_by_a_larger_one_with_its_own_seeds(world: World, store: Path) -> None:
    claims.run("full", store=store)
    quick = claims.run("quick", store=store)
    assert quick.n_computed == 0
    assert {m.seed for m in quick.measurements} == set(range(5))
    assert quick.findings["E05-B2"].n == 5


@pytest.mark.parametrize("after", range(5))
def test_what_is_done_when_it_is_interrupted_counts_and_is_resumed(world: World, store: Path, after: int) -> None:
    world.interrupt_after = after
    verdicts = claims.run("full", store=store)
    assert verdicts.interrupted == (after < 4)
    assert verdicts.n_computed == after
    assert evidence(verdicts)[0] == ("depends" if after == 4 else "not run")
    if 2 <= after < 4:
        assert "holds with batch size 2; not run with batch size 50" in evidence(verdicts)[1]
        assert verdicts.cut == ("Not finished when it was interrupted: E05. The same command goes on with it.",)
    world.interrupt_after = None
    resumed = claims.run("full", store=store)
    assert (evidence(resumed)[0], resumed.n_computed, resumed.n_resumed) == ("depends", 4 - after, after)


def test_a_budget_cuts_seeds_and_says_so(world: World, store: Path) -> None:
    verdicts = claims.run("full", store=store, budget=18)  # 48 s of work, it says; of 2 workers
    assert [len(spec.job.seeds) for spec in world.ran] == [7] * 4
    assert verdicts.cut == ("At most 7 seeds instead of 12, to fit the budget of 18s.",)
    assert evidence(verdicts)[0] == "depends"


def test_a_tier_too_large_for_the_budget_measures_nothing_and_says_what_to_do(world: World, store: Path) -> None:
    verdicts = claims.run("full", store=store, budget="2s")
    assert world.ran == []
    assert evidence(verdicts)[0] == "not run"
    assert "Left out to fit the budget of 2s: E05." in verdicts.cut
    assert "Nothing could be measured within the budget of 2s; take a longer one or another tier." in verdicts.cut


def test_with_a_budget_of_0_the_store_is_judged(world: World, store: Path) -> None:
    nothing = claims.run("full", store=store, budget=0)
    assert nothing.cut == ("Nothing was to be measured; not in the store: E05.",)
    claims.run("quick", store=store)
    assert evidence(claims.run("quick", store=store, budget=0))[0] == "depends"


def test_measurements_of_other_code_are_told_and_not_used(world: World, store: Path) -> None:
    claims.run("full", store=store)
    world.write(outcome="level = 5.0")
    verdicts = claims.run("full", store=store)
    assert verdicts.n_computed == 4
    assert evidence(verdicts)[0] != "depends"
    assert verdicts.notes == (
        f"4 jobs are of other code or another version of normkit in {store}: left as they are, and not used.",
    )
    world.write()
    assert claims.run("full", store=store).n_computed == 0


def planned(n_seeds: int) -> dict[str, tuple[Job, ...]]:
    return {"E05": tuple(Job("E05", conditions(norm=norm), tuple(range(n_seeds))) for norm in ("batch", "layer"))}


def measured(job: Job, seeds: tuple[int, ...]) -> JobRecord:
    found = tuple(Measurement("E05", job.conditions, seed, metrics={"error": 1.0}) for seed in seeds)
    return JobRecord(JobSpec(replace(job, seeds=seeds), "hash"), "done", found)


def test_what_was_planned_and_not_measured_is_told_seed_by_seed() -> None:
    wanted = planned(3)
    batch, _ = wanted["E05"]
    archive = Archive([measured(batch, (0, 1))])
    missing = _missing(wanted, None, archive)
    assert [(dict(m.conditions)["norm"], m.seed) for m in missing] == [
        ("batch", 2),
        ("layer", 0),
        ("layer", 1),
        ("layer", 2),
    ]
    assert {(m.experiment, m.status, m.message) for m in missing} == {("E05", "failed", "not measured")}


def test_seeds_that_the_budget_cuts_were_not_to_be_measured() -> None:
    wanted = planned(3)
    archive = Archive([measured(job, (0, 1)) for job in wanted["E05"]])
    assert _missing(wanted, 2, archive) == ()
    assert {m.seed for m in _missing(wanted, None, archive)} == {2}


def test_a_search_that_was_interrupted_does_not_hold(world: World, store: Path) -> None:
    """Of two arms one is known: no counterexample so far."""
    world.write(outcome="level = 0.0")
    exact = rule(id="E05-B2", kind="exact", these={"norm": "layer"}, margin=2.0)
    world.rules([exact, rule(id="E05-B50", kind="exact", these={"norm": "batch"}, margin=2.0)])
    world.interrupt_after = 3
    verdicts = claims.run("full", store=store)
    assert verdicts.interrupted
    assert verdicts.findings["E05-B2"].outcome == "inconclusive"
    assert verdicts.findings["E05-B2"].reason == "12 of the search were not measured"
    world.interrupt_after = None
    assert claims.run("full", store=store).findings["E05-B2"].outcome == "holds"


def test_a_full_run_takes_nothing_of_a_quick_one_whose_grids_are_coarser(world: World, store: Path) -> None:
    assert claims.run("quick", store=store).findings["E05-B2"].outcome == "holds"
    world.interrupt_after = len(world.ran)
    interrupted = claims.run("full", store=store)
    assert (interrupted.findings["E05-B2"].outcome, interrupted.measurements) == ("not run", ())
    world.interrupt_after = None
    verdicts = claims.run("full", store=store)
    assert {len(record.spec.job.seeds) for record in verdicts.records} == {12}
    assert len(verdicts.measurements) == 4 * 12


def test_rules_changed_after_the_measurement_are_told(world: World, store: Path) -> None:
    claims.run("full", store=store)
    world.write(margin=31.0)
    verdicts = claims.run("full", store=store)
    assert verdicts.n_computed == 0
    assert evidence(verdicts)[0] == "fails"
    assert verdicts.notes == (
        "The rules of E05 were changed after these measurements were taken: what it decides was not fixed before.",
    )


def test_evidence_changed_after_the_measurement_is_told(
    world: World, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.run("full", store=store)
    monkeypatch.setattr("normkit.claims.archive.evidence_hash", lambda experiment: "another")
    assert claims.run("full", store=store).notes == (
        "Which claims are decided by E05 was changed after these measurements were taken: "
        "what it decides was not fixed before.",
    )


def test_a_run_that_diverges_is_an_outcome(world: World, store: Path) -> None:
    world.write(outcome='level = math.nan if job.arm["norm"] == "layer" else level')
    verdicts = claims.run("full", store=store)
    assert {m.status for m in verdicts.measurements if dict(m.conditions)["norm"] == "layer"} == {"diverged"}
    assert evidence(verdicts)[0] == "fails"  # LayerNorm, always infinite, does not win anywhere
    assert verdicts.findings["E05-B2"].n_diverged == 12


def test_an_experiment_that_fails_is_told_and_tried_again(world: World, store: Path) -> None:
    world.write(outcome='level = 1 / 0 if job.arm["norm"] == "layer" else level')
    verdicts = claims.run("full", store=store)
    assert len(verdicts.failures) == 2
    assert "E05, batch 2, norm layer failed: ZeroDivisionError: division by zero" in verdicts.failures
    assert evidence(verdicts)[0] == "not run"
    world.write()
    assert evidence(claims.run("full", store=store))[0] == "depends"


def test_seeds_that_fail_are_told_and_tried_again(world: World, store: Path, tmp_path: Path) -> None:
    """As on a machine that is busy for a while: the same code, asked again."""
    busy = tmp_path / "busy"
    world.write(
        outcome=f"""
    def one(n):
        if n > 8 and __import__("os").path.exists({str(busy)!r}):
            return Measurement("E05", job.conditions, n, "failed", message="machine busy")
        return Measurement("E05", job.conditions, n, metrics={{"error": level + math.sin(n + level)}})
    return [one(n) for n in job.seeds]
"""
    )
    busy.touch()
    verdicts = claims.run("full", store=store)
    assert len(verdicts.failures) == 4
    assert "seed 9: machine busy; seed 10: machine busy; seed 11: machine busy" in verdicts.failures[0]
    assert {m.seed for m in verdicts.measurements} == set(range(9))
    busy.unlink()
    verdicts = claims.run("full", store=store)
    assert (verdicts.n_computed, verdicts.failures) == (4, ())
    assert sorted(m.seed for m in verdicts.measurements) == sorted([*range(12)] * 4)
    assert claims.run("full", store=store).n_computed == 0


def test_a_measurement_too_few_is_a_failure(world: World, store: Path) -> None:
    world.write(outcome="return []")
    verdicts = claims.run("full", store=store)
    assert "expected a measurement of each seed" in verdicts.failures[0]
    assert verdicts.measurements == ()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 50])
def test_what_is_no_store_is_left_as_it_is(world: World, store: Path, content: bytes) -> None:
    store.write_bytes(content)
    with pytest.raises(StoreError, match="was left as it is"):
        claims.run("full", store=store)
    assert store.read_bytes() == content
    assert world.ran == []


def test_an_unknown_tier_or_claim_is_refused_before_anything_is_written(world: World, store: Path) -> None:
    with pytest.raises(ArgumentError, match="instant, quick or full, got 'quik'; did you mean quick"):
        claims.run("quik", store=store)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="got '000-9'"):
        claims.run("quick", claims=["000-9"], store=store)
    assert not store.exists()


def test_runs_of_compare_and_jobs_share_one_file(world: World, store: Path) -> None:
    from lab import fakes
    from normkit.lab.store import Store

    with Store(store) as runs:
        runs.add(fakes.run(fakes.spec()))
    claims.run("full", store=store)
    with Store(store) as runs:
        assert [record.spec for record in runs.records()] == [fakes.spec()]
    assert claims.run("full", store=store).n_computed == 0


def test_shipped_records_give_the_same_verdicts_elsewhere(world: World, store: Path, tmp_path: Path) -> None:
    claims.run("quick", store=store)  # its seeds are measured twice; they must not be judged twice
    verdicts = claims.run("full", store=store)
    files = write(verdicts, tmp_path / "shipped")
    assert [path.name for path in files] == ["E05.jsonl.gz"]
    before = files[0].read_bytes()
    write(verdicts, tmp_path / "shipped")
    assert files[0].read_bytes() == before
    world.write(outcome="pass  # edited since")
    found = shipped(folder=tmp_path / "shipped")
    assert found.findings == verdicts.findings
    assert found.is_shipped
    assert found.provenance["processor"]
    assert found.provenance["measured_from"]
    assert found.experiments == {"E05": ("A toy", "Which is better?")}


def flipped(content: bytes) -> bytes:
    """As a bad disk gives them back: a run of bytes in the middle is other ones."""
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 8]) + content[middle + 8 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"\x1f\x8b nonsense",
        lambda content: content[:-20],
        flipped,
        lambda content: gzip.compress(b"null\n"),
        lambda content: gzip.compress(b'{"spec": 1, "measurements": []}\n'),
        lambda content: gzip.compress(gzip.decompress(content).replace(b'"metrics": {', b'"metrics": {"x": [], ')),
    ],
    ids=["empty", "no gzip", "cut short", "flipped bytes", "no table", "no spec", "no number"],
)
def test_damaged_shipped_records_are_told(
    world: World, store: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (path,) = write(claims.run("full", store=store), tmp_path / "shipped")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        StoreError, match=r"^claims: expected records in .*E05.jsonl.gz, got a damaged file \(.+\); inst"
    ):
        shipped(folder=tmp_path / "shipped")


def test_shipped_records_of_another_version_are_told(world: World, store: Path, tmp_path: Path) -> None:
    (path,) = write(claims.run("full", store=store), tmp_path / "shipped")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"protocol": 1', b'"protocol": 7')))
    with pytest.raises(StoreError, match=r"expected records of protocol 1 in .*, got 7, of another version of normkit"):
        shipped(folder=tmp_path / "shipped")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"E05": 1}', b"\xff"])
def test_damaged_titles_of_experiments_are_told(world: World, store: Path, tmp_path: Path, content: bytes) -> None:
    write(claims.run("full", store=store), tmp_path / "shipped")
    (tmp_path / "shipped" / "experiments.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"experiments.json, got a damaged file"):
        shipped(folder=tmp_path / "shipped")


@pytest.mark.parametrize("row", ["null", "7", '{"spec": 1}', '{"spec": {"job": []}}', "no JSON"])
def test_a_damaged_row_is_told_and_nothing_is_overwritten(world: World, store: Path, row: str) -> None:
    claims.run("full", store=store)
    with closing(sqlite3.connect(store, isolation_level=None)) as file:
        file.execute("UPDATE jobs SET record = ? WHERE key = (SELECT min(key) FROM jobs)", (row,))
        before = file.execute("SELECT * FROM jobs").fetchall()
    with pytest.raises(StoreError, match="got a row that is none"):
        claims.run("full", store=store)
    with closing(sqlite3.connect(store)) as file:
        assert file.execute("SELECT * FROM jobs").fetchall() == before


def test_real_workers_are_interrupted_and_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normkit", "claims", "--tier", "instant", "--no-progress", "--workers", "1"]
    command += ["--claim", "001-03", "--store", "claims.sqlite"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    store = tmp_path / "claims.sqlite"
    while first.poll() is None and not (store.exists() and jobs_in(store)):
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert "Traceback" not in err
    assert first.returncode in (0, 130)  # 0: it was done before the signal came
    assert ("Every finished job is kept" in out + err) == (first.returncode == 130)
    kept = jobs_in(store)
    assert kept > 0
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{kept} jobs found finished" in again.stdout.replace("1 job found", "1 jobs found")


def jobs_in(store: Path) -> int:
    with Store(store, JOBS) as kept:
        return len(kept)
