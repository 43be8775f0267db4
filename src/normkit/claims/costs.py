"""How long jobs take: what the experiment says, times how far it was off so far on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from normkit.claims.experiment import Job
from normkit.claims.experiments import experiment
from normkit.claims.records import JobRecord
from normkit.lab.provenance import environment, same_machine

_LEAST_S = 1e-3


class Costs:
    """Predicts seconds of work.

    Args:
        known: finished jobs; those of other machines tell nothing.
    """

    def __init__(self, known: Iterable[JobRecord] = ()) -> None:
        self._off: dict[str, list[float]] = defaultdict(list)
        here = environment()
        for record in known:
            if same_machine(record.provenance, here):
                self.learn(record)

    def learn(self, record: JobRecord) -> None:
        """Take in how long a job took."""
        job = record.spec.job
        self._off[job.experiment].append(record.wall_s / max(experiment(job.experiment).seconds(job), _LEAST_S))

    def job_s(self, job: Job) -> float:
        """Seconds that a job takes on one core."""
        factors = self._off.get(job.experiment) or [f for factors in self._off.values() for f in factors] or [1.0]
        return max(experiment(job.experiment).seconds(job) * median(factors), _LEAST_S)
