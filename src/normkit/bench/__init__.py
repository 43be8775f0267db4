"""The benchmark: normkit beside torch eager and torch.compile, correctness first, and a copy as the yardstick."""

from normkit.bench.cases import GRIDS, Grid
from normkit.bench.overhead import measure_overheads
from normkit.bench.recurrent import measure_recurrent
from normkit.bench.results import (
    STEPS,
    CellResult,
    ModelResult,
    OverheadResult,
    Record,
    RecurrentResult,
    below_par,
    costs_of_masks,
    geometric_mean,
    without_masks,
)
from normkit.bench.runner import Options, Progress, run
from normkit.bench.steps import measure_models
from normkit.bench.threads import thread_count
from normkit.bench.timing import Plan, Timing

__all__ = [
    "GRIDS",
    "STEPS",
    "CellResult",
    "Grid",
    "ModelResult",
    "Options",
    "OverheadResult",
    "Plan",
    "Progress",
    "Record",
    "RecurrentResult",
    "Timing",
    "below_par",
    "costs_of_masks",
    "geometric_mean",
    "measure_models",
    "measure_overheads",
    "measure_recurrent",
    "run",
    "thread_count",
    "without_masks",
]
