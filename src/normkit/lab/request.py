"""From the arguments of ``compare`` to a plan: everything is checked before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normkit.errors import ArgumentError, TaskError
from normkit.lab.comparison import TaskInfo
from normkit.lab.extras import check_installed
from normkit.lab.loading import blame, is_file, load_task, task_hash
from normkit.lab.norms import norm_factory
from normkit.lab.planning import MIN_SEEDS, Plan, PlannedCell, format_duration, parse_duration
from normkit.lab.task import Task
from normkit.lab.tuning import TUNING_SEEDS_FROM

TUNING_SEEDS = 2
LARGEST_BATCH_SIZE = 1_000_000  # more than there are samples: a slip of the hand
FEWEST_SEEDS = 2  # below, there is no interval at all


@dataclass(frozen=True)
class Request:
    """What was asked for, understood."""

    plan: Plan
    tasks: tuple[TaskInfo, ...]
    budget_s: float | None
    notes: tuple[str, ...]  # what the user should know before believing the answer

    @property
    def budget(self) -> str:
        """The budget in words."""
        return "none" if self.budget_s is None else format_duration(self.budget_s)


def understand(
    tasks: str | Path | Sequence[str | Path],
    norms: Sequence[str] | None,
    batch_sizes: Sequence[int] | None,
    seeds: int,
    budget: str | float | None,
) -> Request:
    """Check the arguments of ``compare`` and load the tasks.

    Raises:
        ArgumentError: an argument is none that can be compared; the message lists those that can.
        TaskError: a task file fails; the message says where.
    """
    n_seeds = _checked_seeds(seeds)
    chosen_norms = None if norms is None else _checked_norms(norms)
    sizes = None if batch_sizes is None else _checked_batch_sizes(batch_sizes)
    budget_s = None if budget is None else parse_duration(budget)
    loaded = _load(tasks)
    cells = tuple(
        PlannedCell(
            task=text,
            task_hash=task_hash(text),
            name=task.name,
            batch_size=size,
            steps=_steps(task, text, size),
            norms=chosen_norms or tuple(dict.fromkeys(task.norms)),
            learning_rates=tuple(sorted(set(task.learning_rates))),
        )
        for text, task in loaded.items()
        for size in sizes or tuple(dict.fromkeys(task.batch_sizes))
    )
    infos = tuple(TaskInfo(task.name, task.description, {}, text) for text, task in loaded.items())
    notes: tuple[str, ...] = ()
    if n_seeds < MIN_SEEDS:
        notes = (f"{n_seeds} evaluation seeds, as asked for: fewer than {MIN_SEEDS} show large differences only.",)
    return Request(Plan(cells, n_seeds, TUNING_SEEDS), infos, budget_s, notes)


def _load(tasks: str | Path | Sequence[str | Path]) -> dict[str, Task]:
    """Text -> task, for texts in their plainest form, each once."""
    texts = [tasks] if isinstance(tasks, (str, Path, Task)) else list(tasks)
    if not texts:
        raise ArgumentError("compare: expected at least one task, got none; pass 'digits-mlp', say.")
    loaded: dict[str, Task] = {}
    for given in texts:
        if isinstance(given, Task):
            raise ArgumentError(
                f"compare: expected tasks by name or as paths of files, got the object {given.name!r}, which worker "
                "processes cannot load; save it as `task = ...` in my_task.py and pass 'my_task.py'."
            )
        if not isinstance(given, (str, Path)):
            raise ArgumentError(f"compare: expected tasks by name or as paths of files, got {given!r}.")
        if not is_file(str(given)):
            check_installed("sklearn", extra="lab", call="compare")  # the known tasks read its digits
        task = load_task(str(given))
        # Known tasks spell their options one way in their name; a path loses its "./".
        loaded[str(Path(given)) if is_file(str(given)) else task.name] = task
    twice = [name for name, n in Counter(task.name for task in loaded.values()).items() if n > 1]
    if twice:
        raise ArgumentError(f"compare: expected tasks with different names, got several called {twice[0]!r}; rename.")
    return loaded


def _checked_norms(norms: Sequence[str]) -> tuple[str, ...]:
    chosen = (norms,) if isinstance(norms, str) else tuple(dict.fromkeys(norms))
    if not chosen:
        raise ArgumentError("compare: expected at least one norm, got none; leave norms out for those of each task.")
    for norm in chosen:
        norm_factory(norm)
    return chosen


def _checked_batch_sizes(batch_sizes: Sequence[int]) -> tuple[int, ...]:
    chosen = (batch_sizes,) if isinstance(batch_sizes, int) else tuple(dict.fromkeys(batch_sizes))
    for size in chosen:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_BATCH_SIZE:
            raise ArgumentError(
                f"compare: expected batch sizes from 1 to {LARGEST_BATCH_SIZE}, got {size!r}; pass [2, 16, 128], say."
            )
    if not chosen:
        raise ArgumentError("compare: expected at least one batch size, got none; leave it out for those of each task.")
    return chosen


def _checked_seeds(seeds: int) -> int:
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < FEWEST_SEEDS:
        raise ArgumentError(
            f"compare: expected seeds to be {FEWEST_SEEDS} or more, got {seeds!r}; {MIN_SEEDS} or more give useful "
            "intervals."
        )
    if seeds > TUNING_SEEDS_FROM:
        raise ArgumentError(
            f"compare: expected seeds to be {TUNING_SEEDS_FROM} at most, got {seeds}; those from "
            f"{TUNING_SEEDS_FROM} on are for tuning, and 30 already tell small differences."
        )
    return seeds


def _steps(task: Task, text: str, batch_size: int) -> int:
    try:
        steps = task.steps(batch_size)
    except Exception as error:
        raise TaskError(blame(error, text)) from error
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TaskError(
            f"{task.name}: expected steps({batch_size}) to be a positive integer, got {steps!r}; "
            "return how many steps to train."
        )
    return steps
