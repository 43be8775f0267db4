"""Engines by name, for the calls that let their user choose."""

from __future__ import annotations

from normkit.errors import ArgumentError
from normkit.lab.engines.base import Engine, NoEngine
from normkit.lab.engines.local import LocalEngine
from normkit.lab.engines.ray import RayEngine
from normkit.lab.form import Form, RecordT, SpecT
from normkit.lab.norms import nearest, one_of

ENGINES = ("local", "ray")


def check_engine(engine: str | Engine[SpecT, RecordT], address: str | None, *, call: str) -> None:
    """Refuse, before anything is read or written, what :func:`start_engine` could not start.

    Raises:
        ArgumentError: there is no such engine, or it takes no address.
    """
    if isinstance(engine, str) and engine not in ENGINES:
        raise ArgumentError(f"{call}: expected engine {one_of(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if address is not None and engine != "ray":
        raise ArgumentError(f"{call}: expected no address with engine {engine!r}, got {address!r}; use engine='ray'.")


def start_engine(
    engine: str | Engine[SpecT, RecordT],
    run: str,
    form: Form[SpecT, RecordT],
    *,
    workers: int | None,
    address: str | None,
    is_needed: bool,
    call: str,
) -> Engine[SpecT, RecordT]:
    """The engine chosen, at work; one that is an object already is taken as it is.

    Args:
        engine: "local", "ray", or an engine.
        run: "module:function", from a spec to its record.
        form: what kind of work that is.
        workers: at once; None for one a core.
        address: of a Ray cluster.
        is_needed: whether there is any work.
        call: what the user called, for messages.

    Raises:
        ArgumentError, EngineError, MissingExtraError: it cannot be started.
    """
    if not isinstance(engine, str):
        return engine
    if not is_needed:
        return NoEngine(engine)
    if engine == "ray":
        return RayEngine(run, form=form, workers=workers, address=address, call=call)
    return LocalEngine(run, form=form, workers=workers, call=call)
