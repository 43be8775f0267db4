"""``normkit bench``: how fast the layers are beside torch's, on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from normkit.cli.arguments import words
from normkit.cli.bench_watch import BenchWatcher, watch_bench
from normkit.errors import ArgumentError, BenchError

if TYPE_CHECKING:
    from normkit.bench import CellResult, Grid, Record

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
IDLE_LOAD = 0.25  # load average a core: above it, processes of others take turns with ours, 8 ms at a time
MODEL_SLICE_S = 6.0  # a step of a model takes up to half a second
MOST_COMPILERS = 16  # processes at a time: each holds a gigabyte while it compiles the largest shapes
RECORDS = Path("benchmarks")


class GridName(str, Enum):
    quick = "quick"
    full = "full"
    none = "none"


class LayoutName(str, Enum):
    contiguous = "contiguous"
    channels_last = "channels_last"


class DTypeName(str, Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


GridChoice = Annotated[
    GridName,
    typer.Option("--grid", help="quick: each operation once, in 2 minutes. full: all, in 20. none: no operations."),
]
Ops = Annotated[list[str] | None, typer.Option("--op", metavar="OP", help="[all]")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", metavar="S", help="4096x768, 8x64x56x56; of lstm: TxNxIxH. [the grid's]")
]
Layouts = Annotated[list[LayoutName] | None, typer.Option("--layout", help="Of maps. [the grid's]")]
DTypes = Annotated[list[DTypeName] | None, typer.Option("--dtype", help="[the grid's]")]
Models = Annotated[bool, typer.Option("--models", help="Time training steps before and after normkit.upgrade, too.")]
Threads = Annotated[int | None, typer.Option(min=1, help="[torch's default]")]
Compiles = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too; slow the first time.")]
Slice = Annotated[float | None, typer.Option("--slice", min=0.001, help="Seconds of timing a cell. [the grid's]")]
Save = Annotated[bool, typer.Option("--save", help="Store a record. Refused while the machine is busy.")]
Folder = Annotated[Path, typer.Option(help="Where --save writes.")]
Show = Annotated[Path | None, typer.Option(metavar="RECORD", help="Show a stored record, and measure nothing.")]
Update = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --show: renew the tables between the markers of a .md file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
ShowProgress = Annotated[bool, typer.Option(help="Show what is running (on stderr).")]


def bench(
    grid: GridChoice = GridName.quick,
    op: Ops = None,
    shape: Shapes = None,
    layout: Layouts = None,
    dtype: DTypes = None,
    models: Models = False,
    threads: Threads = None,
    compiles: Compiles = True,
    slice_s: Slice = None,
    save: Save = False,
    folder: Folder = RECORDS,
    show: Show = None,
    update: Update = None,
    as_json: AsJson = False,
    progress: ShowProgress = True,
) -> None:
    """Time the layers beside torch eager and torch.compile, by turns, and only what has proved right.

    A ratio is against the faster of the two; a copy that moves the same bytes is the yardstick. Recurrent layers
    (lstm, gru, rnn) stand beside torch's, which have no norm, and a Python loop of the same maths. Exit code 1: a side
    gave wrong results.
    """
    if update is not None and show is None:
        raise ArgumentError("--update: expected a stored record, got none; add --show RECORD.")
    if show is not None:
        _show(show, update, as_json=as_json)
        return
    console = Console(stderr=True)
    with watch_bench(console, is_shown=progress) as watcher:  # stands before anything heavy is imported
        chosen = _grid(grid, op, shape, layout, dtype, slice_s)
        _check_load(console, must_be_idle=save)
        record, interrupted = _measured(chosen, watcher, has_models=models, threads=threads, compiles=compiles)
    _print(record, as_json=as_json)
    if interrupted:
        console.print("Interrupted. What was measured is shown; nothing is stored.")
        raise typer.Exit(INTERRUPTED)
    if save:
        from normkit.bench.records import write

        console.print(f"Record  {write(record, folder)}", markup=False, highlight=False, soft_wrap=True)
    if record.is_red:
        raise typer.Exit(FAILED)


def _show(path: Path, update_file: Path | None, *, as_json: bool) -> None:
    from normkit.bench.markdown import update
    from normkit.bench.records import read

    record = read(path)
    if update_file is not None:
        update(update_file, record, f"{path.parent.name}/{path.name}")
    _print(record, as_json=as_json)


def _grid(
    name: GridName,
    ops: Sequence[str] | None,
    shapes: Sequence[str] | None,
    layouts: Sequence[LayoutName] | None,
    dtypes: Sequence[DTypeName] | None,
    slice_s: float | None,
) -> Grid:
    """The grid, narrowed to what was asked for."""
    from normkit.bench.cases import GRIDS, OPS, RECURRENT_OPS, parse_shape

    whole = GRIDS[name.value]
    named = words(ops or (), "--op")
    are_recurrent = bool(named) and set(named) <= set(RECURRENT_OPS)
    given = tuple(parse_shape(text, least=1 if are_recurrent else 2) for text in words(shapes or (), "--shape"))
    chosen: dict[str, Any] = {
        # A shape alone is one of rows or maps; of sequences it is where a recurrent layer is named.
        "ops": tuple(named) or tuple(op for op in whole.ops if op in OPS and given),
        "shapes": given,
        "layouts": tuple(layout.value for layout in layouts or ()),
        "dtypes": tuple(dtype.value for dtype in dtypes or ()),
        "slice_s": slice_s,
    }
    grid = replace(whole, **{field: value for field, value in chosen.items() if value})
    if given:
        grid = replace(grid, sequences=tuple(shape for shape in given if len(shape) == 4))
    if name is not GridName.none and not (grid.workloads() or grid.recurrent()):
        raise ArgumentError(
            f"bench: expected operations for the shapes, got {', '.join(grid.ops)} and {', '.join(shapes or ())}; "
            "give rows (4096x768) to layer_norm and its like, TxNxIxH (50x32x128x128) to lstm, gru and rnn, in "
            "float32, and maps (8x64x56x56) to the others."
        )
    return grid


def _check_load(console: Console, *, must_be_idle: bool) -> None:
    """Times of a busy machine say nothing: a warning, and an error where they would be stored."""
    from normkit.lab.provenance import available_cores

    cores = available_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= IDLE_LOAD * cores:
        return
    if must_be_idle:
        raise BenchError(
            f"bench: expected an idle machine for a record, got a load average of {load:.1f} on {cores} cores; "
            f"wait until it is below {IDLE_LOAD * cores:.1f}, or leave out --save."
        )
    console.print(
        f"Warning: the load average is {load:.1f} on {cores} cores. These times say nothing.", style="bold red"
    )


def _measured(
    grid: Grid, watcher: BenchWatcher, *, has_models: bool, threads: int | None, compiles: bool
) -> tuple[Record, bool]:
    """The record, and whether it was cut short."""
    from normkit.bench import (
        Options,
        Plan,
        Record,
        measure_models,
        measure_overheads,
        measure_recurrent,
        run,
        thread_count,
    )
    from normkit.bench.heap import keep_freed_memory
    from normkit.bench.records import provenance
    from normkit.lab.provenance import available_cores, environment, timestamp

    cells: list[CellResult] = []
    plan = Plan(slice_s=grid.slice_s)
    options = {"grid": grid.name, "slice_s": grid.slice_s, "compile": compiles, "models": has_models}
    options["keeps_freed_memory"] = keep_freed_memory()
    with thread_count(threads):
        record = Record(provenance(environment(), timestamp(), options))
        try:
            choices = Options(grid.limit_s, plan, grid.overhead_s, compiles, min(available_cores(), MOST_COMPILERS))
            for result in run(grid.workloads(), choices, watcher.update):
                cells.append(result)
                watcher.add(result)
            recurrent = measure_recurrent(grid.recurrent(), plan, watcher.start_recurrent)
            record = replace(record, recurrent=tuple(recurrent))
            record = replace(record, overheads=measure_overheads(replace(plan, slice_s=plan.slice_s / 2)))
            if has_models:
                steps = replace(plan, slice_s=min(10 * plan.slice_s, MODEL_SLICE_S))
                record = replace(record, models=measure_models(steps, watcher.start_model))
        except KeyboardInterrupt:
            return replace(record, cells=tuple(cells)), True
    return replace(record, cells=tuple(cells)), False


def _print(record: Record, *, as_json: bool) -> None:
    from normkit.cli.bench_table import bench_json, bench_tables

    if as_json:
        typer.echo(bench_json(record))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file has no width; 80 would break rows
    console.print(bench_tables(record))
