"""What to do within a budget: everything asked for, or less of it, cut in a fixed order and said so.

The order of cuts, each only as far as needed:

1. evaluation seeds, down to 5;
2. tuning seeds, down to 1;
3. learning rates of the starting grid, from the lowest, down to 3 (tuning still extends the grid at its edges);
4. batch sizes, from the middle, down to the smallest and the largest;
5. tasks, the one that would take longest first, down to one.

Never the steps of a run and never a rule by which winners are called. A cell that is finished already costs
nothing and is never cut. What still does not fit is left for the same command to take up again: given often
enough, it gets everything done that was asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from normkit.errors import ArgumentError
from normkit.lab.schedule import Arm

MIN_SEEDS = 5
MIN_TUNING_SEEDS = 1
MIN_LEARNING_RATES = 3
MIN_BATCH_SIZES = 2

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class PlannedCell:
    """A task at a batch size, with all that its runs need."""

    task: str  # the text by which workers load it
    task_hash: str
    name: str
    batch_size: int
    steps: int
    norms: tuple[str, ...]
    learning_rates: tuple[float, ...]  # ascending


@dataclass(frozen=True)
class Plan:
    """What is going to be computed."""

    cells: tuple[PlannedCell, ...]  # in working order
    n_seeds: int
    n_tuning_seeds: int
    n_rates_dropped: int = 0

    def arms(self, cell: PlannedCell) -> tuple[Arm, ...]:
        """The arms of a cell under this plan."""
        n_kept = max(len(cell.learning_rates) - self.n_rates_dropped, min(MIN_LEARNING_RATES, len(cell.learning_rates)))
        return tuple(
            Arm(
                task=cell.task,
                task_hash=cell.task_hash,
                batch_size=cell.batch_size,
                norm=norm,
                steps=cell.steps,
                grid=cell.learning_rates[-n_kept:],
                n_tuning_seeds=self.n_tuning_seeds,
                n_seeds=self.n_seeds,
            )
            for norm in cell.norms
        )


def parse_duration(text: str | float) -> float:
    """Seconds of a duration.

    Args:
        text: "90s", "3m", "1h30m", or a number of seconds.

    Raises:
        ArgumentError: it is none, or not positive.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    seconds = 0.0
    if isinstance(text, str):
        match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
        groups = match.groups() if match else ()
        seconds = sum(float(g) * unit for g, unit in zip(groups, _UNITS_S.values(), strict=False) if g)
    elif not isinstance(text, bool):
        seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ArgumentError(f"budget: expected a duration above 0 such as 90s, 3m or 1h30m, got {text!r}; pass one.")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration as :func:`parse_duration` reads it, to the second.

    Example:
        >>> format_duration(5400.0), format_duration(90)
        ('1h30m', '1m30s')
    """
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    return "".join(f"{n}{unit}" for n, unit in parts if n) or "0s"


def reductions(plan: Plan, remaining_s: Callable[[Plan, PlannedCell], float]) -> Iterator[Plan]:
    """The plan itself, then ever smaller ones, each by one cut in the fixed order."""
    yield plan
    while plan.n_seeds > MIN_SEEDS:
        yield (plan := replace(plan, n_seeds=plan.n_seeds - 1))
    while plan.n_tuning_seeds > MIN_TUNING_SEEDS:
        yield (plan := replace(plan, n_tuning_seeds=plan.n_tuning_seeds - 1))
    longest = max(len(cell.learning_rates) for cell in plan.cells)
    while plan.n_rates_dropped < longest - MIN_LEARNING_RATES:
        yield (plan := replace(plan, n_rates_dropped=plan.n_rates_dropped + 1))
    open_cells = [cell for cell in plan.cells if remaining_s(plan, cell)]
    while len(sizes := sorted({cell.batch_size for cell in open_cells})) > MIN_BATCH_SIZES:
        cut = [cell for cell in open_cells if cell.batch_size == sizes[len(sizes) // 2]]
        open_cells = [cell for cell in open_cells if cell not in cut]
        yield (plan := _without(plan, cut))
    while len(tasks := list(dict.fromkeys(cell.task for cell in open_cells))) > 1:
        left_s = dict.fromkeys(reversed(tasks), 0.0)  # of equals the last one goes first
        for cell in open_cells:
            left_s[cell.task] += remaining_s(plan, cell)
        most_work = max(left_s, key=left_s.__getitem__)
        cut = [cell for cell in open_cells if cell.task == most_work]
        open_cells = [cell for cell in open_cells if cell not in cut]
        yield (plan := _without(plan, cut))


def fit(plans: Sequence[Plan], remaining_s: Callable[[Plan, PlannedCell], float], available_s: float) -> Plan:
    """The plan to work on: the largest that will be finished in time, or else the smallest.

    If that one is finished already, a larger one is begun, though it takes more than one such command.

    Args:
        plans: everything asked for, then ever less of it, as :func:`reductions` gives them.
        remaining_s: plan, cell -> predicted seconds of work until the cell is finished.
        available_s: seconds of work that can be done, all workers together.
    """
    last = plans[0]
    for plan in plans:
        work_s = math.fsum(remaining_s(plan, cell) for cell in plan.cells)
        if not work_s:
            return last
        if work_s <= available_s:
            return plan
        last = plan
    return last


def describe_cuts(asked: Plan, kept: Plan, budget_s: float) -> tuple[str, ...]:
    """One sentence for each kind of cut."""
    why = f"to fit the budget of {format_duration(budget_s)}"
    sentences = []
    if kept.n_seeds < asked.n_seeds:
        sentences.append(f"{kept.n_seeds} evaluation seeds instead of {asked.n_seeds}, {why}.")
    if kept.n_tuning_seeds < asked.n_tuning_seeds:
        each = _counted(kept.n_tuning_seeds, "tuning run")
        sentences.append(f"{each} a learning rate instead of {asked.n_tuning_seeds}, {why}.")
    if kept.n_rates_dropped > asked.n_rates_dropped:
        fewer = _counted(kept.n_rates_dropped - asked.n_rates_dropped, "learning rate")
        sentences.append(f"Tuning starts from a grid with {fewer} less at its lower end, {why}.")
    gone = [cell for cell in asked.cells if cell not in kept.cells]
    kept_tasks = {cell.name for cell in kept.cells}
    for name in dict.fromkeys(cell.name for cell in gone):
        sizes = [str(cell.batch_size) for cell in gone if cell.name == name]
        what = f"{name} at batch size {' and '.join(sizes)}" if name in kept_tasks else name
        sentences.append(f"{what} was left out, {why}.")
    return tuple(sentences)


def _without(plan: Plan, cut: Collection[PlannedCell]) -> Plan:
    return replace(plan, cells=tuple(cell for cell in plan.cells if cell not in cut))


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
