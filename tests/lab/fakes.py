"""Runs that cost nothing: made-up outcomes, a function of the spec alone, for tests of everything around a run."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from normkit.lab.encoding import decode_record, encode_record
from normkit.lab.engines.base import Event
from normkit.lab.records import RunRecord, RunSpec

# Mean test NLL of each norm at its best learning rate, and that learning rate.
BEST = {"none": (0.9, 1e-2), "batch": (0.5, 3e-2), "layer": (0.2, 1e-2), "rms": (0.2, 1e-2), "group": (0.4, 3e-3)}

PARAMETERS = {"none": 90, "batch": 106, "layer": 106, "rms": 98, "group": 106}


def spec(**changes: object) -> RunSpec:
    fields: dict[str, object] = {
        "task": "toy",
        "task_hash": "abc",
        "norm": "layer",
        "batch_size": 16,
        "learning_rate": 1e-2,
        "seed": 0,
        "role": "evaluate",
        "steps": 100,
    }
    return RunSpec(**{**fields, **changes})  # type: ignore[arg-type]


class Inline:
    """An engine that computes in this process, one run a wait, as if it had two workers."""

    name = "inline"
    workers = 2

    def __init__(self, run: Callable[[RunSpec], RunRecord]) -> None:
        self.run = run
        self.waiting: list[RunSpec] = []
        self.ran: list[RunSpec] = []
        self.n_idle: list[int] = []  # at each wait
        self.is_closed = False

    @property
    def free(self) -> int:
        return self.workers - len(self.waiting)

    def submit(self, spec: RunSpec) -> None:
        assert self.free
        self.waiting.append(spec)

    def wait(self, timeout_s: float) -> list[Event]:
        self.n_idle.append(self.free)
        spec = self.waiting.pop(0)
        self.ran.append(spec)
        return [decode_record(execute_with(self.run, spec))]

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def execute_with(run: Callable[[RunSpec], RunRecord], spec: RunSpec) -> str:
    """As a worker does it: an error is an outcome."""
    try:
        return encode_record(run(spec))
    except Exception as error:
        return encode_record(RunRecord(spec, "failed", message=f"{type(error).__name__}: {error}"))


def noise(text: str) -> float:
    """A number in [-0.5, 0.5) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48 - 0.5


def run(spec: RunSpec) -> RunRecord:
    """NLL is lowest at the norm's best learning rate; seeds shift all norms together and each a little alone."""
    level, best = BEST[spec.norm]
    loss = level + 0.3 * abs(math.log10(spec.learning_rate / best))
    loss += 0.2 * noise(f"{spec.seed}") + 0.02 * noise(f"{spec.seed}, {spec.norm}, {spec.batch_size}")
    metrics = {"val_nll": loss, "val_accuracy": math.exp(-loss)}
    if spec.role == "evaluate":
        metrics |= {"test_nll": loss + 0.01, "test_accuracy": math.exp(-loss)}
        if spec.norm == "batch":
            metrics |= {"test_nll_batch": loss + 0.02, "test_nll_recomputed": loss + 0.03}
    return RunRecord(
        spec,
        "done",
        metrics=metrics,
        curve=((0, 2.3), (spec.steps, loss)),
        steps_done=spec.steps,
        epochs=1.5,
        ms_per_step=0.5,
        wall_s=0.001 * spec.steps,
        provenance={"versions": {"torch": "0"}, "parameters": PARAMETERS[spec.norm]},
    )


def run_slowly(spec: RunSpec) -> RunRecord:
    """The same, in 50 ms."""
    time.sleep(0.05)
    return run(spec)


def run_quite_slowly(spec: RunSpec) -> RunRecord:
    """The same, in 5 ms."""
    time.sleep(0.005)
    return run(spec)


def run_for_long(spec: RunSpec) -> RunRecord:
    """Busy for longer than any test waits."""
    time.sleep(600)
    return run(spec)


def die(spec: RunSpec) -> RunRecord:
    """batch kills its process always, none the first time; the task names a folder that remembers."""
    mark = Path(spec.task) / spec.key
    if spec.norm == "batch" or (spec.norm == "none" and not mark.exists()):
        mark.touch()
        sys.stdout.write("about to die\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return run(spec)


def hang_once(spec: RunSpec) -> RunRecord:
    """batch takes 6 s the first time; the task names a folder that remembers."""
    mark = Path(spec.task) / spec.key
    if spec.norm == "batch" and not mark.exists():
        mark.touch()
        time.sleep(6)
    return run(spec)


def talk(spec: RunSpec) -> RunRecord:
    """Prints and reads, as a user's task may; neither must reach the channel to the parent."""
    sys.stdout.write("hello {\n")
    os.write(1, b"raw bytes\n")
    return run(spec)


def look_around(spec: RunSpec) -> RunRecord:
    """Tells about the process in which the run was."""
    import torch

    found = {
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "ignores_interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "leads_its_session": os.getsid(0) == os.getpid(),
        "stdin": sys.stdin.read(),
    }
    time.sleep(0.2)
    return RunRecord(spec, "done", provenance=found)


def run_oddly(spec: RunSpec) -> RunRecord:
    return RunRecord(spec, "done", provenance={"tags": {"a"}})


def leave(spec: RunSpec) -> RunRecord:
    sys.exit("enough")


def fail(spec: RunSpec) -> RunRecord:
    raise ZeroDivisionError("in the user's task")


def mixed(spec: RunSpec) -> RunRecord:
    """Every outcome a run can have: none diverges at evaluation seed 1, batch is impossible, group fails."""
    if spec.norm == "none" and spec.seed == 1:
        return RunRecord(spec, "diverged", message="loss was nan at step 3", steps_done=3)
    if spec.norm == "batch":
        return RunRecord(spec, "impossible", message="batch: expected more than 1 value per channel")
    if spec.norm == "group":
        raise ZeroDivisionError("in the user's task")
    return run(spec)


def diverge_at_high_rates(spec: RunSpec) -> RunRecord:
    """batch diverges at every learning rate, none at all above 3e-4."""
    if spec.norm == "batch" or (spec.norm == "none" and spec.learning_rate > 3e-4):
        return RunRecord(spec, "diverged", message="loss was inf at step 1", steps_done=1)
    return run(spec)


def alike(spec: RunSpec) -> RunRecord:
    """Every norm has exactly the same outcome, as in an A/A check."""
    record = run(RunSpec(**{**vars(spec), "norm": "layer"}))
    return RunRecord(**{**vars(record), "spec": spec})
