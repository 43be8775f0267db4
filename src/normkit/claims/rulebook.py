"""The rules by which measurements are judged, read from ``rules/``, and their hash, which is kept with each record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from normkit.claims.hypothesis import Hypothesis, Kind
from normkit.lab.canonical import hash_of

FOLDER = Path(__file__).with_name("rules")


@cache
def rulebook() -> Mapping[str, Hypothesis]:
    """Every hypothesis by its id, in the order of the files."""
    found: dict[str, Hypothesis] = {}
    for path in sorted(FOLDER.glob("E[0-9][0-9]*.json")):
        for fields in json.loads(path.read_text(encoding="utf-8")):
            hypothesis = _hypothesis(fields, path)
            if hypothesis.id in found:
                raise ValueError(f"{path.name}: {hypothesis.id} is there twice")
            found[hypothesis.id] = hypothesis
    return MappingProxyType(found)


def rules_hash(experiment: str | None = None) -> str:
    """SHA-256 of the canonical JSON of the rules of an experiment, or of all."""
    rules = [asdict(h) for h in rulebook().values() if experiment is None or h.experiment == experiment]
    return hash_of(sorted(rules, key=lambda rule: str(rule["id"])))


def _hypothesis(fields: dict[str, Any], path: Path) -> Hypothesis:
    hypothesis = Hypothesis(**fields)
    experiment = path.stem[:3]  # "E16_claims.json" has rules that a claim needs beside the experiment's own
    if hypothesis.experiment != experiment or not hypothesis.id.startswith(f"{experiment}-"):
        raise ValueError(f"{path.name}: expected rules of {experiment}, got {hypothesis.id} of {hypothesis.experiment}")
    if hypothesis.kind not in get_args(Kind):
        raise ValueError(f"{path.name}: expected a kind of {', '.join(get_args(Kind))}, got {hypothesis.kind!r}")
    return hypothesis
