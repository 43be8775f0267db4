"""What one training run is, and what it leaves behind: plain data, no behaviour beyond its own key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from normkit.lab.canonical import hash_of

Role = Literal["tune", "evaluate"]
Status = Literal["done", "diverged", "impossible", "failed"]

# Raised whenever the meaning of a run changes in a way that ``task_hash`` does not see: old records then no longer
# match, and nothing stale is ever mixed with new results.
PROTOCOL = 1


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run. Two runs with the same spec are the same run."""

    task: str  # "digits-lstm", "digits-lstm:lengths=variable" or the path of a user's task file
    task_hash: str  # of the task's definition and of all code below it, so that an edited task is another task
    norm: str
    batch_size: int
    learning_rate: float
    seed: int
    role: Role
    steps: int
    protocol: int = PROTOCOL

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all fields."""
        return hash_of(asdict(self))


@dataclass(frozen=True)
class RunRecord:
    """The outcome of a run. A run that diverged, or cannot be done at all, is an outcome too."""

    spec: RunSpec
    status: Status
    message: str = ""  # why, for every status but "done"
    # val_nll, val_accuracy; for role "evaluate" also test_nll, test_accuracy, and for norms with running
    # statistics the same two with the suffixes _batch and _recomputed (statistics of the evaluated batch;
    # statistics recomputed over the training data). A diverged run has no metrics.
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()  # (step, training loss), at most 50 points
    steps_done: int = 0
    epochs: float = 0.0
    ms_per_step: float = 0.0  # median over the steps after the first 5
    wall_s: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)  # versions, machine, threads, started_at
