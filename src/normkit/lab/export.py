"""Runs as a table in a file: one row a run, flat columns, for any other tool."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from normkit.errors import ArgumentError, StoreError
from normkit.lab.extras import require
from normkit.lab.norms import nearest, one_of
from normkit.lab.records import RunRecord, RunSpec

Row = dict[str, Any]

SPEC_COLUMNS = ("key", *(field.name for field in fields(RunSpec)))
OUTCOME_COLUMNS = ("status", "message", "steps_done", "epochs", "ms_per_step", "wall_s")
# What has a structure of its own is one column of JSON text.
JSON_COLUMNS = ("curve", "provenance")


def export_records(records: Iterable[RunRecord], path: str | Path) -> None:
    """Write runs to a .csv, .jsonl or .parquet file; an older file is replaced once the new one is complete.

    Columns: ``key`` and the fields of the spec; the outcome; one column a metric, empty for runs that lack it;
    ``curve`` and ``provenance`` as JSON text. Numbers come back bit for bit, except that what is not finite is
    written as missing, for JSON has no such numbers.

    Raises:
        ArgumentError: the path ends in something else, or its folder is not there.
        MissingExtraError: .parquet without pyarrow.
        StoreError: the file cannot be written.
    """
    target = Path(path)
    check_export(target)
    columns, rows = table(records)
    draft = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        _WRITERS[target.suffix.lower()](rows, columns, draft)
        os.replace(draft, target)
    except OSError as error:
        raise StoreError(f"export: expected to write {target}, got {error.strerror or error}; name another.") from error
    finally:
        draft.unlink(missing_ok=True)


def check_export(path: str | Path) -> None:
    """Raise now what :func:`export_records` would raise after the work: of a path it cannot write to."""
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _WRITERS:
        got = repr(suffix) if suffix else "no ending"
        raise ArgumentError(
            f"export: expected a path that ends in {one_of(_WRITERS)}, got {got}{nearest(suffix, _WRITERS)}"
        )
    if not target.parent.is_dir():
        raise ArgumentError(f"export: expected an existing folder, got {str(target.parent)!r}; make it first.")
    if target.is_dir():
        raise ArgumentError(f"export: expected a file, got the folder {str(target)!r}; name a file inside it.")
    if suffix == ".parquet":
        require("pyarrow.parquet", extra="parquet", call="export")


def table(records: Iterable[RunRecord]) -> tuple[tuple[str, ...], list[Row]]:
    """The columns and the rows that :func:`export_records` writes; a row lacks the metrics that its run lacks."""
    rows = [_row(record) for record in records]
    return _columns(rows), rows


def _row(record: RunRecord) -> Row:
    outcome = {name: _plain(getattr(record, name)) for name in OUTCOME_COLUMNS}
    structured = {name: json.dumps(_plain(getattr(record, name)), allow_nan=False) for name in JSON_COLUMNS}
    metrics = {name: _plain(value) for name, value in sorted(record.metrics.items())}
    return {"key": record.spec.key, **asdict(record.spec), **outcome, **metrics, **structured}


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The fixed columns, with all metrics of any run between them."""
    fixed = (*SPEC_COLUMNS, *OUTCOME_COLUMNS)
    metrics = sorted({name for row in rows for name in row} - {*fixed, *JSON_COLUMNS})
    return (*fixed, *metrics, *JSON_COLUMNS)


def _plain(value: Any) -> Any:
    """Without numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _write_csv(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {name: row.get(name) for name in columns}
            file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")


def _write_parquet(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    parquet = require("pyarrow.parquet", extra="parquet", call="export")
    pyarrow = require("pyarrow", extra="parquet", call="export")
    # Types are given, not guessed: a column of nothing but missing values would else have none.
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(_type(name))) for name in columns])
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path)


def _type(column: str) -> str:
    if column in ("batch_size", "seed", "steps", "protocol", "steps_done"):
        return "int64"
    return "string" if column in _TEXT_COLUMNS else "float64"


_TEXT_COLUMNS = ("key", "task", "task_hash", "norm", "role", "status", "message", *JSON_COLUMNS)
_WRITERS: dict[str, Callable[[Sequence[Row], Sequence[str], Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
