"""``compare``: which normalization wins, for which task, at which batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from normkit.lab.account import RESERVE_S, Work, cuts, provenance, too_short
from normkit.lab.comparison import Comparison, Progress
from normkit.lab.costs import Costs
from normkit.lab.encoding import RUNS
from normkit.lab.engines.base import TRAINING, Engine
from normkit.lab.engines.choice import check_engine, start_engine
from normkit.lab.extras import require
from normkit.lab.outcome import build_cell
from normkit.lab.planner import Planner
from normkit.lab.provenance import timestamp
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.request import Request, understand
from normkit.lab.schedule import Arm, Schedule
from normkit.lab.session import Session
from normkit.lab.store import Store

# Measuring how long steps take may use up this part of the budget; what is not measured is guessed from the rest.
CALIBRATION_PART = 0.2


def compare(
    tasks: str | Path | Sequence[str | Path],
    *,
    norms: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    seeds: int = 5,
    budget: str | float | None = "3m",
    engine: str | Engine[RunSpec, RunRecord] = "local",
    workers: int | None = None,
    address: str | None = None,
    store: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    spent_s: float = 0.0,
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
            cut, in the order that :mod:`normkit.lab.planning` gives, and every cut is a sentence in ``cut``. With 0
            nothing is computed: the answer is what the store holds.
        engine: "local" for worker processes, "ray" for a cluster, or an engine object, which is closed at the end.
        workers: runs at once; None for one a core.
        address: of an existing Ray cluster; None starts one on this machine.
        store: file of finished runs, made if there is none; None keeps them in memory only.
        on_progress: called with a snapshot whenever something happens, at least twice a second.
        spent_s: seconds of the budget that are gone already, or kept for what the caller does with the answer.

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
    check_engine(engine, address, call="compare")
    request = understand(tasks, norms, batch_sizes, seeds, budget)
    with Store(store, RUNS) as kept:
        known = list(kept.records({cell.task_hash for cell in request.plan.cells}))
        costs = Costs(known)
        planner = Planner(request.plan, costs, known, is_limited=request.budget_s is not None)
        is_needed = request.budget_s != 0 and not planner.schedule.is_complete
        with start_engine(
            engine, TRAINING, RUNS, workers=workers, address=address, is_needed=is_needed, call="compare"
        ) as at_work:
            # While the workers start: the statistics at the end need it, and then there may be no time left.
            require("scipy.special", extra="lab", call="compare")
            names = {info.text: info.name for info in request.tasks}
            session = Session(at_work, kept, costs, names, _end(request, started - spent_s), on_progress)
            work = Work(is_needed, at_work.name, at_work.workers, len(known), spent_s + time.monotonic() - started)
            _work(request, session, costs, planner, work)
    plan, schedule = planner.answer()
    cells = tuple(build_cell(cell.name, plan.arms(cell), schedule) for cell in plan.cells)
    records = tuple(record for cell in schedule.cells for arm in cell for record in schedule.used(arm))
    return Comparison(
        tasks=tuple(
            replace(info, parameters=_parameters(records, info.text))
            for info in request.tasks
            if any(cell.task == info.text for cell in plan.cells)
        ),
        norms=tuple(dict.fromkeys(norm for cell in plan.cells for norm in cell.norms)),
        batch_sizes=tuple(dict.fromkeys(cell.batch_size for cell in plan.cells)),
        cells=cells,
        records=records,
        cut=request.notes + cuts(request, plan, cells, work) + too_short(request, planner, cells, work),
        n_resumed=sum(record.spec not in session.computed for record in records),
        n_computed=len(session.computed),
        wall_s=time.monotonic() - started,
        interrupted=work.is_interrupted,
        provenance=provenance(request, plan, work, started_at),
    )


def _parameters(records: Sequence[RunRecord], task: str) -> dict[str, int]:
    """The parameters of each norm's model, as its runs counted them."""
    mine = [record for record in records if record.spec.task == task and "parameters" in record.provenance]
    return {record.spec.norm: int(record.provenance["parameters"]) for record in mine}


def _end(request: Request, started: float) -> float:
    """When to stop, on the clock of ``time.monotonic``."""
    if request.budget_s is None:
        return math.inf
    return started + request.budget_s - min(RESERVE_S, 0.05 * request.budget_s)


def _work(request: Request, session: Session, costs: Costs, planner: Planner, work: Work) -> None:
    """Compute as much as fits into the budget."""
    try:
        session.announce(planner.schedule)
        if request.budget_s is not None:
            session.calibrate(_unknown(planner.schedule, costs), CALIBRATION_PART * request.budget_s)
        session.work(planner)
    except KeyboardInterrupt:
        work.is_interrupted = True


def _unknown(schedule: Schedule, costs: Costs) -> list[Arm]:
    """The arms that have runs to do, of a length that nobody knows: first one of each cell, then the next."""
    in_turn = [arm for arms in zip_longest(*schedule.cells) for arm in arms if arm is not None]
    return [arm for arm in in_turn if schedule.stage(arm).missing and not costs.knows(arm)]
