"""One job, measured: what a worker process does."""

from __future__ import annotations

import time

from normkit.claims.code import code_hash
from normkit.claims.experiments import experiment
from normkit.claims.records import JobRecord, JobSpec, checked
from normkit.claims.register import evidence_hash
from normkit.claims.rulebook import rules_hash
from normkit.lab.provenance import environment, timestamp

MEASURE = "normkit.claims.work:measure"


def measure(spec: JobSpec) -> JobRecord:
    """Measure a job. Of code that has changed since it was planned, nothing is measured."""
    job = spec.job
    if code_hash(job.experiment) != spec.task_hash:
        return JobRecord(spec, "failed", message=f"{job.experiment} was edited since the job was planned; start again")
    started_at, started = timestamp(), time.perf_counter()
    measurements = checked(tuple(experiment(job.experiment).measure(job)), job)
    return JobRecord(
        spec,
        "done",
        measurements,
        wall_s=time.perf_counter() - started,
        rules_hash=rules_hash(job.experiment),
        evidence_hash=evidence_hash(job.experiment),
        provenance={**environment(), "started_at": started_at},
    )
