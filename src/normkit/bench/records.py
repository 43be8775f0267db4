"""Records of the benchmark as JSON lines: the machine first, then one line a result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from normkit._info import info
from normkit.bench.cases import Cell, Sequences, Workload
from normkit.bench.results import CellResult, ModelResult, OverheadResult, Record, RecurrentResult
from normkit.bench.timing import Timing
from normkit.errors import BenchError

FORMAT = 1
# What changes how memory is allocated and written, how threads run or which kernels do, and so every number.
TELLING_VARIABLES = (
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MKL_NUM_THREADS",
    "NORMKIT_ISA",
    "NORMKIT_KEEP_FREED",
    "NORMKIT_STREAM_BYTES",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "THP_MEM_ALLOC_ENABLE",
)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FREE_PIECES = Path("/proc/buddyinfo")


def provenance(environment: Mapping[str, Any], started_at: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers hold. Nothing that names a person, a host or a path.

    Args:
        environment: versions, platform, processor and cores.
        started_at: ISO 8601.
        options: how the run was asked for.
    """
    return {
        **environment,
        "started_at": started_at,
        "options": dict(options),
        "threads": torch.get_num_threads(),
        "vector_extensions": torch.backends.cpu.get_cpu_capability(),
        "huge_pages": _huge_pages(),
        "free_huge_pages": _free_huge_pages(),
        "variables": {name: os.environ[name] for name in TELLING_VARIABLES if name in os.environ},
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "normkit": [line for line in info().splitlines() if line.startswith(("path", "outputs"))],
    }


def encode(record: Record) -> str:
    """The record as JSON lines."""
    lines: list[dict[str, Any]] = [{"kind": "run", "format": FORMAT, **record.provenance}]
    lines += [{"kind": "cell", **asdict(result)} for result in record.cells]
    lines += [{"kind": "overhead", **asdict(result)} for result in record.overheads]
    lines += [{"kind": "model", **asdict(result)} for result in record.models]
    lines += [{"kind": "recurrent", **asdict(result)} for result in record.recurrent]
    return "".join(json.dumps(line, allow_nan=True, ensure_ascii=False) + "\n" for line in lines)


def decode(text: str) -> Record:
    """The inverse of :func:`encode`.

    Raises:
        ValueError, TypeError, KeyError: the text is not such a record.
    """
    first, *rest = [json.loads(line) for line in text.splitlines() if line.strip()]
    if first.pop("kind") != "run" or first.pop("format") != FORMAT:
        raise ValueError(f"the first line is not a run of format {FORMAT}")
    found: dict[str, list[dict[str, Any]]] = {"cell": [], "overhead": [], "model": [], "recurrent": []}
    for line in rest:
        found[line.pop("kind")].append(line)
    return Record(
        first,
        tuple(_cell_result(line) for line in found["cell"]),
        tuple(OverheadResult(**line | {"times": _timings(line["times"])}) for line in found["overhead"]),
        tuple(ModelResult(**line | {"times": _timings(line["times"])}) for line in found["model"]),
        tuple(_recurrent_result(line) for line in found["recurrent"]),
    )


def write(record: Record, folder: Path) -> Path:
    """Write the record into a new file of the folder, named by its time and grid; records are never changed.

    Raises:
        BenchError: the file cannot be written.
    """
    stamp = str(record.provenance["started_at"])[:19].replace(":", "").replace("T", "-")
    path = folder / f"{stamp}-{record.provenance['options'].get('grid', 'cells')}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(encode(record))
    except OSError as error:
        raise BenchError(
            f"bench: expected to write the record {str(path)!r}, got {error}; free it or choose another folder."
        ) from None
    return path


def read(path: Path) -> Record:
    """A stored record.

    Raises:
        BenchError: the file cannot be read, or is not a record.
    """
    try:
        return decode(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BenchError(
            f"bench: expected a record written by `normkit bench --save`, got {str(path)!r}: "
            f"{type(error).__name__}: {error}; name another file."
        ) from None


def _cell_result(line: dict[str, Any]) -> CellResult:
    cell = line.pop("cell")
    workload = cell["workload"]
    workload["shape"] = tuple(workload["shape"])
    return CellResult(cell=Cell(Workload(**workload), cell["mode"]), **line | {"times": _timings(line["times"])})


def _recurrent_result(line: dict[str, Any]) -> RecurrentResult:
    case = line.pop("case")
    sequences = Sequences(case["op"], tuple(case["shape"]))
    return RecurrentResult(case=sequences, **line | {"times": _timings(line["times"])})


def _timings(times: dict[str, dict[str, Any]]) -> dict[str, Timing]:
    return {name: Timing(**timing) for name, timing in times.items()}


def _huge_pages() -> str:
    """always, madvise or never; empty where the system does not say."""
    try:
        text = HUGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return ""
    return text.partition("[")[2].partition("]")[0]


def _free_huge_pages() -> int | None:
    """How many pages of 2 MiB could be had at once; None where the system does not say.

    Each line of the file counts the free pieces of 1, 2, 4, ... pages of 4 KiB.
    """
    try:
        lines = FREE_PIECES.read_text(encoding="ascii").splitlines()
        counts = [[int(count) for count in line.partition("zone")[2].split()[1:]] for line in lines]
    except (OSError, ValueError):
        return None
    return sum(count << order for zone in counts for order, count in enumerate(zone[9:]))
