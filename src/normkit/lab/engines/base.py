"""What every engine can do, and what happens when a worker dies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeAlias

from normkit.errors import ArgumentError
from normkit.lab.form import Form, RecordT, SpecT

TRAINING = "normkit.lab.training:run"
MAX_RETRIES = 2


@dataclass(frozen=True)
class Died(Generic[SpecT]):
    """A worker died on a run, which has been started again."""

    spec: SpecT
    reason: str


Event: TypeAlias = RecordT | Died[SpecT]


class Engine(Protocol[SpecT, RecordT]):
    """Computes runs elsewhere, several at once.

    An engine keeps no queue: whoever uses it submits while :attr:`free` is above 0, then waits. Leaving the
    ``with`` block ends all that it started, without waiting for runs under way.
    """

    name: str

    @property
    def workers(self) -> int:
        """Runs that can be under way at once, as of now."""

    @property
    def free(self) -> int:
        """Runs that can be submitted now."""

    def submit(self, spec: SpecT) -> None:
        """Start a run."""

    def wait(self, timeout_s: float) -> list[Event[RecordT, SpecT]]:
        """What has happened since the last call; if nothing has, what happens first within ``timeout_s``."""

    def close(self) -> None:
        """End all that was started, at once."""

    def __enter__(self) -> Engine[SpecT, RecordT]: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoEngine(Generic[SpecT, RecordT]):
    """Stands where no run is left to compute, so that no worker is started for nothing.

    Args:
        name: of the engine in whose place it stands.
    """

    workers = 0
    free = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def submit(self, spec: SpecT) -> None:
        """Not to be called: nothing is ever free."""
        raise AssertionError(f"{spec} has no engine to run on")

    def wait(self, timeout_s: float) -> list[Event[RecordT, SpecT]]:
        """Nothing happens."""
        return []

    def close(self) -> None:
        """Nothing was started."""

    def __enter__(self) -> NoEngine[SpecT, RecordT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Attempts(Generic[SpecT, RecordT]):
    """Counts the workers that died on each run: the run is tried again at most ``MAX_RETRIES`` times."""

    def __init__(self, form: Form[SpecT, RecordT]) -> None:
        self._form = form
        self._deaths: Counter[str] = Counter()

    def after_death(self, spec: SpecT, reason: str) -> Event[RecordT, SpecT]:
        """``Died`` if the run is to be started again, else its record as failed."""
        self._deaths[spec.key] += 1
        deaths = self._deaths[spec.key]
        if deaths <= MAX_RETRIES:
            return Died(spec, reason)
        return self._form.failed(spec, f"{deaths} workers died on this run; the last one {reason}")


def checked_workers(workers: int | None, default: int, call: str) -> int:
    """The number of workers to use.

    Args:
        call: what the user called, for the message.

    Raises:
        ArgumentError: it is not a positive integer.
    """
    if workers is None:
        return default
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ArgumentError(f"{call}: expected workers to be a positive integer, got {workers!r}; pass 2, say.")
    return workers
