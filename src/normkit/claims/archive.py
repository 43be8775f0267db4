"""What is known of each job: measurements by arm and seed, whichever jobs they were made in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from normkit.claims.experiment import Condition, Job, Measurement
from normkit.claims.records import JobRecord
from normkit.claims.register import evidence_hash
from normkit.claims.rulebook import rules_hash
from normkit.claims.trials import FEWEST_SEEDS

_Arm = tuple[str, tuple[tuple[str, Condition], ...], int]


class Archive:
    """Records, asked by job. A job of fewer seeds is answered by one of more: the arm is the same.

    Not the other way round where the fewer are as few as the quick tier's, since its learning rates are coarser.

    Args:
        records: those of this code.
    """

    def __init__(self, records: Iterable[JobRecord] = ()) -> None:
        self._records: dict[_Arm, dict[int, JobRecord]] = defaultdict(dict)
        for record in records:
            self.add(record)

    def add(self, record: JobRecord) -> None:
        """Take in a finished job. Of several records of a seed the one with most seeds stays."""
        seeds = self._records[_arm(record.spec.job)]
        for seed in record.spec.job.seeds:
            if seed not in seeds or len(seeds[seed].spec.job.seeds) < len(record.spec.job.seeds):
                seeds[seed] = record

    def covers(self, job: Job) -> bool:
        """Whether every seed of a job is known."""
        return self._known(job).keys() >= set(job.seeds)

    def _known(self, job: Job) -> dict[int, JobRecord]:
        return {
            seed: record
            for seed, record in sorted(self._records[_arm(job)].items())
            if seed in job.seeds and (_has_many_seeds(record.spec.job) or not _has_many_seeds(job))
        }

    def measurements(self, jobs: Iterable[Job]) -> tuple[Measurement, ...]:
        """Everything known of the seeds of these jobs, each once."""
        return tuple(
            m
            for job in jobs
            for seed, record in self._known(job).items()
            for m in record.measurements
            if m.seed == seed
        )

    def everything(self) -> tuple[Measurement, ...]:
        """Each seed of each arm once."""
        return tuple(
            m
            for seeds in self._records.values()
            for seed, record in sorted(seeds.items())
            for m in record.measurements
            if m.seed == seed
        )

    def records(self, jobs: Iterable[Job]) -> list[JobRecord]:
        """The records behind :meth:`measurements`, each once."""
        found = (record for job in jobs for record in self._known(job).values())
        return list({record.spec.key: record for record in found}.values())


def changed_rules(records: Sequence[JobRecord]) -> tuple[str, ...]:
    """A sentence for each experiment whose rules, or what they decide, were others when it was measured."""
    now = {task: (rules_hash(task), evidence_hash(task)) for task in {r.spec.task for r in records}}
    rules = {r.spec.task for r in records if r.rules_hash != now[r.spec.task][0]}
    decides = {r.spec.task for r in records if r.evidence_hash != now[r.spec.task][1]}
    return tuple(
        f"{'The rules of' if id_ in rules else 'Which claims are decided by'} {id_} "
        f"{'were' if id_ in rules else 'was'} changed after these measurements were taken: "
        "what it decides was not fixed before."
        for id_ in sorted(rules | decides)
    )


def _has_many_seeds(job: Job) -> bool:
    return len(job.seeds) > FEWEST_SEEDS


def _arm(job: Job) -> _Arm:
    return job.experiment, job.conditions, job.steps
