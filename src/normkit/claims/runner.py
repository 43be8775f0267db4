"""Works through the jobs of a tier: keeps the workers busy, saves each job as it ends, stops in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from normkit.claims.archive import Archive
from normkit.claims.code import code_hash
from normkit.claims.costs import Costs
from normkit.claims.experiment import Job
from normkit.claims.planning import Plan, fit
from normkit.claims.records import JobRecord, JobSpec, succeeded
from normkit.lab.comparison import Progress
from normkit.lab.engines.base import Died, Engine
from normkit.lab.store import Store

# At least so often whoever watches gets a snapshot.
SNAPSHOT_EVERY_S = 0.5

# Of the time that is left, so much is planned with: the last jobs of two workers do not end together.
USABLE_PART = 0.92


class Runner:
    """One command's work on one engine and one store.

    Args:
        wanted: the jobs of each experiment, the experiments in the order in which they are run.
        engine: where jobs are measured.
        store: where they are kept.
        archive: what is known; what is measured goes in.
        costs: predicts how long jobs take; learns from each.
        ends_at: when to stop, on the clock of ``time.monotonic``; infinity for never.
        on_progress: is given a snapshot whenever something happens.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[Job]],
        engine: Engine[JobSpec, JobRecord],
        store: Store[JobSpec, JobRecord],
        archive: Archive,
        costs: Costs,
        ends_at: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.computed: list[JobRecord] = []
        self.failed: dict[Job, str] = {}
        self._wanted = wanted
        self._engine = engine
        self._store = store
        self._archive = archive
        self._costs = costs
        self._ends_at = ends_at
        self._on_progress = on_progress
        self._running: dict[JobSpec, float] = {}  # and when each was started
        self._started_at = time.monotonic()
        self._n_found = sum(archive.covers(job) for jobs in wanted.values() for job in jobs)
        self.plan = self._fit(None)

    def work(self) -> None:
        """Measure what is missing, until nothing is or the time is up."""
        self._report()
        while self._left_s() > 0:
            self.plan = self._fit(self.plan.most_seeds)
            self._start_jobs()
            if not self._running:
                break
            self._report()
            for event in self._engine.wait(min(SNAPSHOT_EVERY_S, self._left_s())):
                if isinstance(event, Died):
                    self._report(f"{_label(event.spec.job)}: a worker died, the job is tried again")
                else:
                    self._save(event)
        self._report()

    def _fit(self, most_seeds: int | None) -> Plan:
        """The plan for the time that is left, as far as is known now."""
        begun = {id_ for id_, jobs in self._wanted.items() if any(map(self._archive.covers, jobs))}
        begun |= {spec.job.experiment for spec in self._running}
        seconds = self._left_s() * max(self._engine.workers, 1) * USABLE_PART
        return fit(self._wanted, self._cost_s, seconds, most_seeds=most_seeds, begun=begun)

    def _cost_s(self, job: Job) -> float:
        """Of what is under way, what is left of it."""
        if self._archive.covers(job) or job in self.failed:
            return 0.0
        started = next((at for spec, at in self._running.items() if spec.job == job), None)
        spent = 0.0 if started is None else time.monotonic() - started
        return max(self._costs.job_s(job) - spent, 0.0)

    def _start_jobs(self) -> None:
        while self._engine.free and (job := self._next()) is not None:
            spec = JobSpec(job, code_hash(job.experiment))
            if (found := self._store.get(spec)) is not None:  # another command may have finished it since
                self._archive.add(found)
                continue
            self._running[spec] = time.monotonic()
            self._engine.submit(spec)

    def _next(self) -> Job | None:
        """The first missing job that will end before the time is up."""
        under_way = {spec.job for spec in self._running}
        left_s = self._left_s()
        missing = (job for jobs in self.plan.jobs.values() for job in jobs)
        return next(
            (
                job
                for job in missing
                if not self._archive.covers(job)
                and job not in self.failed
                and job not in under_way
                and self._costs.job_s(job) <= left_s
            ),
            None,
        )

    def _save(self, record: JobRecord) -> None:
        """Keep what succeeded: seeds that failed, on a busy machine say, are for the next command to try again."""
        job = record.spec.job
        self._running.pop(record.spec, None)
        messages = [f"seed {m.seed}: {m.message}" for m in record.measurements if m.status == "failed"]
        if messages or record.status == "failed":
            self.failed[job] = "; ".join(messages) or record.message
        kept = succeeded(record)
        if kept is None:
            return
        self._costs.learn(record)
        self._store.add(kept)
        self.computed.append(kept)
        self._archive.add(kept)

    def _left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def _report(self, note: str = "") -> None:
        if self._on_progress is None:
            return
        jobs = [job for some in self.plan.jobs.values() for job in some]
        left = [job for job in jobs if not self._archive.covers(job) and job not in self.failed]
        work_s = math.fsum(self._cost_s(job) for job in left)
        self._on_progress(
            Progress(
                done=len(jobs) - len(left),
                total=len(jobs),
                resumed=min(self._n_found, len(jobs) - len(left)),
                running=tuple(sorted(_label(spec.job) for spec in self._running)),
                best={},
                elapsed_s=time.monotonic() - self._started_at,
                remaining_s=max(0.0, min(work_s / max(self._engine.workers, 1), self._left_s())),
                note=note,
            )
        )


def _label(job: Job) -> str:
    seeds = f"seed {job.seeds[0]}" if len(job.seeds) == 1 else f"{len(job.seeds)} seeds"
    return " · ".join((job.experiment, *(f"{name} {value}" for name, value in job.conditions), seeds))
