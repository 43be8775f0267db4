"""The result of ``normkit compare`` as plain data: what the table and the report are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from normkit.lab.records import RunRecord

CellStatus = Literal["done", "diverged", "impossible", "failed", "not-run"]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval. ``low`` and ``high`` are None below two finite values."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Score:
    """One norm in one cell (task x batch size), at its own tuned learning rate."""

    norm: str
    status: CellStatus  # "diverged": at least one evaluation run did
    message: str = ""
    learning_rate: float | None = None
    tuning_complete: bool = True  # False: the best learning rate still sits at the edge of the grid
    nll: Interval | None = None  # test NLL in nats: the primary metric; None unless some run finished
    accuracy: Interval | None = None
    n_diverged: int = 0
    n_runs: int = 0
    # Paired difference to the best norm of the cell (this minus best, over the same seeds) and its
    # Holm-adjusted p-value; None for the best itself and for a norm that cannot be compared.
    difference: Interval | None = None
    p_adjusted: float | None = None
    # Of a norm that Holm's correction does not tell from the best, though its own interval is above 0.
    unclear: bool = False
    p_sign_flip: float | None = None  # exact, not adjusted, free of assumptions: for reference
    # For norms with running statistics: test NLL under "running", "batch" and "recomputed" statistics.
    evaluations: dict[str, Interval] = field(default_factory=dict)
    ms_per_step: float | None = None
    steps: int = 0
    epochs: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One row of the answer: a task at a batch size."""

    task: str
    batch_size: int
    scores: tuple[Score, ...]  # in the order of the norms asked for
    winners: tuple[str, ...]  # one name: it beats all others; several: not told apart; none: nothing finished
    advice: str  # one plain line


@dataclass(frozen=True)
class TaskInfo:
    name: str
    description: str
    parameters: dict[str, int]  # norm -> parameters of its model
    text: str = ""  # what its records have as ``spec.task``: the name, or the path of the user's file


@dataclass(frozen=True)
class Comparison:
    tasks: tuple[TaskInfo, ...]
    norms: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    cells: tuple[Cell, ...]
    records: tuple[RunRecord, ...]  # every run behind it, tuning runs included
    cut: tuple[str, ...]  # what was left out to fit the budget, one sentence each
    n_resumed: int  # runs that were found finished in the store
    n_computed: int
    wall_s: float
    interrupted: bool
    provenance: dict[str, Any]  # versions, machine, cores, engine, seeds, budget, started_at, protocol


@dataclass(frozen=True)
class Progress:
    """A snapshot for whoever watches."""

    done: int
    total: int
    resumed: int
    running: tuple[str, ...]  # "digits-mlp · batch 16 · layer · lr 0.01 · seed 3"
    best: dict[tuple[str, int], tuple[str, float]]  # (task, batch size) -> (norm, validation NLL) so far
    elapsed_s: float
    remaining_s: float | None
    note: str = ""  # "tuning", "evaluating", "digits-cnn: one worker died, run retried"
