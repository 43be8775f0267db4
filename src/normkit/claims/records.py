"""A job as the store keeps it, and what it left behind: plain data, and its form as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from normkit.claims.experiment import Job, Measurement
from normkit.claims.experiment import Status as SeedStatus
from normkit.lab.canonical import hash_of
from normkit.lab.form import Form, check_status

# Raised when the meaning of a job changes in a way that no file of code shows.
PROTOCOL = 1

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class JobSpec:
    """A job, and the code that it goes through. Two with the same spec give the same numbers."""

    job: Job
    task_hash: str  # of that code; see ``normkit.claims.code``
    protocol: int = PROTOCOL

    @property
    def task(self) -> str:
        """The experiment."""
        return self.job.experiment

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all fields."""
        return hash_of(asdict(self))


@dataclass(frozen=True)
class JobRecord:
    """The outcome of a job. That some of its seeds diverged is one; an error of the machine is "failed"."""

    spec: JobSpec
    status: Status
    measurements: tuple[Measurement, ...] = ()
    message: str = ""
    wall_s: float = 0.0
    rules_hash: str = ""  # of the experiment's rules when this was measured
    evidence_hash: str = ""  # of what these rules decided then
    provenance: Mapping[str, Any] = field(default_factory=dict)


def decode_spec(text: str) -> JobSpec:
    """The inverse of :meth:`Form.encode_spec`."""
    return _spec(json.loads(text))


def encode_record(record: JobRecord) -> str:
    """One line of JSON. Floats come back bit for bit."""
    fields = {name: getattr(record, name) for name in ("status", "message", "wall_s", "rules_hash", "evidence_hash")}
    measurements = [
        {**vars(m), "metrics": dict(m.metrics), "series": {name: list(line) for name, line in m.series.items()}}
        for m in record.measurements
    ]
    return json.dumps(
        {"spec": asdict(record.spec), **fields, "measurements": measurements, "provenance": dict(record.provenance)}
    )


def decode_record(text: str) -> JobRecord:
    """The inverse of :func:`encode_record`.

    Raises:
        ValueError, TypeError, KeyError: the text is not such a record.
    """
    fields: dict[str, Any] = json.loads(text)
    try:
        spec = _spec(fields.pop("spec"))
        measurements = tuple(_measurement(found) for found in fields.pop("measurements"))
        check_status(fields["status"], Status)
        return JobRecord(spec=spec, measurements=measurements, **fields)
    except AttributeError as error:  # a number or a list where a table should be
        raise ValueError(str(error)) from error


def checked(measurements: tuple[Measurement, ...], job: Job) -> tuple[Measurement, ...]:
    """What an experiment gave, made safe to judge: a metric that is not finite is a run that diverged.

    Raises:
        ValueError: it is not one measurement for each seed of the job.
    """
    seeds = [m.seed for m in measurements]
    if sorted(seeds) != sorted(job.seeds):
        raise ValueError(f"{job.experiment}: expected a measurement of each seed {job.seeds}, got {seeds}")
    return tuple(map(_settled, measurements))


def succeeded(record: JobRecord) -> JobRecord | None:
    """The same record of those seeds alone that did not fail; None where there are none."""
    kept = tuple(m for m in record.measurements if m.status != "failed")
    if record.status == "failed" or not kept:
        return None
    if len(kept) == len(record.measurements):
        return record
    job = replace(record.spec.job, seeds=tuple(m.seed for m in kept))
    return replace(record, spec=replace(record.spec, job=job), measurements=kept)


def _settled(measurement: Measurement) -> Measurement:
    metrics = {name: float(value) for name, value in measurement.metrics.items()}
    odd = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    series = {
        name: tuple(float(v) for v in line)
        for name, line in measurement.series.items()
        if all(math.isfinite(v) for v in line)
    }
    status, message = measurement.status, measurement.message
    if odd and status == "done":
        status, message = "diverged", f"not finite: {', '.join(odd)}"
    return Measurement(
        measurement.experiment,
        measurement.conditions,
        measurement.seed,
        status,
        metrics if status == "done" else {},
        series,
        message,
    )


def _spec(fields: dict[str, Any]) -> JobSpec:
    job = fields.pop("job")
    conditions = tuple((str(name), value) for name, value in job.pop("conditions"))
    seeds = tuple(int(seed) for seed in job.pop("seeds"))
    return JobSpec(job=Job(conditions=conditions, seeds=seeds, **job), **fields)


def _measurement(fields: dict[str, Any]) -> Measurement:
    conditions = tuple((str(name), value) for name, value in fields.pop("conditions"))
    series = {name: tuple(line) for name, line in fields.pop("series").items()}
    metrics = {name: float(value) for name, value in fields.pop("metrics").items()}
    check_status(fields["status"], SeedStatus)
    return Measurement(conditions=conditions, series=series, metrics=metrics, **fields)


JOBS: Form[JobSpec, JobRecord] = Form(
    where="normkit.claims.records:JOBS",
    table="jobs",
    protocol=PROTOCOL,
    decode_spec=decode_spec,
    encode_record=encode_record,
    decode_record=decode_record,
    record=JobRecord,
)
