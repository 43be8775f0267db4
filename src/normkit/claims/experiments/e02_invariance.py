"""E02: which changes of the weights or of the data leave the output of a normalized linear layer as it was.

Ba et al. 2016 and Zhang & Sennrich 2019 each print such a table; this one is computed. ``TABLE`` is what the formulas
say, and a cell is wrong where the layer does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import UNDEFINED, Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._exact import OURS, SEEDS, Layers, difference, normal

CASES, INPUTS, UNITS, GROUPS = 6, 5, 8, 2
FACTOR = 3.0
EPS = 1e-14  # eps is what breaks an exact invariance of scale: too small to be seen here
INVARIANT = 1e-6  # relative to outputs of size 1

CHANGES = (
    "weights_scaled",  # the whole matrix times a factor
    "weights_recentred",  # the same vector added to the weights of every unit
    "one_unit_scaled",
    "data_scaled",
    "data_recentred",  # the same vector added to every case
    "one_case_scaled",
    "others_replaced",  # by other cases: what becomes of the first?
)

TABLE: Mapping[str, tuple[bool, ...]] = {  # norm -> invariant under each change
    "none": (False, False, False, False, False, False, True),
    "batch": (True, False, True, True, True, False, False),
    "layer": (True, True, False, True, False, True, True),
    "rms": (True, False, False, True, False, True, True),
    "group": (True, True, False, True, False, True, True),
}


def measure_with(job: Job, layers: Layers) -> list[Measurement]:
    """The row of the table for the job's norm: by how much each change changes the output, and the wrong cells."""
    return [_row(job, seed, layers) for seed in job.seeds]


def _row(job: Job, seed: int, layers: Layers) -> Measurement:
    norm = str(job.arm["norm"])
    changes = _changes(torch.Generator().manual_seed(seed), _normalizer(norm, layers))
    batch = _changes(torch.Generator().manual_seed(seed), _normalizer("batch", layers))
    metrics = dict(changes)
    metrics["wrong_cells"] = _unlike(_cells(changes), TABLE[norm])
    metrics["cells_unlike_batch"] = _unlike(_cells(changes), _cells(batch))
    return Measurement(job.experiment, job.conditions, seed, metrics=metrics)


def _cells(changes: Mapping[str, float]) -> tuple[bool | None, ...]:
    """Whether the output is invariant under each change; None where it is not a number."""
    return tuple(None if change >= UNDEFINED else change < INVARIANT for change in changes.values())


def _unlike(cells: Sequence[bool | None], others: Sequence[bool | None]) -> float:
    """How many cells differ; ``UNDEFINED`` where any is not known."""
    if None in cells or None in others:
        return UNDEFINED
    return float(sum(a != b for a, b in zip(cells, others, strict=True)))


def _normalizer(norm: str, layers: Layers) -> Callable[[Tensor], Tensor]:
    if norm == "none":
        return lambda x: x
    make: Mapping[str, Callable[..., nn.Module]] = {
        "batch": layers.batch,
        "layer": layers.layer,
        "rms": layers.rms,
        "group": layers.group,
    }
    sizes = (GROUPS, UNITS) if norm == "group" else (UNITS,)
    layer = make[norm](*sizes, eps=EPS, dtype=torch.float64)

    def normalize(x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return y.detach()

    return normalize


def _changes(generator: torch.Generator, normalize: Callable[[Tensor], Tensor]) -> dict[str, float]:
    x, w = normal(generator, CASES, INPUTS) + 1.0, normal(generator, UNITS, INPUTS)
    per_input, others = normal(generator, INPUTS), normal(generator, CASES, INPUTS)
    unit, case = torch.ones(UNITS, 1, dtype=w.dtype), torch.ones(CASES, 1, dtype=x.dtype)
    unit[0], case[0] = FACTOR, FACTOR
    others[0] = x[0]
    before = normalize(x @ w.T)
    after = {
        "weights_scaled": normalize(x @ (FACTOR * w).T),
        "weights_recentred": normalize(x @ (w + per_input).T),
        "one_unit_scaled": normalize(x @ (unit * w).T),
        "data_scaled": normalize((FACTOR * x) @ w.T),
        "data_recentred": normalize((x + per_input) @ w.T),
        "one_case_scaled": normalize((case * x) @ w.T),
    }
    changes = {name: difference(y, before) for name, y in after.items()}
    changes["others_replaced"] = difference(normalize(others @ w.T)[0], before[0])
    assert tuple(changes) == CHANGES
    return changes


def jobs(tier: Tier) -> Sequence[Job]:
    return [Job("E02", conditions(norm=norm), SEEDS) for norm in ("batch", "layer", "rms", "group", "none")]


EXPERIMENT = Experiment(
    "E02",
    "Invariance table",
    "What can be done to the weights or the data without any change of the output?",
    jobs,
    lambda job: measure_with(job, OURS),
    seconds=lambda job: 0.05,
)
