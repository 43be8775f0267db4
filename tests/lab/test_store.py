"""The store: nothing finished is lost, nothing foreign is touched."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lab import fakes
from normkit.errors import NormkitError, StoreError
from normkit.lab.encoding import RUNS
from normkit.lab.records import PROTOCOL, RunRecord
from normkit.lab.store import APPLICATION_ID, Store

TESTS = str(Path(__file__).parents[1])


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that has the fakes at hand."""
    prelude = f"import sys; sys.path.insert(0, {TESTS!r})\nfrom lab import fakes\nfrom normkit.lab.store import Store\n"
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def test_a_record_comes_back_exactly(path: Path) -> None:
    record = replace(
        fakes.run(fakes.spec(norm="batch")),
        message="a 'quoted' \N{SNOWMAN} message",
        metrics={"val_nll": 0.1 + 0.2, "test_nll": 5e-324, "val_accuracy": 1 / 3},
        provenance={"versions": {"torch": "2.13.0"}, "cores": 2, "nested": [1, None, True]},
    )
    with Store(path) as store:
        store.add(record)
    with Store(path) as store:
        assert store.get(record.spec) == record
        assert list(store.records()) == [record]


def test_a_diverged_record_keeps_its_non_finite_curve(path: Path) -> None:
    record = RunRecord(fakes.spec(), "diverged", message="nan", curve=((1, math.inf), (2, math.nan)))
    with Store(path) as store:
        store.add(record)
        found = store.get(record.spec)
    assert found is not None
    assert found.curve[0] == (1, math.inf)
    assert math.isnan(found.curve[1][1])


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"task_hash": "edited"},
        {"norm": "rms"},
        {"batch_size": 17},
        {"learning_rate": 1.0000000000000002e-2},
        {"seed": 1},
        {"role": "tune"},
        {"steps": 101},
        {"protocol": PROTOCOL + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_the_same_run_is_found(path: Path, change: dict[str, object]) -> None:
    with Store(path) as store:
        store.add(fakes.run(fakes.spec()))
        assert store.get(fakes.spec(**change)) is None


def test_runs_of_another_protocol_are_kept_but_never_returned(path: Path) -> None:
    old = fakes.run(fakes.spec(protocol=PROTOCOL - 1))
    with Store(path) as store:
        store.add(old)
        store.add(fakes.run(fakes.spec()))
        assert [record.spec.protocol for record in store.records()] == [PROTOCOL]
        assert len(store) == 2


def test_records_of_some_tasks_only(path: Path) -> None:
    with Store(path) as store:
        for task_hash in ("a", "b", "c"):
            store.add(fakes.run(fakes.spec(task_hash=task_hash)))
        assert sorted(r.spec.task_hash for r in store.records(["a", "c", "z"])) == ["a", "c"]


def test_runs_of_other_tasks_and_protocols_are_counted_as_foreign(path: Path) -> None:
    with Store(path) as store:
        for task_hash in ("a", "b", "c"):
            store.add(fakes.run(fakes.spec(task_hash=task_hash)))
        store.add(fakes.run(fakes.spec(task_hash="a", protocol=PROTOCOL - 1)))
        assert store.n_foreign(["a", "b"]) == 2
        assert store.n_foreign(["a", "b", "c"]) == 1
        assert len(store) == 4


def test_another_kind_of_work_has_a_table_of_its_own_in_the_same_file(path: Path) -> None:
    """As in a store that was made before that kind was known."""
    other = replace(RUNS, table="others")
    with Store(path) as store:
        store.add(fakes.run(fakes.spec(seed=1)))
    with Store(path, other) as others:
        assert len(others) == 0
        others.add(fakes.run(fakes.spec(seed=2)))
    with Store(path) as store, Store(path, other) as others:
        assert [record.spec.seed for record in store.records()] == [1]
        assert [record.spec.seed for record in others.records()] == [2]


def test_the_first_outcome_of_a_run_stays(path: Path) -> None:
    first = fakes.run(fakes.spec())
    with Store(path) as store:
        store.add(first)
        store.add(replace(first, wall_s=99.0))
        assert store.get(first.spec) == first


def test_a_failed_run_is_not_kept_so_that_it_is_tried_again(path: Path) -> None:
    with Store(path) as store:
        store.add(RunRecord(fakes.spec(), "failed", message="worker died"))
        assert len(store) == 0


def test_a_store_without_a_file_keeps_runs_while_it_is_open() -> None:
    with Store(None) as store:
        store.add(fakes.run(fakes.spec()))
        assert store.get(fakes.spec()) == fakes.run(fakes.spec())


def test_any_file_name_will_do(tmp_path: Path) -> None:
    path = tmp_path / "my runs #1 50%?.sqlite"
    Store(path).close()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_creating_leaves_only_the_store(path: Path) -> None:
    Store(path).close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def foreign_wal(path: Path) -> None:
    """Another program's file, with content that lies in its write-ahead log only."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE other (x)")
    connection.commit()
    # Copied while open: closing would move the log into the file.
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{path}{end}.copy")
    connection.close()
    for end in ("", "-wal"):
        os.replace(f"{path}{end}.copy", f"{path}{end}")


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (key, protocol, task, task_hash, record)")
    connection.close()


def newer(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "is no SQLite file"),
        (lambda p: p.write_bytes(b"key,task\n" * 50), "is no SQLite file"),
        (lambda p: p.write_bytes(b"SQLite format 3\x00"), "is no SQLite file"),
        (foreign, "a SQLite file of another program, left as it is"),
        (foreign_wal, "a SQLite file of another program, left as it is"),
        (newer, "expected schema version 1, got 2"),
    ],
    ids=["empty", "text", "header-only", "foreign", "foreign-wal", "newer"],
)
def test_a_file_that_is_no_store_is_refused_and_not_touched(path: Path, make: object, words: str) -> None:
    make(path)  # type: ignore[operator]
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir()}
    with pytest.raises(StoreError, match=words) as caught:
        Store(path)
    assert str(path) in str(caught.value)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir()} == before


@pytest.mark.parametrize("damage", ["middle", "truncated"])
def test_a_damaged_store_is_refused_and_not_touched(path: Path, damage: str) -> None:
    with Store(path) as store:
        for seed in range(200):
            store.add(fakes.run(fakes.spec(seed=seed)))
    content = bytearray(path.read_bytes())
    if damage == "middle":
        content[5000:60000] = b"\xff" * 55000
    else:
        del content[20000:]
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged file .*nothing in it was overwritten: move it away"):
        Store(path)
    assert path.read_bytes() == content


def test_a_row_that_is_no_record_is_named_as_damage(path: Path) -> None:
    with Store(path) as store:
        row = (fakes.spec().key, PROTOCOL, "toy", "abc", '{"spec": {}}')
        store._connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
        with pytest.raises(StoreError, match="got a row that is none"):
            store.get(fakes.spec())


def test_a_row_under_the_key_of_another_is_named_as_damage(path: Path) -> None:
    with Store(path) as store:
        store.add(fakes.run(fakes.spec()))
        store._connection.execute("UPDATE runs SET key = ?", (fakes.spec(seed=7).key,))
        with pytest.raises(StoreError, match="lies under the key"):
            store.get(fakes.spec(seed=7))
        with pytest.raises(StoreError, match="lies under the key"):
            list(store.records())


def test_a_row_of_an_unknown_status_is_named_as_damage(path: Path) -> None:
    with Store(path) as store:
        store.add(fakes.run(fakes.spec()))
        store._connection.execute("""UPDATE runs SET record = replace(record, '"status": "done"', '"status": "odd"')""")
        with pytest.raises(StoreError, match="expected a status of done, diverged, impossible, failed, got 'odd'"):
            store.get(fakes.spec())


def test_a_row_of_another_protocol_is_never_used(path: Path) -> None:
    with Store(path) as store:
        store.add(fakes.run(fakes.spec()))
        store._connection.execute("UPDATE runs SET protocol = ?", (PROTOCOL + 6,))
        assert store.get(fakes.spec()) is None
        assert list(store.records()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected an existing directory, got .*nowhere; make it first"):
        Store(tmp_path / "nowhere" / "runs.sqlite")


def test_a_directory_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a file, got the directory"):
        Store(tmp_path)


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs root to become someone else")
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_place_that_cannot_be_written_is_refused_at_once(existing: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "runs.sqlite"
        if existing:
            Store(path).close()
        os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match=r"no permission|Permission denied"):
                Store(path)
        finally:
            os.seteuid(0)


def add_until_full(store: Store) -> None:
    for seed in range(2000):
        store.add(fakes.run(fakes.spec(seed=seed)))


def test_a_full_disk_says_so_and_keeps_what_was_finished(path: Path) -> None:
    with Store(path) as store:
        store._connection.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StoreError, match="got a full disk; all runs finished before are safe") as caught:
            add_until_full(store)
        assert isinstance(caught.value, NormkitError)
        kept = len(store)
    assert kept > 10
    with Store(path) as store:  # room again
        assert {record.spec.seed for record in store.records()} == set(range(kept))
        store.add(fakes.run(fakes.spec(seed=5000)))
        assert len(store) == kept + 1


def test_a_killed_process_loses_nothing_that_it_added(path: Path) -> None:
    code = (
        "with Store(sys.argv[1]) as store:\n"
        "    for seed in range(10**6):\n"
        "        store.add(fakes.run(fakes.spec(seed=seed)))\n"
        "        print(seed, flush=True)\n"
    )
    process = start(code, path)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    lines += process.communicate()[0].splitlines()
    added = max(int(line) for line in lines if line.strip())
    with Store(path) as store:
        assert {record.spec.seed for record in store.records()} >= set(range(added + 1))


def test_two_processes_create_and_fill_one_store_together(path: Path) -> None:
    code = (
        "import time\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "with Store(sys.argv[1]) as store:\n"
        "    for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 150):\n"
        "        store.add(fakes.run(fakes.spec(seed=seed)))\n"
    )
    moment = time.time() + 4
    processes = [start(code, path, first, moment) for first in (0, 100)]  # 100 to 149 are in both
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with Store(path) as store:
        assert sorted(record.spec.seed for record in store.records()) == list(range(250))


def test_a_store_locked_by_another_program_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normkit.lab.store.BUSY_TIMEOUT_S", 0.1)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process holds"):
            store.add(fakes.run(fakes.spec()))
        other.execute("ROLLBACK")
        other.close()
        store.add(fakes.run(fakes.spec()))
        assert len(store) == 1
