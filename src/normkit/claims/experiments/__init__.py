"""The experiments: one file each, ``eNN_name.py``, with ``EXPERIMENT``. Each is imported when it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from normkit.claims.experiment import Experiment
from normkit.errors import ArgumentError

# Those that tell most a second go first: exact ones, then those with large effects, then the rest by number.
FIRST = ("E01", "E02", "E03", "E27", "E26", "E08", "E09", "E14", "E05", "E10", "E12", "E15", "E16")


@cache
def files() -> dict[str, Path]:
    """Experiment -> its file, in the order in which experiments are run."""
    paths = [path for folder in __path__ for path in sorted(Path(folder).glob("e[0-9][0-9]_*.py"))]
    found = {path.name[:3].upper(): path for path in paths}
    return {id_: found[id_] for id_ in (*(id_ for id_ in FIRST if id_ in found), *sorted(set(found) - set(FIRST)))}


def experiment(id_: str) -> Experiment:
    """An experiment by its number.

    Raises:
        ArgumentError: there is none of that number.
    """
    known = files()
    if id_ not in known:
        raise ArgumentError(f"claims: expected an experiment of {', '.join(known)}, got {id_!r}; use one of these.")
    found: Experiment = import_module(f"{__name__}.{known[id_].stem}").EXPERIMENT
    return found
