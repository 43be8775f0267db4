"""A stored record as tables of a Markdown file, between markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from normkit.bench.cases import DTYPES, MODES
from normkit.bench.results import (
    LEAST_TIMES_LOOP,
    MOST_TIMES_PLAIN,
    MOST_TIMES_UNMASKED,
    NOISE,
    STEPS,
    CellResult,
    Record,
    below_par,
    costs_of_masks,
    geometric_mean,
    without_masks,
)
from normkit.errors import BenchError

SUMMARY, CELLS = "bench", "bench-cells"  # the names of the two pairs of markers


def update(path: Path, record: Record, source: str) -> None:
    """Write the record's tables between the markers of a Markdown file.

    ``<!-- bench:begin -->`` and ``<!-- bench:end -->`` take the summary, ``<!-- bench-cells:begin -->`` and
    ``<!-- bench-cells:end -->`` every cell; a file has one pair or both.

    Args:
        path: the file.
        record: what to show.
        source: the record's own file, for the text.

    Raises:
        BenchError: the file has neither pair.
    """
    text = path.read_text(encoding="utf-8")
    parts = {SUMMARY: summary(record, source), CELLS: every_cell(record)}
    present = [name for name in parts if _begin(name) in text and _end(name) in text]
    if not present:
        raise BenchError(
            f"bench: expected the markers {_begin(SUMMARY)} and {_end(SUMMARY)}, got none of them in {str(path)!r}; "
            "write them on lines of their own where the tables shall be."
        )
    for name in present:
        before, _, rest = text.partition(_begin(name))
        _, _, after = rest.partition(_end(name))
        text = f"{before}{_begin(name)}\n{parts[name]}\n{_end(name)}{after}"
    path.write_text(text, encoding="utf-8")


def summary(record: Record, source: str) -> str:
    """Where it was measured, the ratios by operation, where torch is faster, recurrent layers, steps and calls."""
    sections = [_measured_on(record, source)]
    if record.cells:
        sections += [_by_operation(record), _slower(record), _masks(record), _not_timed(record)]
    if record.recurrent:
        sections.append(_recurrent(record))
    if record.models:
        sections.append(_models(record))
    if record.overheads:
        sections.append(_overheads(record))
    return "\n\n".join(filter(None, sections))


def every_cell(record: Record) -> str:
    """One row a cell."""
    head = (
        "cell",
        "torch ms",
        "compile ms",
        "normkit ms",
        "± %",
        "ratio",
        "GB/s",
        "of a copy",
        "saved MB, torch / normkit",
    )
    return _table(head, [_row(result) for result in record.cells])


def _row(result: CellResult) -> tuple[str, ...]:
    if result.status != "timed":
        return (str(result.cell), *("–",) * 4, f"{result.status}: {result.message}", *("–",) * 3)
    times = [
        _ms(result.times[side].median_ns) if side in result.times else "–" for side in ("torch", "compile", "normkit")
    ]
    ours = result.times["normkit"]
    saved = " / ".join(f"{result.saved_bytes[side] / 1e6:.2f}" for side in ("torch", "normkit") if result.saved_bytes)
    return (
        str(result.cell),
        *times,
        f"{100 * ours.mad_ns / ours.median_ns:.0f}",
        _ratio(result.ratio),
        _optional(result.gb_per_s, ".1f"),
        _optional(result.copy_share, ".0%"),
        saved or "–",
    )


def _measured_on(record: Record, source: str) -> str:
    p = record.provenance
    versions = p["versions"]
    return (
        f"Measured on {p['processor']} ({p['cores']} cores, {p['threads']} threads, {p['vector_extensions']}), "
        f"normkit {versions['normkit']}, torch {versions['torch']}, {str(p['started_at'])[:10]}, "
        f"load {p['load_before']} before; "
        f"record: `{source}`."
    )


def _by_operation(record: Record) -> str:
    columns = [(mode, dtype) for mode in MODES for dtype in DTYPES]
    head = ("operation", *(f"{mode}, {dtype}" for mode, dtype in columns), "of a copy's speed", "saved for backward")
    names = list(dict.fromkeys(result.cell.workload.op for result in record.cells))
    rows = [_operation_row(f"`{name}`", [r for r in record.cells if r.cell.workload.op == name]) for name in names]
    rows.append(_operation_row("**all**", record.cells))
    mean = f"{_ratio(geometric_mean(r.ratio for r in record.cells))} in all"
    unmasked = without_masks(record.cells)
    if 0 < len(unmasked) < len(record.cells):
        rows.append(_operation_row("**all without a mask**", unmasked))
        ratios = [r.ratio for r in unmasked if r.ratio is not None]
        mean += f", and {_ratio(geometric_mean(ratios))} over the {len(ratios)} without a mask"
    n_compiled = sum("compile" in result.times for result in record.cells)
    n_timed = sum(result.status == "timed" for result in record.cells)
    return (
        "How many times as fast as the faster of torch eager and `torch.compile`: the geometric mean over shapes and "
        "layouts, and the least in brackets. Beside it: the speed of a copy that moves the same bytes, and "
        "the bytes kept for the backward, both as a mean; less than 1 is less memory than torch eager keeps.\n\n"
        + _table(head, rows)
        + f"\n\n{n_timed} cells, {n_compiled} of them with `torch.compile`; {mean}."
    )


def _operation_row(name: str, results: Sequence[CellResult]) -> tuple[str, ...]:
    cells = []
    for mode in MODES:
        for dtype in DTYPES:
            chosen = [r.ratio for r in results if (r.cell.mode, r.cell.workload.dtype) == (mode, dtype)]
            known = [ratio for ratio in chosen if ratio is not None]
            cells.append(f"{_ratio(geometric_mean(known))} ({_ratio(min(known))})" if known else "–")
    saved = geometric_mean(
        r.saved_bytes["normkit"] / r.saved_bytes["torch"] if r.saved_bytes else None for r in results
    )
    copy = geometric_mean(r.copy_share for r in results)
    return (name, *cells, _optional(copy, ".0%"), _ratio(saved))


def _slower(record: Record) -> str:
    n = sum(result.ratio is not None for result in record.cells)
    slower = below_par(record.cells)
    if not slower:
        return f"torch is faster in none of {n} cells."
    n_noise = sum(ratio >= NOISE for _, ratio in slower)
    rows = [
        (str(r.cell), _ms(r.times[best].median_ns), best, _ms(r.times["normkit"].median_ns), _ratio(ratio))
        for r, ratio in slower
        if (best := r.best_torch) is not None
    ]
    said = f"torch is faster in {len(slower)} of {n} cells ({n_noise} of them within noise, {NOISE} and more):"
    table = _table(("cell", "torch's best ms", "which", "normkit ms", "ratio"), rows)
    return f"<details>\n<summary>{said} all of them</summary>\n\n{table.rstrip()}\n\n</details>\n"


def _masks(record: Record) -> str:
    rows = [
        (
            str(r.cell),
            _ms(r.times["normkit"].median_ns),
            f"{cost:.2f}" if cost <= MOST_TIMES_UNMASKED else f"**{cost:.2f}**",
        )
        for r, cost in costs_of_masks(record.cells)
    ]
    said = (
        "What a mask costs where one position in eight is padding: normkit's time over its own without a mask. The "
        f"bar: at most {MOST_TIMES_UNMASKED}.\n\n"
    )
    return said + _table(("cell", "normkit ms", "of unmasked's time"), rows) if rows else ""


def _not_timed(record: Record) -> str:
    rows = [(str(r.cell), r.status, r.message) for r in record.cells if r.status != "timed"]
    return "Not timed:\n\n" + _table(("cell", "status", "why"), rows) if rows else ""


def _recurrent(record: Record) -> str:
    rows = []
    for r in record.recurrent:
        if r.status == "timed":
            sides = ("torch", "usual", "loop", "normkit")
            times = (_ms(r.times[side].median_ns) if side in r.times else "–" for side in sides)
            plain, loop = _ratio(r.times_plain), _ratio(r.times_loop)
            if r.times_plain is not None and r.times_plain > MOST_TIMES_PLAIN:
                plain = f"**{plain}**"
            if r.times_loop is not None and r.times_loop < LEAST_TIMES_LOOP:
                loop = f"**{loop}**"
            rows.append((str(r), *times, plain, loop, _ratio(r.times_careful)))
        else:
            rows.append((str(r), *("–",) * 6, f"{r.status}: {r.message}"))
    n_timed = sum(r.status == "timed" for r in record.recurrent)
    n_missed = sum(bool(r.misses) for r in record.recurrent)
    return (
        "LayerNorm in an LSTM, GRU and RNN, BatchNorm in an LSTM (steps x sequences x inputs x hidden, float32), "
        "beside torch's layer, which has no norm, and Python loops of the same maths in torch's operations: the usual "
        "one, step by step, and a careful one that takes the products with the input before the loop. The bar: at most "
        f"{MOST_TIMES_PLAIN} times the plain layer's time, and at least {LEAST_TIMES_LOOP:g} times the loop's speed. "
        + (f"One or both are missed in {n_missed} of {n_timed} (bold)." if n_missed else f"Met in all {n_timed}.")
        + "\n\n"
        + _table(
            (
                "layer",
                "nn's, plain ms",
                "loop ms",
                "careful ms",
                "normkit ms",
                "of plain's time",
                "of the loop's speed",
                "of the careful one's",
            ),
            rows,
        )
    )


def _models(record: Record) -> str:
    rows = []
    for m in record.models:
        swapped = f"{m.n_swapped} of {m.n_swapped + m.n_left}"
        if m.status == "timed":
            times = (_ms(m.times[side].median_ns) if side in m.times else "–" for side in STEPS)
            rows.append((m.model, swapped, *times, _ratio(m.ratio), _ratio(m.ceiling)))
        else:
            rows.append((m.model, swapped, "–", "–", "–", f"{m.status}: {m.message}", "–"))
    return (
        "A training step before and after `normkit.upgrade`, and with nothing in the norms' place: no norm, however"
        " fast, gains more than about the ceiling.\n\n"
        + _table(("model", "norms swapped", "before ms", "after ms", "without ms", "ratio", "ceiling"), rows)
    )


def _overheads(record: Record) -> str:
    rows = [
        (f"`{o.op}`", f"{o.times['torch'].median_ns:.0f}", f"{o.times['normkit'].median_ns:.0f}", _ratio(o.ratio))
        if o.status == "timed"
        else (f"`{o.op}`", "–", "–", f"{o.status}: {o.message}")
        for o in record.overheads
    ]
    return "One call on 4x8 values, without a backward:\n\n" + _table(
        ("function", "torch ns", "normkit ns", "ratio"), rows
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _ms(ns: float) -> str:
    """Three significant digits, and never an exponent for what is long.

    Example:
        >>> _ms(1234567.0), _ms(2.5e9)
        ('1.23', '2500')
    """
    return f"{ns / 1e6:.3g}" if ns < 1e9 else f"{ns / 1e6:.0f}"


def _ratio(value: float | None) -> str:
    return _optional(value, ".2f")


def _optional(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _begin(name: str) -> str:
    return f"<!-- {name}:begin -->"


def _end(name: str) -> str:
    return f"<!-- {name}:end -->"
