"""Exported runs come back as they were."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lab import fakes
from normkit.errors import ArgumentError, MissingExtraError, StoreError
from normkit.lab.export import check_export, export_records
from normkit.lab.records import RunRecord

RECORDS = [
    fakes.run(fakes.spec(learning_rate=0.1 + 0.2)),
    fakes.run(fakes.spec(norm="batch")),
    fakes.run(fakes.spec(role="tune", seed=1000)),
    replace(fakes.run(fakes.spec(seed=3)), message='a "quoted", \n broken ☃ =1+1 message'),
    RunRecord(fakes.spec(seed=4), "diverged", message="nan", curve=((1, 2.0), (2, math.inf)), wall_s=5e-324),
]


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}
readers = pytest.mark.parametrize(("suffix", "read"), READERS.items(), ids=READERS)


@readers
def test_every_run_is_a_row_and_comes_back(
    tmp_path: Path, suffix: str, read: Callable[[Path], list[dict[str, Any]]]
) -> None:
    path = tmp_path / f"runs{suffix}"
    export_records(RECORDS, path)
    rows = read(path)
    assert len(rows) == len(RECORDS)
    for row, record in zip(rows, RECORDS, strict=True):
        expected = {"key": record.spec.key, **asdict(record.spec), "status": record.status, "message": record.message}
        expected |= {name: getattr(record, name) for name in ("steps_done", "epochs", "ms_per_step", "wall_s")}
        expected |= record.metrics
        for name, value in expected.items():
            # csv has text only; float() of it is the number, bit for bit
            assert (type(value)(row[name]) if suffix == ".csv" else row[name]) == value, name
        missing = {"test_nll", "test_nll_batch", "val_nll"} - set(record.metrics)
        assert all(row[name] in (None, "") for name in missing)
        curve = [[step, loss if math.isfinite(loss) else None] for step, loss in record.curve]
        assert json.loads(row["curve"]) == curve
        assert json.loads(row["provenance"]) == record.provenance
    assert list(rows[0]) == list(rows[-1])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@readers
def test_no_runs_are_a_table_without_rows(
    tmp_path: Path, suffix: str, read: Callable[[Path], list[dict[str, Any]]]
) -> None:
    path = tmp_path / f"runs{suffix}"
    export_records([], path)
    assert read(path) == []


def test_columns_are_in_a_plain_order(tmp_path: Path) -> None:
    export_records(RECORDS[:1], tmp_path / "runs.csv")
    header = (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "key,task,task_hash,norm,batch_size,learning_rate,seed,role,steps,protocol,"
        "status,message,steps_done,epochs,ms_per_step,wall_s,"
        "test_accuracy,test_nll,val_accuracy,val_nll,curve,provenance"
    )


def test_numbers_in_parquet_are_numbers(tmp_path: Path) -> None:
    export_records(RECORDS[-1:], tmp_path / "runs.parquet")  # no metrics at all
    export_records(RECORDS, tmp_path / "all.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "all.parquet")
    assert [str(schema.field(name).type) for name in ("seed", "learning_rate", "test_nll_batch", "curve")] == [
        "int64",
        "double",
        "double",
        "string",
    ]


def test_an_older_file_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.csv"
    export_records(RECORDS, path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full_disk)
    with pytest.raises(StoreError, match=r"expected to write .*runs.csv, got No space left on device"):
        export_records(RECORDS[:1], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs.cvs", r"expected a path that ends in .csv, .jsonl or .parquet, got '.cvs'; did you mean .csv\?"),
        ("runs", "got no ending"),
        ("runs.xlsx", "got '.xlsx'"),
        ("nowhere/runs.csv", r"expected an existing folder, got '.*nowhere'; make it first"),
    ],
)
@pytest.mark.parametrize("call", [check_export, lambda path: export_records(RECORDS, path)], ids=["check", "export"])
def test_a_path_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, words: str, call: Callable[[Path], None]
) -> None:
    with pytest.raises(ArgumentError, match=words):
        call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").mkdir()
    with pytest.raises(ArgumentError, match="expected a file, got the folder"):
        check_export(tmp_path / "runs.csv")


def test_suffixes_in_capitals_are_the_same(tmp_path: Path) -> None:
    export_records(RECORDS, tmp_path / "RUNS.CSV")
    assert len(read_csv(tmp_path / "RUNS.CSV")) == len(RECORDS)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r'expected the package pyarrow, .*"normkit\[parquet\]"'):
        check_export(tmp_path / "runs.parquet")
    check_export(tmp_path / "runs.csv")
