"""The account of a comparison beside its scores: what is not in the answer, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normkit.lab.comparison import Cell
from normkit.lab.planner import USABLE_PART, Planner
from normkit.lab.planning import Plan, describe_cuts, format_duration
from normkit.lab.provenance import environment
from normkit.lab.records import PROTOCOL
from normkit.lab.request import Request
from normkit.lab.tuning import MAX_EXTENSIONS, POINTS_PER_EXTENSION, TUNING_SEEDS_FROM

# Kept back from the budget for ending the workers and for the statistics.
RESERVE_S = 0.5


@dataclass
class Work:
    """How the work went, apart from its runs."""

    is_needed: bool  # else there was nothing to compute, or nothing was to be
    engine: str
    workers: int
    n_known: int  # runs that were in the store
    before_s: float  # from the start of the budget to the first run
    is_interrupted: bool = False


def cuts(request: Request, plan: Plan, cells: Sequence[Cell], work: Work) -> tuple[str, ...]:
    """What is not in the answer, though asked for: a sentence each."""
    sentences: tuple[str, ...] = ()
    if request.budget_s is not None:
        why = f"to fit the budget of {request.budget}" if request.budget_s else "since nothing was to be computed"
        sentences += describe_cuts(request.plan, plan, why)
    unfinished = [f"{cell.task} at batch size {cell.batch_size}" for cell in cells if not _is_finished(cell)]
    if unfinished and request.budget_s == 0:
        sentences += ("The store holds no finished row of what was asked for.",)
    elif unfinished:
        when = "the comparison was interrupted" if work.is_interrupted else f"the budget of {request.budget} ended"
        which = "any row" if len(unfinished) == len(cells) > 3 else ", ".join(unfinished)
        sentences += (f"Not finished when {when}: {which}.",)
    return sentences


def _is_finished(cell: Cell) -> bool:
    return all(score.status != "not-run" for score in cell.scores)


def too_short(request: Request, planner: Planner, cells: Sequence[Cell], work: Work) -> tuple[str, ...]:
    """What would have been enough, where the time was not enough for a run, or for a row."""
    n_new = len(planner.schedule.known) - work.n_known
    if request.budget_s is None or not work.is_needed or work.is_interrupted:
        return ()
    if n_new and any(map(_is_finished, cells)):
        return ()
    row_s = planner.shortest_row_s() / work.workers / USABLE_PART
    enough_s = max(work.before_s + row_s + RESERVE_S, 2 * request.budget_s)
    enough = format_duration(math.ceil(enough_s / 10) * 10)
    if n_new:
        return (
            f"No row could be finished within the budget of {request.budget}. Its {n_new} runs are kept and the "
            f"same command goes on with them; at once it takes about {enough}.",
        )
    return (
        f"No run could be finished within the budget of {request.budget}: starting and measuring took it up. The same "
        f"command would do no better; take about {enough}.",
    )


def provenance(request: Request, plan: Plan, work: Work, started_at: str) -> dict[str, Any]:
    """Versions and machine, engine, seeds, budget, and the protocol in sentences."""
    where = f"{work.workers} workers, one thread each" if work.is_needed else "no run was computed"
    tuning_seeds = range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + plan.n_tuning_seeds)
    return {
        **environment(),
        "engine": f"{work.engine}, {where}",
        "seeds": {"evaluation": list(range(plan.n_seeds)), "tuning": list(tuning_seeds)},
        "budget": request.budget,
        "started_at": started_at,
        "protocol_version": PROTOCOL,
        "protocol": [
            "Every norm is tuned for itself in each task at each batch size: the learning rate with the lowest mean "
            "validation NLL over the tuning seeds, which are used for nothing else.",
            f"Where the best learning rate is at an edge of the grid, the grid grows there by {POINTS_PER_EXTENSION} "
            f"points, at most {MAX_EXTENSIONS} times.",
            "Every seed draws a new split into training, validation and test data, new initial weights and a new order "
            "of batches: all three are the same for every norm.",
            "The test data of a seed are used once, to score its evaluation run. A run that diverged counts as one.",
            "Intervals are 95 % t-intervals over the seeds, which share their samples: they tell how a score varies "
            "with split and start on these data, not on others. Norms are compared by their differences seed by seed: "
            "paired t-tests, adjusted by Holm's method over all pairs of norms in a cell, at 5 %.",
        ],
    }
