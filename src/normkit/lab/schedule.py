"""Which run comes next: for one norm in one cell, and over all cells.

An arm is a norm in a cell (a task at a batch size). What an arm needs next follows from its finished runs alone,
so that it makes no difference whether they were computed just now, by an earlier command or by another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from normkit.lab.comparison import CellStatus
from normkit.lab.records import Role, RunRecord, RunSpec
from normkit.lab.tuning import TUNING_SEEDS_FROM, tune


@dataclass(frozen=True)
class Arm:
    """A norm in a cell: all that its runs have in common, and how many of them there are to be."""

    task: str
    task_hash: str
    batch_size: int
    norm: str
    steps: int
    grid: tuple[float, ...]
    n_tuning_seeds: int
    n_seeds: int

    def spec(self, role: Role, learning_rate: float, seed: int) -> RunSpec:
        """One of its runs."""
        return RunSpec(
            task=self.task,
            task_hash=self.task_hash,
            norm=self.norm,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            seed=seed,
            role=role,
            steps=self.steps,
        )

    def tuning_runs(self, learning_rate: float) -> list[RunSpec]:
        """The runs by which a learning rate is judged."""
        seeds = range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + self.n_tuning_seeds)
        return [self.spec("tune", learning_rate, seed) for seed in seeds]

    def evaluation_runs(self, learning_rate: float) -> list[RunSpec]:
        """The runs that count."""
        return [self.spec("evaluate", learning_rate, seed) for seed in range(self.n_seeds)]


Records = Mapping[RunSpec, RunRecord]


@dataclass(frozen=True)
class Stage:
    """Where an arm stands."""

    # Runs that are needed and not finished, as far as is known: tuning may ask for more.
    missing: tuple[RunSpec, ...] = ()
    # "not-run" while runs are missing; then how the arm ended.
    status: CellStatus = "not-run"
    message: str = ""
    learning_rate: float | None = None  # None until it is chosen
    tuning_complete: bool = True
    tried: tuple[float, ...] = ()


def stage(arm: Arm, records: Records) -> Stage:
    """What the finished runs of an arm say: what it needs next, or how it ended."""
    stopped = _stopped(records)
    if stopped is not None:
        return stopped
    tuning = tune(arm.grid, _losses(arm, records), arm.n_tuning_seeds)
    if tuning.missing:
        runs = [spec for rate in tuning.missing for spec in arm.tuning_runs(rate)]
        return Stage(tuple(spec for spec in runs if spec not in records))
    if tuning.chosen is None:
        low, high = tuning.tried[0], tuning.tried[-1]
        message = f"diverged at every learning rate tried, from {low:g} to {high:g}"
        return Stage(status="diverged", message=message, tuning_complete=False, tried=tuning.tried)
    runs = arm.evaluation_runs(tuning.chosen)
    missing = tuple(spec for spec in runs if spec not in records)
    diverged = [records[spec] for spec in runs if spec in records and not is_finite(records[spec])]
    return Stage(
        missing=missing,
        status="not-run" if missing else "diverged" if diverged else "done",
        message=f"{len(diverged)} of {len(runs)} evaluation runs diverged" if diverged and not missing else "",
        learning_rate=tuning.chosen,
        tuning_complete=tuning.complete,
        tried=tuning.tried,
    )


def is_finite(record: RunRecord) -> bool:
    """Whether a run ended with a loss: one that did not has diverged, whatever it says itself."""
    name = "val_nll" if record.spec.role == "tune" else "test_nll"
    return record.status == "done" and math.isfinite(record.metrics.get(name, math.nan))


def _stopped(records: Records) -> Stage | None:
    """Impossible, or failed: one run is enough to know, since the next would say the same."""
    for record in records.values():
        if record.status in ("impossible", "failed"):
            return Stage(status=record.status, message=record.message)
    return None


def _is_used(spec: RunSpec, arm: Arm, now: Stage) -> bool:
    if now.status in ("impossible", "failed"):
        return True
    if spec.role == "evaluate":
        return spec.learning_rate == now.learning_rate and spec.seed in range(arm.n_seeds)
    in_grid = spec.learning_rate in now.tried if now.tried else True
    return in_grid and spec.seed - TUNING_SEEDS_FROM in range(arm.n_tuning_seeds)


def _losses(arm: Arm, records: Records) -> dict[float, list[float]]:
    """Learning rate -> validation losses of its finished runs, infinite for those that diverged."""
    losses: dict[float, list[float]] = {}
    for spec, record in records.items():
        if spec.role == "tune" and spec.seed - TUNING_SEEDS_FROM in range(arm.n_tuning_seeds):
            loss = record.metrics["val_nll"] if is_finite(record) else math.inf
            losses.setdefault(spec.learning_rate, []).append(loss)
    return losses


class Schedule:
    """Hands out the missing runs of all cells, cell after cell.

    A run of a later cell is handed out only when every missing run of the earlier ones is under way: so whole
    cells get finished, and no worker waits while one cell's tuning has to end before its evaluation can start.

    Args:
        cells: the arms of each cell, in the order in which cells are to be finished.
        known: runs that are finished already; those of no arm are kept and do not matter.
        running: runs that are under way already.
    """

    def __init__(
        self, cells: Sequence[Sequence[Arm]], known: Iterable[RunRecord] = (), running: Iterable[RunSpec] = ()
    ) -> None:
        self.cells = tuple(tuple(cell) for cell in cells)
        self.running = set(running)
        self.known = {record.spec: record for record in known}
        self._arms = {_identity(arm): arm for cell in self.cells for arm in cell}
        self._records: dict[Arm, dict[RunSpec, RunRecord]] = {arm: {} for arm in self._arms.values()}
        for record in self.known.values():
            if (arm := self._arm(record.spec)) is not None:
                self._records[arm][record.spec] = record
        self._stages = {arm: stage(arm, records) for arm, records in self._records.items()}

    def stage(self, arm: Arm) -> Stage:
        """Where an arm stands."""
        return self._stages[arm]

    def finished(self, arm: Arm) -> list[RunRecord]:
        """The finished runs of an arm."""
        return list(self._records[arm].values())

    def used(self, arm: Arm) -> list[RunRecord]:
        """Those of them on which its answer rests: of others, too, there may be records."""
        now = self._stages[arm]
        return [record for spec, record in self._records[arm].items() if _is_used(spec, arm, now)]

    def is_finished(self, cell: Sequence[Arm]) -> bool:
        """Whether every arm of a cell has ended."""
        return all(self._stages[arm].status != "not-run" for arm in cell)

    @property
    def is_complete(self) -> bool:
        """Whether every arm has ended."""
        return all(map(self.is_finished, self.cells))

    def is_open(self, cell: Sequence[Arm]) -> bool:
        """Whether any run of a cell has finished or is under way."""
        return any(self._records[arm] for arm in cell) or any(self._arm(spec) in cell for spec in self.running)

    def missing(self, cell: Sequence[Arm]) -> list[RunSpec]:
        """The runs of a cell that are needed, as far as is known, neither finished nor under way."""
        return [spec for arm in cell for spec in self._stages[arm].missing if spec not in self.running]

    def start(self, spec: RunSpec) -> None:
        """Note that a run is under way."""
        self.running.add(spec)

    def finish(self, record: RunRecord) -> None:
        """Note that a run has finished."""
        self.running.discard(record.spec)
        self.known[record.spec] = record
        if (arm := self._arm(record.spec)) is not None:
            self._records[arm][record.spec] = record
            self._stages[arm] = stage(arm, self._records[arm])

    def _arm(self, spec: RunSpec) -> Arm | None:
        return self._arms.get(_identity(spec))


def _identity(item: Arm | RunSpec) -> tuple[object, ...]:
    """What an arm and its runs have in common."""
    return item.task, item.task_hash, item.batch_size, item.norm, item.steps
