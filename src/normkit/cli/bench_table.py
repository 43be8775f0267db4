"""The result of a benchmark for a terminal, and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normkit.bench import (
    STEPS,
    CellResult,
    ModelResult,
    OverheadResult,
    Record,
    RecurrentResult,
    below_par,
    costs_of_masks,
    geometric_mean,
    without_masks,
)

SIDES = ("torch", "compile", "normkit")
NONE = "–"


def bench_tables(record: Record) -> Group:
    """Every cell, the cells that are slower than torch's best or wrong, then models, calls and the mean."""
    parts: list[RenderableType] = []
    if record.cells:
        parts += [_cells(record.cells), "", *_slower(record.cells), *_masks(record.cells), *_not_timed(record)]
    if record.recurrent:
        parts += ["", *_recurrent(record.recurrent)]
    if record.models:
        parts += ["", _models(record.models)]
    if record.overheads:
        parts += ["", _overheads(record.overheads)]
    mean = geometric_mean(result.ratio for result in record.cells)
    if mean is not None:
        n = sum(result.ratio is not None for result in record.cells)
        n_compiled = sum("compile" in result.times for result in record.cells)
        words = f"{mean:.2f}x the speed of torch's best, as a geometric mean over {n} cells"
        of_unmasked = [r.ratio for r in without_masks(record.cells) if r.ratio is not None]
        if 0 < len(of_unmasked) < n:
            words += f"; {geometric_mean(of_unmasked):.2f}x over the {len(of_unmasked)} without a mask"
        parts += ["", Text(words, "bold"), Text(f"{n_compiled} of them with torch.compile as a side.", "dim")]
    return Group(*parts)


def bench_json(record: Record) -> str:
    """Strict JSON of the record and what follows from it; a number that is not finite becomes null."""
    cells = [
        asdict(r)
        | {"ratio": r.ratio, "best_torch": r.best_torch, "gb_per_s": r.gb_per_s, "copy_share": r.copy_share}
        | {"error_shares": {side: _finite(share) for side, share in r.error_shares.items()}}
        for r in record.cells
    ]
    result: dict[str, Any] = {
        "provenance": record.provenance,
        "geometric_mean": geometric_mean(r.ratio for r in record.cells),
        "geometric_mean_without_masks": geometric_mean(r.ratio for r in without_masks(record.cells)),
        "costs_of_masks": {str(r.cell): cost for r, cost in costs_of_masks(record.cells)},
        "below_par": [str(r.cell) for r, _ in below_par(record.cells)],
        "cells": cells,
        "recurrent": [
            asdict(r)
            | {"times_plain": r.times_plain, "times_loop": r.times_loop, "times_careful": r.times_careful}
            | {"misses": r.misses}
            | {"error_shares": {side: _finite(share) for side, share in r.error_shares.items()}}
            for r in record.recurrent
        ],
        "overheads": [asdict(o) | {"ratio": o.ratio} for o in record.overheads],
        "models": [asdict(m) | {"ratio": m.ratio, "ceiling": m.ceiling} for m in record.models],
    }
    return json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)


def _cells(results: tuple[CellResult, ...]) -> Table:
    table = _table(
        "cell", "torch µs", "compile µs", "normkit µs", "±", "ratio", "GB/s", "of copy", "kept kB", "torch's"
    )
    for r in results:
        if r.status != "timed":
            table.add_row(str(r.cell), Text(r.status, "bold red" if r.status == "red" else "dim"))
            continue
        ours = r.times["normkit"]
        table.add_row(
            str(r.cell),
            *(_us(r.times[side].median_ns) if side in r.times else NONE for side in SIDES),
            f"{ours.mad_ns / ours.median_ns:.0%}",
            _ratio(r.ratio),
            NONE if r.gb_per_s is None else f"{r.gb_per_s:.1f}",
            NONE if r.copy_share is None else f"{r.copy_share:.0%}",
            *(f"{r.saved_bytes[side] / 1e3:.0f}" if side in r.saved_bytes else NONE for side in ("normkit", "torch")),
        )
    return table


def _slower(results: tuple[CellResult, ...]) -> list[RenderableType]:
    slower = below_par(results)
    if not slower:
        return [Text("torch is faster in no cell.")]
    lines = [Text(f"torch is faster in {len(slower)} cells:", "bold")]
    lines += [Text(f"  {r.cell}: {ratio:.2f}x, {r.best_torch}") for r, ratio in slower]
    return [*lines]


def _masks(results: tuple[CellResult, ...]) -> list[RenderableType]:
    """What each masked cell takes, of the time of the same without a mask."""
    return [Text(f"masked  {r.cell}: {cost:.2f} times the unmasked") for r, cost in costs_of_masks(results)]


def _not_timed(record: Record) -> list[RenderableType]:
    """Red cells one by one; skipped ones and missing sides counted; each with the reason."""
    lines: list[RenderableType] = [
        Text(f"red  {r.cell}: {r.message}", "bold red") for r in record.cells if r.status == "red"
    ]
    reasons = Counter(f"skipped: {r.message}" for r in record.cells if r.status == "skipped")
    reasons.update(f"without {side}: {why}" for r in record.cells for side, why in r.absent.items())
    return [*lines, *(Text(f"{n} cells {words}", "dim") for words, n in reasons.items())]


def _recurrent(results: tuple[RecurrentResult, ...]) -> list[RenderableType]:
    """Every case, and where a bar is missed."""
    table = _table(
        "recurrent",
        "torch's plain ms",
        "loop ms",
        "careful ms",
        "normkit ms",
        "of plain's time",
        "of loop's speed",
        "of careful's",
    )
    for r in results:
        if r.times_plain is None or r.times_loop is None:
            table.add_row(str(r), Text(f"{r.status}: {r.message}", "bold red"))
            continue
        times = (f"{r.times[side].median_ns / 1e6:.3g}" for side in ("torch", "usual", "loop", "normkit"))
        table.add_row(str(r), *times, f"{r.times_plain:.2f}x", f"{r.times_loop:.2f}x", f"{r.times_careful:.2f}x")
    missed = [Text(f"missed  {r}: {words}", "bold red") for r in results for words in r.misses]
    return [table, *missed]


def _models(results: tuple[ModelResult, ...]) -> Table:
    table = _table("training step", "norms swapped", "before ms", "after ms", "without ms", "ratio", "ceiling")
    for m in results:
        swapped = f"{m.n_swapped} of {m.n_swapped + m.n_left}"
        if m.status == "timed":
            times = (f"{m.times[side].median_ns / 1e6:.1f}" if side in m.times else NONE for side in STEPS)
            table.add_row(m.model, swapped, *times, _ratio(m.ratio), _ratio(m.ceiling))
        else:
            table.add_row(m.model, swapped, Text(f"{m.status}: {m.message}", "bold red"))
    return table


def _overheads(results: tuple[OverheadResult, ...]) -> Table:
    table = _table("one call on 4x8", "torch ns", "normkit ns", "ratio")
    for o in results:
        if o.status != "timed":
            table.add_row(o.op, Text(f"{o.status}: {o.message}", "bold red"))
            continue
        torch_ns, normkit_ns = (f"{o.times[side].median_ns:.0f}" for side in ("torch", "normkit"))
        table.add_row(o.op, torch_ns, normkit_ns, _ratio(o.ratio))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _ratio(value: float | None) -> Text:
    """Colour is never the only mark: what is below 1 says so itself."""
    if value is None:
        return Text(NONE)
    return Text(f"{value:.2f}x", "bold green" if value >= 1 else "bold red")


def _us(ns: float) -> str:
    return f"{ns / 1e3:.3g}" if ns < 1e6 else f"{ns / 1e3:.0f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
