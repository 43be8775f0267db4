"""A world of one claim, one experiment and two rules, in which a job costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claims import toy
from normkit.claims import code, experiments, rulebook


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[toy.World]:
    """The toy in place of everything, and an engine that computes in this process."""
    # The package has a function of each of these names, too.
    register, run = sys.modules["normkit.claims.register"], sys.modules["normkit.claims.run"]
    caches = [experiments.files, rulebook.rulebook, code.code_hash]
    caches += [register.register, register.contradictions, register.pilots, register.evidence_hash]

    def forget() -> None:
        sys.modules.pop("normkit.claims.experiments.e05_toy", None)
        for cached in caches:
            cached.cache_clear()

    here = toy.World(tmp_path / "toy", forget)
    monkeypatch.setattr(experiments, "__path__", [str(here.folder)])
    monkeypatch.setattr(rulebook, "FOLDER", here.folder)
    monkeypatch.setattr(register, "FOLDER", here.folder)
    monkeypatch.setattr(run, "start_engine", here.engine)
    yield here
    forget()
