"""Works through a plan: keeps the workers busy, saves each run as it ends, stops in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from normkit.lab.comparison import Progress
from normkit.lab.costs import CALIBRATION_STEPS, Costs
from normkit.lab.engines.base import Died, Engine
from normkit.lab.planner import Planner
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.schedule import Arm, Schedule
from normkit.lab.store import Store
from normkit.lab.tuning import TUNING_SEEDS_FROM

# At least so often whoever watches gets a snapshot.
SNAPSHOT_EVERY_S = 0.5


class Session:
    """One command's work on one engine and one store.

    Args:
        engine: where runs are computed.
        store: where they are kept.
        costs: predicts how long runs take; learns from each.
        names: text of a task -> its name, for whoever watches.
        ends_at: when to stop, on the clock of ``time.monotonic``; infinity for never.
        on_progress: is given a snapshot whenever something happens.
    """

    def __init__(
        self,
        engine: Engine[RunSpec, RunRecord],
        store: Store[RunSpec, RunRecord],
        costs: Costs,
        names: Mapping[str, str],
        ends_at: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.computed: set[RunSpec] = set()
        self._engine = engine
        self._store = store
        self._costs = costs
        self._names = names
        self._ends_at = ends_at
        self._on_progress = on_progress
        self._started_at = time.monotonic()

    def left_s(self) -> float:
        """Seconds until the work has to stop."""
        return self._ends_at - time.monotonic()

    def announce(self, schedule: Schedule) -> None:
        """Tell whoever watches how much of everything asked for is there already."""
        if self._on_progress is not None:
            arms = [arm for cell in schedule.cells for arm in cell]
            n = sum(len(schedule.finished(arm)) for arm in arms)
            total = n + sum(_n_expected(schedule, arm) for arm in arms)
            self._on_progress(Progress(n, total, n, (), {}, self._elapsed_s(), None))

    def calibrate(self, arms: Sequence[Arm], at_most_s: float) -> None:
        """Learn what runs of these arms cost, from runs of a few steps each, which are not kept."""
        waiting = [_calibration(arm) for arm in arms]
        running: set[RunSpec] = set()
        ends_at = math.inf
        while (waiting or running) and self.left_s() > 0:
            if time.monotonic() > ends_at:
                waiting.clear()
            while waiting and self._engine.free:
                running.add(waiting[0])
                self._engine.submit(waiting.pop(0))
            for event in self._engine.wait(min(SNAPSHOT_EVERY_S, self.left_s())):
                if not isinstance(event, Died):
                    running.discard(event.spec)
                    self._costs.learn_from_short(event)
                    # From the first result on: before it the workers start, which tells nothing about runs.
                    ends_at = min(ends_at, time.monotonic() + at_most_s)
            if self._on_progress is not None:
                done = len(arms) - len(waiting) - len(running)
                note = "measuring how long a step takes"
                self._on_progress(Progress(done, len(arms), 0, (), {}, self._elapsed_s(), None, note))

    def work(self, planner: Planner) -> None:
        """Compute what is missing, until nothing is or the time is up."""
        while self.left_s() > 0:
            schedule = planner.revise(self.left_s() * self._engine.workers)
            self._start_runs(schedule)
            if not schedule.running:
                break
            self.report(schedule)
            for event in self._engine.wait(min(SNAPSHOT_EVERY_S, self.left_s())):
                if isinstance(event, Died):
                    self.report(schedule, f"{self._label(event.spec)}: a worker died, the run is tried again")
                else:
                    self._save(event, schedule)
        self.report(planner.schedule)

    def _start_runs(self, schedule: Schedule) -> None:
        while self._engine.free and (spec := self._next(schedule)) is not None:
            found = self._store.get(spec)  # another command may have finished it since
            if found is not None:
                schedule.finish(found)
            else:
                schedule.start(spec)
                self._engine.submit(spec)

    def _next(self, schedule: Schedule) -> RunSpec | None:
        """The first missing run of the first cell that is begun already or will be finished in time.

        Half a cell answers nothing. But if no cell will be finished, and nothing else is done either, the first
        one is begun: then the same command, given again and again, finishes it some time.
        """
        work_s = 0.0  # in this cell and those before, which go first
        for cell in schedule.cells:
            cell_s = math.fsum(self._costs.remaining_s(arm, schedule.stage(arm)) for arm in cell)
            if schedule.is_open(cell) or work_s + cell_s <= self.left_s() * self._engine.workers:
                work_s += cell_s
                if (spec := self._first(schedule.missing(cell))) is not None:
                    return spec
        if self.computed or schedule.running:
            return None
        return self._first([spec for cell in schedule.cells for spec in schedule.missing(cell)])

    def _first(self, specs: Sequence[RunSpec]) -> RunSpec | None:
        """The first of some runs that will end before the time is up."""
        left_s = self.left_s()
        return next((spec for spec in specs if self._costs.run_s(spec, spec.role) <= left_s), None)

    def _save(self, record: RunRecord, schedule: Schedule) -> None:
        self._store.add(record)
        self.computed.add(record.spec)
        self._costs.learn(record)
        schedule.finish(record)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_at

    def report(self, schedule: Schedule, note: str = "") -> None:
        """Tell whoever watches."""
        if self._on_progress is None:
            return
        arms = [arm for cell in schedule.cells for arm in cell]
        used = {arm: schedule.used(arm) for arm in arms}
        done = sum(map(len, used.values()))
        resumed = done - len(self.computed & {r.spec for records in used.values() for r in records})
        roles = {spec.role for spec in schedule.running}
        doing = "tuning" if "tune" in roles else "evaluating" if roles else ""
        progress = Progress(
            done=done,
            total=done + sum(_n_expected(schedule, arm) for arm in arms),
            resumed=resumed,
            running=tuple(sorted(map(self._label, schedule.running))),
            best={
                (self._names[cell[0].task], cell[0].batch_size): best
                for cell in schedule.cells
                if (best := _best(cell, used)) is not None
            },
            elapsed_s=self._elapsed_s(),
            remaining_s=self._remaining_s(schedule, arms),
            note=note or doing,
        )
        self._on_progress(progress)

    def _remaining_s(self, schedule: Schedule, arms: Sequence[Arm]) -> float:
        work_s = math.fsum(self._costs.remaining_s(arm, schedule.stage(arm)) for arm in arms)
        return max(0.0, min(work_s / max(self._engine.workers, 1), self.left_s()))

    def _label(self, spec: RunSpec) -> str:
        parts = (self._names[spec.task], f"batch {spec.batch_size}", spec.norm, f"lr {spec.learning_rate:g}")
        return " · ".join((*parts, f"seed {spec.seed}"))


def _calibration(arm: Arm) -> RunSpec:
    """A short run of an arm, by the middle one of its learning rates."""
    spec = arm.spec("tune", arm.grid[len(arm.grid) // 2], TUNING_SEEDS_FROM)
    return replace(spec, steps=min(CALIBRATION_STEPS, arm.steps))


def _n_expected(schedule: Schedule, arm: Arm) -> int:
    """Runs that an arm still needs, as far as is known."""
    now = schedule.stage(arm)
    still_tuning = bool(now.missing) and now.learning_rate is None
    return len(now.missing) + (arm.n_seeds if still_tuning else 0)


def _best(cell: Sequence[Arm], used: Mapping[Arm, Sequence[RunRecord]]) -> tuple[str, float] | None:
    """The norm with the lowest validation NLL of any run so far, and that NLL."""
    losses = [
        (record.metrics["val_nll"], arm.norm)
        for arm in cell
        for record in used[arm]
        if math.isfinite(record.metrics.get("val_nll", math.nan))
    ]
    if not losses:
        return None
    loss, norm = min(losses)
    return norm, loss
