"""``compare``: which normalization wins, for which task, at which batch size."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from normkit.errors import ArgumentError
from normkit.lab.comparison import Cell, Comparison, Progress
from normkit.lab.costs import Costs
from normkit.lab.engines.base import Engine, NoEngine
from normkit.lab.engines.local import LocalEngine
from normkit.lab.engines.ray import RayEngine
from normkit.lab.extras import require
from normkit.lab.norms import nearest, one_of
from normkit.lab.outcome import build_cell
from normkit.lab.planning import Plan, PlannedCell, describe_cuts, fit, reductions
from normkit.lab.provenance import environment, timestamp
from normkit.lab.records import PROTOCOL, RunRecord, RunSpec
from normkit.lab.request import Request, understand
from normkit.lab.schedule import Arm, Schedule
from normkit.lab.session import Session
from normkit.lab.store import Store
from normkit.lab.tuning import MAX_EXTENSIONS, POINTS_PER_EXTENSION, TUNING_SEEDS_FROM

ENGINES = ("local", "ray")

# Measuring how long steps take may use up this part of the budget; what is not measured is guessed from the rest.
CALIBRATION_PART = 0.2

# Predictions are rarely exact, and the last runs leave some workers idle: plan for this part of the time.
USABLE_PART = 0.85

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
    with Store(store) as kept:
        known = list(kept.records({cell.task_hash for cell in request.plan.cells}))
        is_done = _schedule(request.plan, known).is_complete
        with _start_engine(engine, workers, address, is_needed=not is_done) as at_work:
            # While the workers start: the statistics at the end need it, and then there may be no time left.
            require("scipy.special", extra="lab", call="compare")
            costs = Costs(known)
            names = {info.text: info.name for info in request.tasks}
            session = Session(at_work, kept, costs, names, _end(request, started), on_progress)
            work = _work(request, session, costs, known, at_work.workers)
            where = f"{at_work.workers} workers, one thread each" if at_work.workers else "every run was in the store"
    plan, schedule = _to_answer_with(work)
    cells = tuple(build_cell(cell.name, plan.arms(cell), schedule) for cell in plan.cells)
    records = tuple(record for cell in schedule.cells for arm in cell for record in schedule.used(arm))
    return Comparison(
        tasks=tuple(info for info in request.tasks if any(cell.task == info.text for cell in plan.cells)),
        norms=tuple(dict.fromkeys(norm for cell in plan.cells for norm in cell.norms)),
        batch_sizes=tuple(dict.fromkeys(cell.batch_size for cell in plan.cells)),
        cells=cells,
        records=records,
        cut=_cuts(request, plan, cells, work.is_interrupted),
        n_resumed=sum(record.spec not in session.computed for record in records),
        n_computed=len(session.computed),
        wall_s=time.monotonic() - started,
        interrupted=work.is_interrupted,
        provenance=_provenance(request, plan, f"{at_work.name}, {where}", started_at),
    )


def _check_engine(engine: str | Engine, address: str | None) -> None:
    if isinstance(engine, str) and engine not in ENGINES:
        raise ArgumentError(f"compare: expected engine {one_of(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if address is not None and engine != "ray":
        raise ArgumentError(f"compare: expected no address with engine {engine!r}, got {address!r}; use engine='ray'.")


def _start_engine(engine: str | Engine, workers: int | None, address: str | None, *, is_needed: bool) -> Engine:
    if not isinstance(engine, str):
        return engine
    if not is_needed:
        return NoEngine(engine)
    if engine == "ray":
        return RayEngine(workers=workers, address=address)
    return LocalEngine(workers=workers)


def _end(request: Request, started: float) -> float:
    """When to stop, on the clock of ``time.monotonic``."""
    if request.budget_s is None:
        return math.inf
    return started + request.budget_s - min(RESERVE_S, 0.05 * request.budget_s)


@dataclass
class _Work:
    """What is being worked on, and what it has brought so far."""

    plans: Sequence[Plan]  # everything asked for, and what it may be cut to
    plan: Plan
    records: dict[RunSpec, RunRecord]
    is_interrupted: bool = False


def _work(request: Request, session: Session, costs: Costs, known: Sequence[RunRecord], workers: int) -> _Work:
    """Compute as much as fits into the budget."""
    work = _Work([request.plan], request.plan, {record.spec: record for record in known})
    everything = _schedule(request.plan, known)
    try:
        if request.budget_s is None or everything.is_complete:
            _work_on(request.plan, work, session)
        else:
            session.calibrate(_unknown(everything, costs), CALIBRATION_PART * request.budget_s)
            _work_while_it_fits(request.plan, work, session, costs, workers)
    except KeyboardInterrupt:
        work.is_interrupted = True
    return work


def _work_while_it_fits(asked: Plan, work: _Work, session: Session, costs: Costs, workers: int) -> None:
    """Plan by the predictions; if they were too long and time is left at the end, plan again."""
    is_first = True
    while True:
        remaining_s = _predictor(list(work.records.values()), costs)
        available_s = USABLE_PART * workers * session.left_s()
        work.plans = list(reductions(asked, remaining_s))
        plan = fit(work.plans, remaining_s, available_s)
        if not is_first and not 0 < math.fsum(remaining_s(plan, cell) for cell in plan.cells) <= available_s:
            return
        if not _work_on(plan, work, session):
            return
        is_first = False


def _work_on(plan: Plan, work: _Work, session: Session) -> bool:
    """Compute what a plan lacks; whether it got complete."""
    schedule = _schedule(plan, list(work.records.values()))
    work.plan = plan
    try:
        session.work(schedule)
    finally:
        work.records.update((record.spec, record) for record in schedule.finished())
    return schedule.is_complete


def _schedule(plan: Plan, known: Sequence[RunRecord]) -> Schedule:
    return Schedule([plan.arms(cell) for cell in plan.cells], known)


def _unknown(schedule: Schedule, costs: Costs) -> list[Arm]:
    """The arms that have runs to do, of a length that nobody knows: first one of each cell, then the next."""
    in_turn = [arm for arms in zip_longest(*schedule.cells) for arm in arms if arm is not None]
    return [arm for arm in in_turn if schedule.stage(arm).missing and not costs.knows(arm)]


def _predictor(known: Sequence[RunRecord], costs: Costs) -> Callable[[Plan, PlannedCell], float]:
    """Plan, cell -> seconds of work until the cell is finished, given what is finished already."""
    by_cell: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
    for record in known:
        by_cell[record.spec.task_hash, record.spec.batch_size].append(record)

    def remaining_s(plan: Plan, cell: PlannedCell) -> float:
        arms = plan.arms(cell)
        schedule = Schedule([arms], by_cell[cell.task_hash, cell.batch_size])
        return math.fsum(costs.remaining_s(arm, schedule.stage(arm)) for arm in arms)

    return remaining_s


def _to_answer_with(work: _Work) -> tuple[Plan, Schedule]:
    """The plan with the most finished cells; of equals the one that was worked on, else one that lacks least."""
    records = list(work.records.values())
    schedules = {plan: _schedule(plan, records) for plan in (work.plan, *work.plans)}

    def standing(plan: Plan) -> tuple[int, bool, int]:
        n_finished = schedules[plan].n_complete
        return n_finished, plan == work.plan, n_finished - len(plan.cells)

    best = max(schedules, key=standing)
    return best, schedules[best]


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
