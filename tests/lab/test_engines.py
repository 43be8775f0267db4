"""Engines: the same records everywhere, deaths survived and reported, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import fakes
from normkit.errors import ArgumentError, EngineError, MissingExtraError
from normkit.lab.encoding import RUNS, decode_record
from normkit.lab.engines.base import Died, Engine
from normkit.lab.engines.local import LocalEngine
from normkit.lab.engines.ray import RayEngine
from normkit.lab.engines.worker import execute
from normkit.lab.records import RunRecord, RunSpec

TESTS = str(Path(__file__).parents[1])
PRELUDE = f"""
import sys; sys.path.insert(0, {TESTS!r})
from lab import fakes
from normkit.lab.engines.local import LocalEngine
"""


def compute(
    engine: Engine, specs: Iterable[RunSpec], meanwhile: Callable[[int], None] | None = None
) -> tuple[dict[RunSpec, RunRecord], list[Died]]:
    """Everything that an engine makes of some runs."""
    waiting, records, deaths = list(specs), {}, []
    n = len(waiting)
    deadline = time.monotonic() + 240
    while len(records) < n:
        assert time.monotonic() < deadline, f"{len(records)} of {n} runs came back"
        while waiting and engine.free:
            engine.submit(waiting.pop(0))
        for event in engine.wait(0.2):
            if isinstance(event, Died):
                deaths.append(event)
            else:
                assert event.spec not in records
                records[event.spec] = event
        if meanwhile is not None:
            meanwhile(len(records))
    assert engine.wait(0) == []
    return records, deaths


def specs(n: int, **changes: object) -> list[RunSpec]:
    return [fakes.spec(seed=seed, **changes) for seed in range(n)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)


def pids_of(engine: LocalEngine) -> list[int]:
    return [worker._process.pid for worker in engine._workers]


@pytest.fixture(scope="module")
def two() -> Iterator[LocalEngine]:
    """One engine for the tests that leave its workers alive."""
    with LocalEngine("lab.fakes:look_around", workers=2) as engine:
        yield engine


def test_local_workers_are_processes_with_one_thread_that_share_the_work(two: LocalEngine) -> None:
    assert (two.name, two.workers, two.free) == ("local", 2, 2)
    records, deaths = compute(two, specs(4))
    found = [record.provenance for record in records.values()]
    assert deaths == []
    assert {f["pid"] for f in found} == set(pids_of(two))
    assert os.getpid() not in pids_of(two)
    assert all(f["threads"] == 1 and f["ignores_interrupt"] and f["leads_its_session"] for f in found)
    assert all(f["stdin"] == "" for f in found)


def test_local_free_counts_down_and_up(two: LocalEngine) -> None:
    two.submit(fakes.spec(seed=100))
    assert two.free == 1
    two.submit(fakes.spec(seed=101))
    assert two.free == 0
    finished = []
    while two.free < 2:
        finished += two.wait(5)
    assert {event.spec.seed for event in finished} == {100, 101}


def test_local_wait_gives_up_in_time(two: LocalEngine) -> None:
    started = time.monotonic()
    assert two.wait(0.1) == []
    assert 0.09 < time.monotonic() - started < 1


def test_a_worker_that_dies_idle_is_replaced_when_needed(two: LocalEngine) -> None:
    victim = pids_of(two)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until_gone([victim], 5)
    records, _ = compute(two, specs(2))
    assert len(records) == 2
    assert victim not in pids_of(two)


def test_local_records_are_those_of_this_process_whatever_the_task_prints() -> None:
    wanted = specs(10) + specs(3, norm="batch", role="tune")
    with LocalEngine("lab.fakes:talk", workers=1) as engine:
        records, deaths = compute(engine, wanted)
    assert deaths == []
    assert records == {spec: fakes.run(spec) for spec in wanted}


def test_a_run_whose_worker_dies_is_tried_again_and_after_three_deaths_failed(tmp_path: Path) -> None:
    fatal, once = fakes.spec(norm="batch", task=str(tmp_path)), fakes.spec(norm="none", task=str(tmp_path))
    wanted = [fatal, once, *specs(3, task=str(tmp_path))]
    with LocalEngine("lab.fakes:die", workers=2) as engine:
        records, deaths = compute(engine, wanted)
        assert engine.workers == 2
    reason = "was ended by SIGKILL, as the system does when memory runs out; it last wrote: about to die"
    assert sorted(deaths, key=lambda death: death.spec.norm) == [Died(fatal, reason)] * 2 + [Died(once, reason)]
    failed = records.pop(fatal)
    assert failed == RunRecord(fatal, "failed", message=f"3 workers died on this run; the last one {reason}")
    assert records == {spec: fakes.run(spec) for spec in wanted[1:]}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("lab.fakes:fail", "ZeroDivisionError: in the user's task"),
        ("lab.fakes:leave", "SystemExit: enough"),
        ("lab.fakes:nothing", "AttributeError: module 'lab.fakes' has no attribute 'nothing'"),
        ("lab.nowhere:run", "ModuleNotFoundError: No module named 'lab.nowhere'"),
        ("lab.fakes:run_oddly", "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_an_error_in_a_run_is_its_outcome(function: str, message: str) -> None:
    record = decode_record(execute(function, RUNS.encode_spec(fakes.spec())))
    assert record == RunRecord(fakes.spec(), "failed", message=message)


def test_leaving_ends_workers_in_the_middle_of_a_run() -> None:
    with LocalEngine("lab.fakes:run_for_long", workers=2) as engine:
        pids = pids_of(engine)
        engine.submit(fakes.spec())
        engine.wait(0.5)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    wait_until_gone(pids, 0.1)


def script(code: str) -> subprocess.Popen[str]:
    """A script without a main guard, read from standard input, as a notebook is: the hardest case for workers."""
    process = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(PRELUDE + code)
    process.stdin.close()
    return process


BUSY = """
with LocalEngine("lab.fakes:run_for_long", workers=2) as engine:
    print(*[worker._process.pid for worker in engine._workers], flush=True)
    engine.submit(fakes.spec(seed=0))
    engine.submit(fakes.spec(seed=1))
    try:
        engine.wait(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("left", flush=True)
"""


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_no_worker_outlives_its_parent(how: str) -> None:
    process = script(BUSY)
    assert process.stdout is not None
    assert process.stderr is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.5)
    # To the whole group, as the terminal does; the workers are in groups of their own.
    os.killpg(process.pid, signal.SIGINT if how == "interrupt" else signal.SIGKILL)
    started = time.monotonic()
    output = process.stdout.read()
    errors = process.stderr.read()
    process.wait(10)
    wait_until_gone(pids, 10)  # workers that were still starting find out once they listen
    process.stdout.close()
    process.stderr.close()
    assert errors == ""
    if how == "interrupt":
        assert output == "interrupted\nleft\n"
        assert time.monotonic() - started < 5


def test_local_needs_no_main_guard() -> None:
    code = 'with LocalEngine("lab.fakes:run", workers=1) as e: e.submit(fakes.spec()); print(e.wait(60)[0].status)\n'
    process = script(code)
    assert process.stdout is not None
    assert process.stderr is not None
    assert (process.stdout.read(), process.stderr.read(), process.wait()) == ("done\n", "", 0)
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("engine", [LocalEngine, RayEngine])
def test_workers_is_a_positive_integer(engine: Any, workers: object) -> None:
    with pytest.raises(ArgumentError, match=r"^compare: expected workers to be a positive integer, got"):
        engine("lab.fakes:run", workers=workers)
    with pytest.raises(ArgumentError, match=r"^claims: expected workers"):
        engine("lab.fakes:run", workers=workers, call="claims")


def test_a_machine_that_starts_no_process_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match=r"^claims: expected to start a worker process, got .*No such file"):
        LocalEngine("lab.fakes:run", workers=2, call="claims")


def test_ray_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'^claims: .*run `pip install "normkit\[ray\]"`'):
        RayEngine("lab.fakes:run", call="claims")


# Ray leaves sockets and log files to the garbage collector.
quiet_ray = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.cluster
@quiet_ray
def test_ray_loses_a_node_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = [cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()
        # Two runs that take long, one on each node, and some short ones after them.
        wanted = specs(2, norm="batch", task=str(tmp_path)) + specs(20, task=str(tmp_path))

        def kill_one(n_finished: int) -> None:
            if doomed and len(list(tmp_path.iterdir())) == 2:
                cluster.remove_node(doomed.pop(), allow_graceful=False)

        with RayEngine("lab.fakes:hang_once", address=cluster.address) as engine:
            assert (engine.name, engine.workers) == ("ray", 2)
            records, deaths = compute(engine, wanted, kill_one)
    finally:
        cluster.shutdown()
    with LocalEngine("lab.fakes:run", workers=1) as engine:
        assert records == compute(engine, wanted)[0]
    assert [death.spec.norm for death in deaths] == ["batch"]
    assert "node it was running on is dead" in deaths[0].reason


@pytest.mark.cluster
@quiet_ray
def test_ray_starts_a_cluster_of_its_own_and_retries(tmp_path: Path) -> None:
    import ray

    once = fakes.spec(norm="none", task=str(tmp_path))
    with RayEngine("lab.fakes:die", workers=1) as engine:
        assert engine.workers == 1
        records, deaths = compute(engine, [once])
    assert records == {once: fakes.run(once)}
    assert [death.spec for death in deaths] == [once]
    assert "worker died unexpectedly" in deaths[0].reason
    assert not ray.is_initialized()
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.cluster
@quiet_ray
def test_ray_at_a_wrong_address_says_so() -> None:
    with pytest.raises(EngineError, match=r"^claims: expected a Ray cluster at 'auto', got ConnectionError"):
        RayEngine("lab.fakes:run", address="auto", call="claims")
