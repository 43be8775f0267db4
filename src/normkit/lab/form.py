"""What the store and the engines need to know of a kind of work: training runs are one, the jobs of claims another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args


class Spec(Protocol):
    """All that determines a piece of work: a dataclass of plain data."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def key(self) -> str:
        """The same for the same work, and for no other."""

    @property
    def protocol(self) -> int:
        """Raised when the meaning of the work changes in a way that ``task_hash`` does not see."""

    @property
    def task(self) -> str:
        """What is worked on."""

    @property
    def task_hash(self) -> str:
        """Of all code that the work goes through."""


SpecT = TypeVar("SpecT", bound=Spec)
SpecT_co = TypeVar("SpecT_co", bound=Spec, covariant=True)


class Outcome(Protocol[SpecT_co]):
    """What a piece of work left behind."""

    @property
    def spec(self) -> SpecT_co:
        """Of what this is the outcome."""

    @property
    def status(self) -> str:
        """ "failed" where the machine failed and not the work: such an outcome is not kept."""


RecordT = TypeVar("RecordT", bound=Outcome[Spec])


def check_status(status: object, known: Any) -> None:
    """Refuse what is none of a ``Literal``'s statuses.

    Raises:
        ValueError: it is none.
    """
    if status not in get_args(known):
        raise ValueError(f"expected a status of {', '.join(get_args(known))}, got {status!r}")


@dataclass(frozen=True)
class Form(Generic[SpecT, RecordT]):
    """How one kind of work crosses to worker processes and lies in the store.

    Attributes:
        where: "module:name" of this form, by which a worker process finds it.
        table: its table in the store.
        protocol: outcomes of another number are never used.
        decode_spec: the inverse of ``encode_spec``.
        encode_record, decode_record: one line of JSON, and back. ``decode_record`` raises ValueError, TypeError or
            KeyError for anything else.
        record: makes an outcome of a spec, a status and, by name, more.
    """

    where: str
    table: str
    protocol: int
    decode_spec: Callable[[str], SpecT]
    encode_record: Callable[[RecordT], str]
    decode_record: Callable[[str], RecordT]
    record: Callable[..., RecordT]

    def encode_spec(self, spec: SpecT) -> str:
        """One line of JSON."""
        return json.dumps(asdict(spec))

    def failed(self, spec: SpecT, message: str) -> RecordT:
        """The outcome of work that could not be done, and why."""
        return self.record(spec, "failed", message=message)
