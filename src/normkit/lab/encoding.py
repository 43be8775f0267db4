"""Runs as JSON text: the one form in which they cross to worker processes and lie in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from normkit.lab.form import Form, check_status
from normkit.lab.records import PROTOCOL, RunRecord, RunSpec, Status


def decode_spec(text: str) -> RunSpec:
    """The inverse of :meth:`Form.encode_spec`."""
    return RunSpec(**json.loads(text))


def encode_record(record: RunRecord) -> str:
    """One line of JSON. Floats come back bit for bit, non-finite ones included (as Python writes them)."""
    return json.dumps(asdict(record))


def decode_record(text: str) -> RunRecord:
    """The inverse of :func:`encode_record`.

    Raises:
        ValueError, TypeError, KeyError: the text is not such a record.
    """
    fields: dict[str, Any] = json.loads(text)
    spec = RunSpec(**fields.pop("spec"))
    curve = tuple((int(step), float(loss)) for step, loss in fields.pop("curve"))
    check_status(fields["status"], Status)
    return RunRecord(spec=spec, curve=curve, **fields)


RUNS: Form[RunSpec, RunRecord] = Form(
    where="normkit.lab.encoding:RUNS",
    table="runs",
    protocol=PROTOCOL,
    decode_spec=decode_spec,
    encode_record=encode_record,
    decode_record=decode_record,
    record=RunRecord,
)
