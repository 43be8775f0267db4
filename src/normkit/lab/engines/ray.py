"""The cores of a Ray cluster: one that runs already, or one started on this machine for the purpose."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic

import torch

from normkit.errors import EngineError
from normkit.lab.encoding import RUNS
from normkit.lab.engines.base import TRAINING, Attempts, Died, Event, checked_workers
from normkit.lab.engines.worker import execute
from normkit.lab.extras import require
from normkit.lab.form import Form, RecordT, SpecT
from normkit.lab.provenance import available_cores

# How long the number of cores in the cluster is believed: nodes come and go.
CORES_BELIEVED_S = 2.0


class RayEngine(Generic[SpecT, RecordT]):
    """Computes runs on a Ray cluster.

    A run whose worker or node dies is started again, twice at most; then it is reported as failed. Every node
    needs normkit, and a user's task file at the same path. A connection to Ray that this process has made
    already is used as it is, and stays.

    Args:
        run: "module:function", from a spec to its record.
        form: what kind of work that is.
        workers: runs at once; None for as many as the cluster has cores.
        address: of an existing cluster ("192.0.2.1:6379", or "auto" for the one that runs on this machine);
            None starts one here, without dashboard and usage reports, that ends with the engine.
        call: what the user called, for messages.

    Raises:
        ArgumentError: ``workers`` is not a positive integer.
        MissingExtraError: Ray is not installed.
        EngineError: the cluster cannot be reached or started.
    """

    name = "ray"

    def __init__(
        self,
        run: str = TRAINING,
        *,
        form: Form[SpecT, RecordT] = RUNS,  # type: ignore[assignment]  # of TRAINING, the other default
        workers: int | None = None,
        address: str | None = None,
        call: str = "compare",
    ) -> None:
        self._most = checked_workers(workers, sys.maxsize, call)
        self._ray: Any = require("ray", extra="ray", call=call)
        self._run = run
        self._form = form
        self._attempts = Attempts(form)
        self._running: dict[Any, SpecT] = {}
        self._cores = 1
        self._cores_known_at = -CORES_BELIEVED_S
        self._connected_here = not self._ray.is_initialized()
        if self._connected_here:
            _connect(self._ray, address, checked_workers(workers, available_cores(), call), call)
        # Deaths are counted here, as for the local engine, so that they are reported: no retries by Ray.
        self._task = self._ray.remote(num_cpus=1, max_retries=0)(execute_as_driver)

    def __enter__(self) -> RayEngine[SpecT, RecordT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """Runs that can be under way at once, as of now."""
        if time.monotonic() - self._cores_known_at >= CORES_BELIEVED_S:
            self._cores = int(self._ray.cluster_resources().get("CPU", 0))
            self._cores_known_at = time.monotonic()
        return max(1, min(self._most, self._cores))

    @property
    def free(self) -> int:
        """Runs that can be submitted now."""
        return max(0, self.workers - len(self._running))

    def submit(self, spec: SpecT) -> None:
        """Start a run."""
        search_path = [entry or os.getcwd() for entry in sys.path]
        ref = self._task.remote(search_path, os.getcwd(), self._run, self._form.where, self._form.encode_spec(spec))
        self._running[ref] = spec

    def wait(self, timeout_s: float) -> list[Event[RecordT, SpecT]]:
        """What has happened since the last call, or happens first within ``timeout_s``."""
        if not self._running:
            return []
        ready, rest = self._ray.wait(list(self._running), num_returns=1, timeout=max(timeout_s, 0.0))
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._outcome(ref) for ref in ready]

    def close(self) -> None:
        """Give up all runs under way; end the cluster if this engine started it."""
        if self._connected_here:
            self._ray.shutdown()
        else:
            for ref in self._running:
                self._ray.cancel(ref, force=True)
        self._running.clear()

    def _outcome(self, ref: Any) -> Event[RecordT, SpecT]:
        spec = self._running.pop(ref)
        try:
            return self._form.decode_record(self._ray.get(ref))
        except self._ray.exceptions.RayError as error:
            reason = f"was lost: {_first_sentence(error)}"
        event = self._attempts.after_death(spec, reason)
        if isinstance(event, Died):
            self.submit(spec)
        return event


def execute_as_driver(search_path: list[str], folder: str, function: str, form: str, request: str) -> str:
    """Compute a run on a worker of Ray, which finds modules and task files where the driver does."""
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    if os.path.isdir(folder):
        os.chdir(folder)
    torch.set_num_threads(1)
    return execute(function, request, form)


def _connect(ray: Any, address: str | None, workers: int, call: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            with _no_usage_reports():
                ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        what = "to start a Ray cluster" if address is None else f"a Ray cluster at {address!r}"
        why = _first_sentence(error)
        raise EngineError(
            f"{call}: expected {what}, got {why}; check it with `ray status`, or use engine='local'."
        ) from error


@contextmanager
def _no_usage_reports() -> Iterator[None]:
    """Within: processes that start are told not to send anything to Ray's makers."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_sentence(error: BaseException) -> str:
    """Ray's messages go on for paragraphs."""
    sentence, *_ = re.split(r"(?<=[.!]) |\n", str(error).strip(), maxsplit=1)
    return f"{type(error).__name__}: {sentence[:200]}"
