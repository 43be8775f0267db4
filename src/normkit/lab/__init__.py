"""The laboratory: the same network, trained with each normalization on real data, compared with intervals."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from normkit.lab.comparison import Cell, Comparison, Interval, Progress, Score, TaskInfo
from normkit.lab.data import split
from normkit.lab.norms import NormFactory
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.task import Data, Inputs, Split, Task

if TYPE_CHECKING:
    from normkit.lab.compare import compare

__all__ = [
    "Cell",
    "Comparison",
    "Data",
    "Inputs",
    "Interval",
    "NormFactory",
    "Progress",
    "RunRecord",
    "RunSpec",
    "Score",
    "Split",
    "Task",
    "TaskInfo",
    "compare",
    "split",
]


def __getattr__(name: str) -> Any:
    # compare needs the statistics packages of the extra "lab"; a task file, which imports Task from here, does not.
    if name == "compare":
        return import_module("normkit.lab.compare").compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
