"""A record with a cell of every kind, for the tests of what is made of records."""

from __future__ import annotations

from normkit.bench.cases import Cell, Mode, Sequences, Workload
from normkit.bench.results import COPY, STEPS, CellResult, ModelResult, OverheadResult, Record, RecurrentResult
from normkit.bench.timing import Timing

LAYER_NORM = Workload("layer_norm", (512, 768), "contiguous", "float32")
BATCH_NORM = Workload("batch_norm", (32, 64, 56, 56), "channels_last", "bfloat16")
PROVENANCE = {
    "versions": {"python": "3.11.2", "normkit": "0.1.0", "torch": "2.13.0"},
    "platform": "Linux",
    "processor": "A processor",
    "cores": 2,
    "threads": 2,
    "vector_extensions": "AVX2",
    "started_at": "2026-11-20T23:59:58+00:00",
    "load_before": 0.1,
    "options": {"grid": "full", "slice_s": 0.8},
}


def timing(us: float) -> Timing:
    return Timing(us * 1e3, us * 10, 20, 1)


def cell(workload: Workload, mode: Mode, **us: float) -> CellResult:
    times = {side: timing(value) for side, value in us.items()}
    saved = {"torch": 1_000_000, "normkit": 500_000} if mode == "fwd+bwd" else {}
    return CellResult(Cell(workload, mode), "timed", 3_000_000, "", times, {"torch": 0.25}, saved)


def record() -> Record:
    """Ratios 4 (compile is faster than eager), 0.5, 0.97 and one of each status that has none."""
    cells = (
        cell(LAYER_NORM, "fwd", torch=800, compile=400, normkit=100, **{COPY: 80}),
        cell(LAYER_NORM, "fwd+bwd", torch=100, compile=400, normkit=200, **{COPY: 80}),
        cell(BATCH_NORM, "fwd", torch=97, normkit=100, **{COPY: 80}),
        CellResult(
            Cell(BATCH_NORM, "fwd+bwd"), "red", 1, "normkit: output 0 is off", error_shares={"normkit": float("nan")}
        ),
        CellResult(Cell(Workload("rms_norm", (4, 8), "contiguous", "float32"), "fwd"), "skipped", 1, "no time | left"),
    )
    overheads = (OverheadResult("layer_norm", {"torch": timing(2), "normkit": timing(4)}),)
    models = (
        ModelResult("llama", "timed", 9, 1, times=dict(zip(STEPS, map(timing, (3000, 2000, 1500)), strict=True))),
        ModelResult("resnet", "timed", 9, 0, "", {"before": timing(3000), "after": timing(2500)}),
        ModelResult("gpt", "red", 9, 0, "the loss is nan"),
    )
    return Record(PROVENANCE, cells, overheads, models, recurrent())


def recurrent() -> tuple[RecurrentResult, ...]:
    """Both bars met, both missed, and one that was not timed."""
    lstm, gru = Sequences("lstm", (50, 1, 128, 128)), Sequences("gru", (5, 4, 3, 2))
    met = {"torch": timing(1000), "usual": timing(4000), "loop": timing(3000), "normkit": timing(1000)}
    missed = {"torch": timing(1000), "usual": timing(4000), "loop": timing(3000), "normkit": timing(2000)}
    return (
        RecurrentResult(lstm, "fwd", "timed", "", met, {"loop": 0.25, "normkit": 0.5}),
        RecurrentResult(lstm, "fwd+bwd", "timed", "", missed, {"loop": 0.25, "normkit": 0.5}),
        RecurrentResult(gru, "fwd", "red", "normkit is off", {}, {"loop": 0.25, "normkit": 7.0}),
    )
