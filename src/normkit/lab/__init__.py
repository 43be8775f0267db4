"""The laboratory: the same network, trained with each normalization on real data, compared with intervals."""

from __future__ import annotations

from normkit.lab.compare import compare
from normkit.lab.comparison import Cell, Comparison, Interval, Progress, Score, TaskInfo
from normkit.lab.data import split
from normkit.lab.norms import NormFactory
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.task import Data, Inputs, Split, Task

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
