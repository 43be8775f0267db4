"""``normkit compare``: train with each norm, watch it, read the answer."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer
from rich.console import Console

from normkit.cli.arguments import (
    Address,
    Engine,
    EngineChoice,
    check_different,
    check_file,
    check_new_file,
    check_page,
    whole_numbers,
    words,
)
from normkit.cli.interrupts import INTERRUPTED, leaving_at_once
from normkit.cli.streams import Forgiving, complain, show
from normkit.cli.watch import watch
from normkit.errors import NormkitError

if TYPE_CHECKING:
    from normkit.lab import Comparison

FAILED = 1
EXPORT_SUFFIXES = (".csv", ".jsonl", ".parquet")
WRITING_S = 1.5  # kept from the budget to end the workers and write the report: 0.6 s on 2 idle cores, 2026-11-21
FILE_WIDTH = 1000  # a file or a pipe has no width; whoever reads it breaks the lines

Files = dict[str, str | None]  # "report" and "export" -> the path written, or None


Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="T",
        help="A known task, or the path of your own file. [default: digits-mlp, -cnn, -lstm, -transformer]",
    ),
]
Norms = Annotated[
    list[str] | None,
    typer.Option("--norm", "-n", metavar="N", help="A norm, or none. [default: those of each task]"),
]
BatchSizes = Annotated[
    list[str] | None,
    typer.Option("--batch-size", "-b", metavar="B", help="[default: those of each task]"),
]
Seeds = Annotated[int, typer.Option(help="Evaluation runs of each norm and batch size.")]
Budget = Annotated[
    str,
    typer.Option(
        help="Longest time to take: 90s, 3m, 2h. What does not fit is cut, and said. "
        "0: compute nothing, and write the report of what the store holds."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Runs at a time. [default: one a core]")]
Store = Annotated[Path, typer.Option(help="File of finished runs; what is in it is not computed again.")]
Report = Annotated[Path, typer.Option(help="The page to write; an older one is replaced.")]
Export = Annotated[Path | None, typer.Option(help="Also write every run to a .csv, .jsonl or .parquet file.")]
Init = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a task of your own to start from, and stop.")]
Force = Annotated[bool, typer.Option("--force", help="Let --export and --init replace a file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
ShowProgress = Annotated[bool, typer.Option(help="Show what is running (on stderr).")]


def compare(
    context: typer.Context,
    task: Tasks = None,
    norm: Norms = None,
    batch_size: BatchSizes = None,
    seeds: Seeds = 5,
    budget: Budget = "3m",
    engine: EngineChoice = Engine.local,
    address: Address = None,
    workers: Workers = None,
    store: Store = Path("out/normkit.sqlite"),
    report: Report = Path("out/report.html"),
    export: Export = None,
    init: Init = None,
    force: Force = False,
    as_json: AsJson = False,
    progress: ShowProgress = True,
) -> None:
    """Train the same network with each normalization on real data, and say which one wins.

    Lists are given with commas or by repeating the option:

        normkit compare --task digits-cnn,digits-lstm --norm batch,layer --batch-size 2,16

    Ctrl-C loses nothing: what has finished is shown and kept, and the same command takes up where it stopped
    (exit code 130).
    """
    if init is not None:
        _write_template(init, force)
        return
    tasks = words(task or (), "--task")
    _check_outputs(store, report, export, force, [text for text in tasks if text.endswith(".py")])
    choices = {
        "norms": words(norm or (), "--norm") or None,
        "batch_sizes": whole_numbers(batch_size or (), "--batch-size") or None,
        "seeds": seeds,
        "budget": budget,
        "engine": engine.value,
        "address": address,
        "workers": workers,
        "store": store,
    }
    try:
        comparison = _watched(tasks, choices, export, context.obj, is_shown=progress)
        files, problems = _write_files(comparison, report, export)
        text = _json(comparison, files) if as_json else _text(comparison, store, files)
    except KeyboardInterrupt:
        complain("Interrupted. Every finished run is kept; the same command takes up where this one stopped.")
        raise typer.Exit(INTERRUPTED) from None
    if reason := show(text):
        problems.append(f"standard output could not be written ({reason}); run the same command again.")
    for problem in problems + _failures(comparison):
        complain(f"normkit: {problem}")
    if code := _exit_code(comparison, problems):
        raise typer.Exit(code)


def _check_outputs(store: Path, report: Path, export: Path | None, force: bool, sources: list[str]) -> None:
    """Before minutes of work, not after. Folders are made."""
    files = {f"--task {text}": Path(text) for text in sources} | {"--store": store, "--report": report}
    check_different(files | ({} if export is None else {"--export": export}))
    check_file(store, "--store")
    check_file(report, "--report")
    check_page(report, "--report")
    if export is not None:
        check_file(export, "--export")
        check_new_file(export, "--export", EXPORT_SUFFIXES, may_replace=force)


def _write_template(path: Path, force: bool) -> None:
    check_file(path, "--init")
    check_new_file(path, "--init", (".py",), may_replace=force)
    from normkit.lab.template import write_template

    path.unlink(missing_ok=True)
    write_template(path)
    typer.echo(f"Wrote {path}. It runs as it is:\n\n  normkit compare --task {path}")


def _watched(
    tasks: list[str], choices: dict[str, Any], export: Path | None, started_at: float, *, is_shown: bool
) -> Comparison:
    """The comparison, with a view of it that stands before anything heavy is imported."""
    console = Console(file=cast(TextIO, Forgiving(sys.stderr)))
    with watch(console, is_shown=is_shown) as watcher:
        with leaving_at_once():
            from normkit.lab.compare import compare as run
            from normkit.lab.export import check_export
            from normkit.lab.tasks import USUAL_TASKS

        if export is not None:
            check_export(export)
        spent_s = time.monotonic() - started_at + WRITING_S
        return run(tasks or list(USUAL_TASKS), on_progress=watcher.update, spent_s=spent_s, **choices)


def _write_files(comparison: Comparison, report: Path, export: Path | None) -> tuple[Files, list[str]]:
    """The files written, and what went wrong: a full disk must not cost the reader the answer."""
    from normkit.lab.export import export_records
    from normkit.report import write_report

    files: Files = {"report": None, "export": None}
    problems = []
    wanted: list[tuple[str, Path | None, Callable[[Path], object]]] = [
        ("report", report, lambda path: write_report(comparison, path)),
        ("export", export, lambda path: export_records(comparison.records, path)),
    ]
    for name, path, write in wanted:
        if path is None:
            continue
        try:
            write(path)
            files[name] = str(path)
        except (OSError, UnicodeError, NormkitError) as error:
            problems.append(f"--{name}: {path} could not be written ({error}); run the same command again.")
    return files, problems


def _json(comparison: Comparison, files: Files) -> str:
    from normkit.cli.as_json import as_json

    return as_json(comparison, files) + "\n"


def _text(comparison: Comparison, store: Path, files: Files) -> str:
    """The answer as standard output shows it."""
    from normkit.cli.table import answer_table, reasons
    from normkit.report import wording
    from normkit.report.answer import answer

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    text = io.StringIO()
    width = None if is_terminal else FILE_WIDTH
    console = Console(file=text, force_terminal=is_terminal or None, width=width, highlight=False)
    view = answer(comparison)
    if comparison.records:
        console.print(answer_table(view))
        console.print()
        console.print(reasons(view), style="dim")
    else:
        console.print(view.headline, style="bold")
    for sentence in comparison.cut:
        console.print(f"Cut: {sentence}", markup=False)
    found = f"{wording.count(comparison.n_resumed, 'run')} found finished in {store}, " if comparison.n_resumed else ""
    console.print(f"{found}{comparison.n_computed} computed in {wording.duration(comparison.wall_s)}.", markup=False)
    if comparison.interrupted:
        console.print(f"Interrupted. Every finished run is kept in {store}; the same command resumes.", markup=False)
    for label, name in (("Runs   ", "export"), ("Report ", "report")):
        if files[name] is not None:
            console.print(f"{label} {files[name]}", markup=False, soft_wrap=True)
    return text.getvalue()


def _failures(comparison: Comparison) -> list[str]:
    """What could not be computed, though it should have been. A norm that diverges is a result."""
    return [
        f"{cell.task}, batch {cell.batch_size}, {score.norm} failed: {score.message}"
        for cell in comparison.cells
        for score in cell.scores
        if score.status == "failed"
    ]


def _exit_code(comparison: Comparison, problems: list[str]) -> int:
    if comparison.interrupted:
        return INTERRUPTED
    has_scores = any(score.n_runs for cell in comparison.cells for score in cell.scores)
    return FAILED if problems or _failures(comparison) or not has_scores else 0
