"""``compare``: which normalization wins, for which task, at which batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from normkit.errors import ArgumentError
from normkit.lab.comparison import Cell, Comparison, Progress
from normkit.lab.costs import Costs
from normkit.lab.engines.base import Engine
from normkit.lab.engines.local import LocalEngine
from normkit.lab.engines.ray import RayEngine
from normkit.lab.extras import require
from normkit.lab.norms import nearest, one_of
from normkit.lab.outcome import build_cell
from normkit.lab.planning import Plan, PlannedCell, describe_cuts, fit, reductions
from normkit.lab.provenance import environment, timestamp
from normkit.lab.records import PROTOCOL, RunRecord
from normkit.lab.request import Request, understand
from normkit.lab.schedule import Arm, Schedule
from normkit.lab.session import Session
from normkit.lab.store import Store
from normkit.lab.tuning import MAX_EXTENSIONS, POINTS_PER_EXTENSION, TUNING_SEEDS_FROM

ENGINES = ("local", "ray")

# Predictions are rarely exact, and the last runs leave some workers idle: plan for this part of the time.
USABLE_PART = 0.9

# Kept back from the budget for ending the workers and for the statistics.
RESERVE_S = 0.5


def compare(
    tasks: str | Path | Sequence[str | Path],
    *,
    norms: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    seeds: int = 5,
    budget: str | float | None = "3m",
    engine: str | Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    store: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Comparison:
    """Train the same networks with each normalization, and say which wins where.

    For each task, batch size and norm the learning rate is tuned on validation data and on seeds used for
    nothing else; then runs on the evaluation seeds, the same for every norm, are scored on the test data once.
    The best norm of a cell has the lowest mean test NLL; those that a paired t-test, Holm-adjusted, cannot tell
    from it tie with it; a norm that diverged in any evaluation run can do neither.

    Ctrl-C ends the work and returns what is finished, marked ``interrupted``. Each finished run is in the store
    by then: the same call takes up where this one stopped.

    Args:
        tasks: known tasks by name, with options if any ("digits-lstm:lengths=variable"), or paths of Python files
            that define ``task = normkit.lab.Task(...)``. Not Task objects: worker processes could not load them.
        norms: names; None for those that each task names.
        batch_sizes: None for those that each task names.
        seeds: evaluation runs of each norm in each cell; fewer than 5 only if the number is passed here.
        budget: the longest time to work, "90s", "3m", "1h30m" or seconds; None for no limit. What does not fit is
            cut, in the order that :mod:`normkit.lab.planning` gives, and every cut is a sentence in ``cut``.
        engine: "local" for worker processes, "ray" for a cluster, or an engine object, which is closed at the end.
        workers: runs at once; None for one a core.
        address: of an existing Ray cluster; None starts one on this machine.
        store: file of finished runs, made if there is none; None keeps them in memory only.
        on_progress: called with a snapshot whenever something happens, at least twice a second.

    Raises:
        ArgumentError: an argument has a value that is not known or not possible.
        TaskError: a task file fails when it is loaded; a task that fails later is reported as failed.
        StoreError: the store cannot be used, or its disk is full; what finished before is safe.
        EngineError, MissingExtraError: the engine cannot be started.

    Example:
        >>> result = compare("digits-mlp", norms=["batch", "layer"], budget="20s")  # doctest: +SKIP
        >>> print(result.cells[0].advice)  # doctest: +SKIP
        Use layer: batch is 0.93 nats worse.
    """
    started_at, started = timestamp(), time.monotonic()
    _check_engine(engine, address)
    request = understand(tasks, norms, batch_sizes, seeds, budget)
    ends_at = math.inf
    if request.budget_s is not None:
        ends_at = started + request.budget_s - min(RESERVE_S, 0.05 * request.budget_s)
    with Store(store) as kept, _start_engine(engine, workers, address) as at_work:
        # While the workers start: the statistics at the end need it, and then there may be no time left.
        require("scipy.special", extra="lab", call="compare")
        known = list(kept.records({cell.task_hash for cell in request.plan.cells}))
        costs = Costs(known)
        names = {info.text: info.name for info in request.tasks}
        session = Session(at_work, kept, costs, names, ends_at, on_progress)
        plans = [request.plan]
        plan, schedule = request.plan, _schedule(request.plan, known)
        is_interrupted = False
        try:
            if request.budget_s is not None:
                session.calibrate(_unknown(schedule, costs))
                remaining_s = _predictor(known, costs)
                plans = list(reductions(request.plan, remaining_s))
                plan = fit(plans, remaining_s, USABLE_PART * at_work.workers * session.left_s())
                schedule = _schedule(plan, known)
            session.work(schedule)
        except KeyboardInterrupt:
            is_interrupted = True
        engine_text = f"{at_work.name}, {at_work.workers} workers, one thread each"
    plan, schedule = _to_answer_with(plans, plan, [*known, *schedule.finished()])
    cells = tuple(build_cell(cell.name, plan.arms(cell), schedule) for cell in plan.cells)
    records = tuple(record for cell in schedule.cells for arm in cell for record in schedule.used(arm))
    return Comparison(
        tasks=tuple(info for info in request.tasks if any(cell.task == info.text for cell in plan.cells)),
        norms=tuple(dict.fromkeys(norm for cell in plan.cells for norm in cell.norms)),
        batch_sizes=tuple(dict.fromkeys(cell.batch_size for cell in plan.cells)),
        cells=cells,
        records=records,
        cut=_cuts(request, plan, cells, is_interrupted),
        n_resumed=sum(record.spec not in session.computed for record in records),
        n_computed=len(session.computed),
        wall_s=time.monotonic() - started,
        interrupted=is_interrupted,
        provenance=_provenance(request, plan, engine_text, started_at),
    )


def _check_engine(engine: str | Engine, address: str | None) -> None:
    if isinstance(engine, str) and engine not in ENGINES:
        raise ArgumentError(f"compare: expected engine {one_of(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if address is not None and engine != "ray":
        raise ArgumentError(f"compare: expected no address with engine {engine!r}, got {address!r}; use engine='ray'.")


def _start_engine(engine: str | Engine, workers: int | None, address: str | None) -> Engine:
    if engine == "local":
        return LocalEngine(workers=workers)
    if engine == "ray":
        return RayEngine(workers=workers, address=address)
    assert not isinstance(engine, str)
    return engine


def _schedule(plan: Plan, known: Sequence[RunRecord]) -> Schedule:
    return Schedule([plan.arms(cell) for cell in plan.cells], known)


def _unknown(schedule: Schedule, costs: Costs) -> list[Arm]:
    """The arms that have runs to do, of a length that nobody knows."""
    arms = [arm for cell in schedule.cells for arm in cell]
    return [arm for arm in arms if schedule.stage(arm).missing and not costs.knows(arm)]


def _predictor(known: Sequence[RunRecord], costs: Costs) -> Callable[[Plan, PlannedCell], float]:
    """Plan, cell -> seconds of work until the cell is finished, given what is finished already."""

    def remaining_s(plan: Plan, cell: PlannedCell) -> float:
        arms = plan.arms(cell)
        schedule = Schedule([arms], known)
        return math.fsum(costs.remaining_s(arm, schedule.stage(arm)) for arm in arms)

    return remaining_s


def _to_answer_with(plans: Sequence[Plan], worked_on: Plan, records: Sequence[RunRecord]) -> tuple[Plan, Schedule]:
    """The largest plan that is finished; if none is, the one that was worked on."""
    for plan in plans:
        schedule = _schedule(plan, records)
        if schedule.is_complete:
            return plan, schedule
    return worked_on, _schedule(worked_on, records)


def _cuts(request: Request, plan: Plan, cells: Sequence[Cell], is_interrupted: bool) -> tuple[str, ...]:
    """What is not in the answer, though asked for: a sentence each."""
    cuts = request.notes
    if request.budget_s is not None:
        cuts += describe_cuts(request.plan, plan, request.budget_s)
    unfinished = [
        f"{cell.task} at batch size {cell.batch_size}"
        for cell in cells
        if any(score.status == "not-run" for score in cell.scores)
    ]
    if unfinished:
        when = "the comparison was interrupted" if is_interrupted else f"the budget of {request.budget} ended"
        cuts += (f"Not finished when {when}: {', '.join(unfinished)}. The same command goes on.",)
    return cuts


def _provenance(request: Request, plan: Plan, engine: str, started_at: str) -> dict[str, Any]:
    tuning_seeds = range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + plan.n_tuning_seeds)
    return {
        **environment(),
        "engine": engine,
        "seeds": {"evaluation": list(range(plan.n_seeds)), "tuning": list(tuning_seeds)},
        "budget": request.budget,
        "started_at": started_at,
        "protocol_version": PROTOCOL,
        "protocol": [
            "Every norm is tuned for itself in each task at each batch size: the learning rate with the lowest mean "
            "validation NLL over the tuning seeds, which are used for nothing else.",
            f"Where the best learning rate is at an edge of the grid, the grid grows there by {POINTS_PER_EXTENSION} "
            f"points, at most {MAX_EXTENSIONS} times.",
            "The same seed gives every norm the same split, the same initial weights and the same order of batches.",
            "The test data are used once, to score the evaluation runs. A run that diverged counts as one.",
            "Intervals are 95 % t-intervals over the seeds. Norms are compared by their differences seed by seed: "
            "paired t-tests, adjusted by Holm's method over all pairs of norms in a cell, at 5 %.",
        ],
    }
