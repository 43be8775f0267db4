"""What is known of each job: measurements by arm and seed, whichever jobs they were made in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from normkit.claims.experiment import Condition, Job, Measurement
from normkit.claims.records import JobRecord
from normkit.claims.register import evidence_hash
from normkit.claims.rulebook import rules_hash

_Arm = tuple[str, tuple[tuple[str, Condition], ...], int]


class Archive:
    """Records, asked by job. A job of fewer seeds is answered by one of more: the arm is the same.

    Args:
        records: those of this code.
    """

    def __init__(self, records: Iterable[JobRecord] = ()) -> None:
        # Of several records of a seed the one with most seeds stays.
        self._records: dict[_Arm, dict[int, JobRecord]] = defaultdict(dict)
        for record in sorted(records, key=lambda record: -len(record.spec.job.seeds)):
            self.add(record)

    def add(self, record: JobRecord) -> None:
        """Take in a finished job."""
        seeds = self._records[_arm(record.spec.job)]
        for seed in record.spec.job.seeds:
            seeds.setdefault(seed, record)

    def covers(self, job: Job) -> bool:
        """Whether every seed of a job is known."""
        return self._records[_arm(job)].keys() >= set(job.seeds)

    def measurements(self, jobs: Iterable[Job]) -> tuple[Measurement, ...]:
        """Everything known of the seeds of these jobs, each once."""
        return tuple(
            m
            for job in jobs
            for seed, record in sorted(self._records[_arm(job)].items())
            if seed in job.seeds
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
        found = (record for job in jobs for seed, record in self._records[_arm(job)].items() if seed in job.seeds)
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


def _arm(job: Job) -> _Arm:
    return job.experiment, job.conditions, job.steps
