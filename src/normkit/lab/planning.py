"""What to do within a budget: everything asked for, or less of it, cut in a fixed order and said so.

The order of cuts, each only as far as needed:

1. evaluation seeds, down to 5;
2. tuning seeds, down to 1;
3. learning rates of the starting grid, from the lowest, down to 3 (tuning still extends the grid at its edges);
4. rows, a task at a batch size each: those of batch sizes in the middle first, then the smallest, then the largest,
   and of equal ones those that take longest; so every task keeps a row as long as possible.

Never the steps of a run, never a norm within a row and never a rule by which winners are called. A row that is
finished already costs nothing and is never cut. What still does not fit is left for the same command to take up
again: given often enough, it gets everything done that was asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from normkit.errors import ArgumentError
from normkit.lab.schedule import Arm

MIN_SEEDS = 5
MIN_TUNING_SEEDS = 1
MIN_LEARNING_RATES = 3

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class PlannedCell:
    """A row: a task at a batch size, with all that its runs need."""

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
        text: "90s", "3m", "1h30m", or a number of seconds; 0 for none at all.

    Raises:
        ArgumentError: it is none, or negative.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    seconds = math.nan
    if isinstance(text, str):
        plain = text.strip().lower().replace(" ", "")
        match = _DURATION.fullmatch(plain)
        if plain == "0":
            seconds = 0.0
        elif plain and match:
            seconds = sum(float(g) * unit for g, unit in zip(match.groups(), _UNITS_S.values(), strict=True) if g)
    elif not isinstance(text, bool):
        seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ArgumentError(f"budget: expected a duration such as 90s, 3m or 1h30m, or 0, got {text!r}; pass one.")
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


def levels(plan: Plan) -> Iterator[Plan]:
    """The plan itself, then ever less work for each of its rows, by one cut in the fixed order each."""
    yield plan
    while plan.n_seeds > MIN_SEEDS:
        yield (plan := replace(plan, n_seeds=plan.n_seeds - 1))
    while plan.n_tuning_seeds > MIN_TUNING_SEEDS:
        yield (plan := replace(plan, n_tuning_seeds=plan.n_tuning_seeds - 1))
    longest = max(len(cell.learning_rates) for cell in plan.cells)
    while plan.n_rates_dropped < longest - MIN_LEARNING_RATES:
        yield (plan := replace(plan, n_rates_dropped=plan.n_rates_dropped + 1))


RemainingS = Callable[[Plan, PlannedCell], float]  # predicted seconds of work until a row of a plan is finished


def work_s(plan: Plan, remaining_s: RemainingS) -> float:
    """Seconds of work until all rows of a plan are finished."""
    return math.fsum(remaining_s(plan, cell) for cell in plan.cells)


def fit(asked: Plan, remaining_s: RemainingS, available_s: float) -> Plan | None:
    """The largest plan that will be finished in time, its rows in working order; None if nothing more will be.

    Args:
        asked: everything that was asked for.
        remaining_s: predicts work.
        available_s: seconds of work that can be done, all workers together.
    """
    plan = asked
    for plan in levels(asked):
        needed_s = work_s(plan, remaining_s)
        if not needed_s:
            return None  # what is larger does not fit
        if needed_s <= available_s:
            return replace(plan, cells=in_working_order(plan, remaining_s))
    fitting = []
    is_more = False
    for cell in in_working_order(plan, remaining_s):
        needed_s = remaining_s(plan, cell)
        if needed_s <= available_s:
            available_s -= needed_s
            is_more |= needed_s > 0
            fitting.append(cell)
    return replace(plan, cells=tuple(fitting)) if is_more else None


def to_begin(asked: Plan, remaining_s: RemainingS) -> Plan:
    """What to begin where nothing fits, for more such commands to go on with: the next row of the smallest plan."""
    smallest = asked
    for plan in levels(asked):
        if not work_s(plan, remaining_s):
            break
        smallest = plan
    cells = in_working_order(smallest, remaining_s)
    finished = tuple(cell for cell in cells if not remaining_s(smallest, cell))
    return replace(smallest, cells=(*finished, *[cell for cell in cells if cell not in finished][:1]))


def in_working_order(plan: Plan, remaining_s: RemainingS) -> tuple[PlannedCell, ...]:
    """The rows of a plan, those first that tell most: the extreme batch sizes of all tasks, then the middle.

    The largest before the smallest, because there all norms train as they usually do.
    """
    places: dict[tuple[str, int], int] = {}
    for task in dict.fromkeys(cell.task for cell in plan.cells):
        sizes = sorted(cell.batch_size for cell in plan.cells if cell.task == task)
        for place in range(len(sizes)):
            places[task, sizes.pop(-1 if place % 2 == 0 else 0)] = place
    return tuple(sorted(plan.cells, key=lambda cell: (places[cell.task, cell.batch_size], remaining_s(plan, cell))))


def describe_cuts(asked: Plan, kept: Plan, why: str) -> tuple[str, ...]:
    """One sentence for each kind of cut."""
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


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
