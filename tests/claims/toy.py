"""A world of one claim, one experiment and two rules, for tests of everything around an experiment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claims.made_up import rule
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.records import JOBS, JobRecord, JobSpec
from normkit.claims.work import measure
from normkit.lab.engines.base import Event

BATCHES = (2, 50)

EXPERIMENT = '''
import math
from normkit.claims.experiment import Experiment, Job, Measurement, conditions

N_SEEDS = {"instant": 0, "quick": 5, "full": 12}
LEVELS = {("batch", 2): 34.0, ("layer", 2): 4.0, ("batch", 50): 2.0, ("layer", 50): 12.0}

def jobs(tier):
    seeds = tuple(range(N_SEEDS[tier]))
    arms = [(b, norm) for b in (2, 50) for norm in ("batch", "layer")]
    return [Job("E05", conditions(norm=norm, batch=b), seeds, 10) for b, norm in arms if seeds]

def measure(job):
    """LayerNorm is better at batch size 2, BatchNorm at 50."""
    level = LEVELS[job.arm["norm"], job.arm["batch"]]
    OUTCOME
    return [
        Measurement("E05", job.conditions, n, metrics={"error": level + math.sin(n + level)}, series={"loss": (2, 1)})
        for n in job.seeds
    ]

EXPERIMENT = Experiment("E05", "A toy", "Which is better?", jobs, measure, lambda job: 1.0 * len(job.seeds))
'''


class World:
    """Where the toy lies; edits of it are seen after :meth:`write`."""

    def __init__(self, folder: Path, forget: Callable[[], None]) -> None:
        self.folder = folder
        self.forget = forget
        self.ran: list[JobSpec] = []
        self.interrupt_after: int | None = None
        folder.mkdir()
        self.write()

    def write(self, outcome: str = "", margin: float = 1.0) -> None:
        """Write the toy, with a line in its measurement, say, or other rules."""
        (self.folder / "e05_toy.py").write_text(EXPERIMENT.replace("OUTCOME", outcome or "pass"))
        sides = [({"norm": "batch", "batch": b}, {"norm": "layer", "batch": b}) for b in BATCHES]
        rules = [
            rule(id=f"E05-B{b}", margin=margin, these=these, those=those)
            for b, (these, those) in zip(BATCHES, sides, strict=True)
        ]
        self.rules(rules)
        self._dump("documents", [{"id": "made-up", "number": "000", "name": "Made up", "publisher": "nobody"}])
        claim = {"id": "000-01", "document": "made-up", "kind": "empirical", "statement": "LayerNorm wins."}
        claim |= {"text": "right", "text_reason": "It is clear.", "citations": []}
        self._dump("claims", [claim | {"literature": "contested", "literature_reason": "By some."}])
        names = [{"name": f"batch size {b}", "expression": f"E05-B{b}", "axis": "batch size", "at": b} for b in BATCHES]
        self._dump("evidence", {"000-01": names})
        self._dump("contradictions", [])
        self._dump("pilots", [])
        self._dump("literature", {"sources": [], "citations": []})
        self.forget()

    def rules(self, rules: Sequence[Hypothesis]) -> None:
        """Judge by these."""
        self._dump("E05", [asdict(rule) for rule in rules])
        self.forget()

    def engine(self, *asked: object, **choices: object) -> Inline:
        return Inline(self)

    def _dump(self, name: str, value: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(value))


class Inline:
    """An engine that computes in this process, as a worker would: an error is an outcome."""

    name = "inline"
    workers = 2

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: list[JobSpec] = []

    @property
    def free(self) -> int:
        return self.workers - len(self.waiting)

    def submit(self, spec: JobSpec) -> None:
        self.waiting.append(spec)

    def wait(self, timeout_s: float) -> list[Event[JobRecord, JobSpec]]:
        if self.world.interrupt_after is not None and len(self.world.ran) >= self.world.interrupt_after:
            raise KeyboardInterrupt
        spec = self.waiting.pop(0)
        self.world.ran.append(spec)
        try:
            record = measure(spec)
        except Exception as error:
            record = JOBS.failed(spec, f"{type(error).__name__}: {error}")
        return [JOBS.decode_record(JOBS.encode_record(record))]

    def close(self) -> None:
        pass

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
