"""Worker processes on this machine, one torch thread each.

A worker is a plain Python process that is told its work as text over a pipe, not a child of
:mod:`multiprocessing`: so it never imports the user's main module, and ``compare`` works in a notebook and in a
script without a main guard. It is the leader of a session of its own: Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import TracebackType
from typing import IO, Generic

from normkit.errors import EngineError
from normkit.lab.encoding import RUNS
from normkit.lab.engines.base import TRAINING, Attempts, Died, Event, checked_workers
from normkit.lab.form import Form, RecordT, SpecT
from normkit.lab.provenance import available_cores

# Isolated (-I), so that no file that happens to lie in the current folder takes the place of a module; then
# the parent's own search path.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from normkit.lab.engines.worker import main; main(*sys.argv[2:])"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class LocalEngine(Generic[SpecT, RecordT]):
    """Computes runs in worker processes.

    A worker that dies is replaced and its run started again, twice at most; then the run is reported as
    failed.

    Args:
        run: "module:function", from a spec to its record.
        form: what kind of work that is.
        workers: how many; None for as many as there are cores.
        call: what the user called, for messages.

    Raises:
        ArgumentError: ``workers`` is not a positive integer.
        EngineError: no process can be started.
    """

    name = "local"

    def __init__(
        self,
        run: str = TRAINING,
        *,
        form: Form[SpecT, RecordT] = RUNS,  # type: ignore[assignment]  # of TRAINING, the other default
        workers: int | None = None,
        call: str = "compare",
    ) -> None:
        n = checked_workers(workers, available_cores(), call)
        self._call = call
        self._run = run
        self._form = form
        self._attempts = Attempts(form)
        self._inbox: queue.Queue[tuple[_Worker[SpecT], str | None]] = queue.Queue()
        self._workers: list[_Worker[SpecT]] = []
        try:
            for _ in range(n):
                self._workers.append(_Worker(run, form, self._inbox, call))
        except EngineError:
            self.close()
            raise

    def __enter__(self) -> LocalEngine[SpecT, RecordT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """Runs that can be under way at once."""
        return len(self._workers)

    @property
    def free(self) -> int:
        """Runs that can be submitted now."""
        return sum(worker.spec is None for worker in self._workers)

    def submit(self, spec: SpecT) -> None:
        """Start a run."""
        place = next(i for i, worker in enumerate(self._workers) if worker.spec is None)
        if self._workers[place].dead:
            self._replace(place)
        self._workers[place].start(spec)

    def wait(self, timeout_s: float) -> list[Event[RecordT, SpecT]]:
        """What has happened since the last call, or happens first within ``timeout_s``."""
        events: list[Event[RecordT, SpecT]] = []
        try:
            message = self._inbox.get(timeout=max(timeout_s, 0.0))
            while True:
                events += self._heed(*message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return events

    def close(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()
        while self._workers:
            self._workers.pop().reap()

    def _heed(self, worker: _Worker[SpecT], answer: str | None) -> list[Event[RecordT, SpecT]]:
        """Take a worker's answer; None says that it has ended."""
        if answer is not None:
            worker.spec = None
            return [self._form.decode_record(answer)]
        worker.dead = True
        spec, worker.spec = worker.spec, None
        if spec is None:
            return []
        event = self._attempts.after_death(spec, worker.last_words())
        if isinstance(event, Died):
            self.submit(spec)
        return [event]

    def _replace(self, place: int) -> None:
        """A new process where one died."""
        self._workers[place].kill()
        self._workers[place].reap()
        self._workers[place] = _Worker(self._run, self._form, self._inbox, self._call)


class _Worker(Generic[SpecT]):
    """A process, the run it is on, and a thread that passes on what it says."""

    def __init__(
        self, run: str, form: Form[SpecT, RecordT], inbox: queue.Queue[tuple[_Worker[SpecT], str | None]], call: str
    ) -> None:
        self.spec: SpecT | None = None
        self._encode = form.encode_spec
        self.dead = False
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - kill() closes it
        search_path = [entry or os.getcwd() for entry in sys.path]
        arguments = [json.dumps(search_path), run, form.where]
        command = [sys.executable, "-I", "-X", "faulthandler", "-c", _BOOT, *arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise EngineError(
                f"{call}: expected to start a worker process, got {error}; pass fewer workers."
            ) from error
        self._reader = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._reader.start()

    def start(self, spec: SpecT) -> None:
        """Tell the process to compute a run."""
        self.spec = spec
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(self._encode(spec) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died, which its reader reports as for any other death

    def last_words(self) -> str:
        """How the process ended and the last line that it wrote."""
        code = self._process.wait()
        reason = f"ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            reason = f"was ended by {name}"
            reason += ", as the system does when memory runs out" if name == "SIGKILL" else ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4096))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"{reason}; it last wrote: {lines[-1].strip()[:300]}" if lines else reason

    def kill(self) -> None:
        """End the process, whatever it does, and all that it started itself."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def reap(self) -> None:
        """Wait for the end of the killed process and close what tied it to this one."""
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe is not None
            with suppress(BrokenPipeError):  # unsent work for a dead process
                pipe.close()

    def _listen(self, inbox: queue.Queue[tuple[_Worker[SpecT], str | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else the process died while it wrote
                inbox.put((self, line))
        inbox.put((self, None))
