"""``normkit claims``: put what textbooks say about the norms to the test, and read the verdicts."""

from __future__ import annotations

import io
import sys
import time
import webbrowser
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer
from rich.console import Console

from normkit.cli.arguments import Address, Engine, EngineChoice, check_different, check_file, check_page, words
from normkit.cli.interrupts import INTERRUPTED, leaving_at_once
from normkit.cli.streams import Forgiving, complain, show
from normkit.cli.watch import watch
from normkit.errors import NormkitError

if TYPE_CHECKING:
    from normkit.claims import Verdicts
    from normkit.claims.experiment import Tier

FAILED = 1
FILE_WIDTH = 1000  # a file or a pipe has no width; whoever reads it breaks the lines
WRITING_S = 1.0  # kept from the budget for the verdicts and the page
PAGE = Path("out/claims.html")


class TierName(str, Enum):
    instant = "instant"
    quick = "quick"
    full = "full"
    shipped = "shipped"


TierChoice = Annotated[
    TierName | None,
    typer.Option(
        "--tier",
        help="instant: what can be computed exactly. quick: 5 seeds, 3 minutes on 2 cores. full: 12 seeds, an hour. "
        "shipped: compute nothing, take the full run that comes with normkit. [default: quick; with --open, shipped]",
    ),
]
Claims = Annotated[list[str] | None, typer.Option("--claim", "-c", metavar="ID", help="001-03, say. [default: all]")]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Longest time to take: 90s, 3m, 2h. What does not fit is cut, and said; 0: judge what the store holds. "
        "[default: the tier's]"
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs at a time. [default: one a core]")]
Store = Annotated[Path, typer.Option(help="File of finished jobs; what is in it is not measured again.")]
Report = Annotated[Path | None, typer.Option(help=f"Write the page of verdicts. [with --open: {PAGE}]")]
Open = Annotated[bool, typer.Option("--open", help="Write the page of verdicts and open it.")]
List = Annotated[bool, typer.Option("--list", help="List the claims, and stop.")]
Ship = Annotated[Path | None, typer.Option("--ship", hidden=True, help="Write the records as the package ships them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON, and nothing else, on stdout.")]
ShowProgress = Annotated[bool, typer.Option(help="Show what is running (on stderr).")]


def claims(
    context: typer.Context,
    tier: TierChoice = None,
    claim: Claims = None,
    budget: Budget = None,
    engine: EngineChoice = Engine.local,
    address: Address = None,
    workers: Workers = None,
    store: Store = Path("out/normkit.sqlite"),
    report: Report = None,
    open_: Open = False,
    list_: List = False,
    ship: Ship = None,
    as_json: AsJson = False,
    progress: ShowProgress = True,
) -> None:
    """Put what textbooks say about BatchNorm and LayerNorm to the test.

    Each claim gets a verdict on its words, one on the evidence and one of the literature:

        normkit claims --tier instant
        normkit claims --claim 001-03,002-13 --open

    Ctrl-C loses nothing: what has finished is judged and kept, and the same command takes up where it stopped (exit
    code 130).
    """
    chosen = words(claim or (), "--claim") or None
    if list_:
        _show_list(chosen, as_json=as_json)
        return
    page = report or (PAGE if open_ else None)
    is_measured = tier is not TierName.shipped and not (tier is None and open_)
    _check_outputs(store if is_measured else None, page)
    try:
        verdicts = None if is_measured else _shipped(chosen)
        if verdicts is None or not (verdicts.records or tier):  # a build that comes without records
            _check_outputs(store, page)
            name = TierName.quick if tier is None else tier
            choices = {"budget": "" if budget is None else budget, "workers": workers, "store": store}
            choices |= {"engine": engine.value, "address": address}
            verdicts = _measured(name, chosen, choices, context.obj, is_shown=progress)
        written, problems = _write_page(verdicts, page)
        problems += _ship(verdicts, ship)
        text = _json(verdicts, written) if as_json else _text(verdicts, written)
    except KeyboardInterrupt:
        complain("Interrupted. Every finished job is kept; the same command takes up where this one stopped.")
        raise typer.Exit(INTERRUPTED) from None
    if reason := show(text):
        problems.append(f"standard output could not be written ({reason}); run the same command again.")
    for problem in (*problems, *verdicts.failures):
        complain(f"normkit: {problem}")
    if open_ and written is not None:
        webbrowser.open(written.resolve().as_uri())
    if verdicts.interrupted:
        raise typer.Exit(INTERRUPTED)
    is_to_be_measured = any(verdict.claim.conditions for verdict in verdicts.verdicts)
    if problems or verdicts.failures or (is_to_be_measured and not verdicts.measurements):
        raise typer.Exit(FAILED)


def _show_list(chosen: list[str] | None, *, as_json: bool) -> None:
    from normkit.claims import register
    from normkit.claims.register import claim
    from normkit.cli.claims_json import register_json
    from normkit.cli.claims_table import list_table

    found = [claim(id_) for id_ in chosen] if chosen else list(register().values())
    if as_json:
        show(register_json(found))
        return
    text = io.StringIO()
    _console(text).print(list_table(found))
    show(text.getvalue())


def _check_outputs(store: Path | None, page: Path | None) -> None:
    """Before minutes of work, not after. Folders are made."""
    if store is not None:
        check_file(store, "--store")
    if page is not None:
        check_different(({} if store is None else {"--store": store}) | {"--report": page})
        check_file(page, "--report")
        check_page(page, "--report")


def _shipped(chosen: list[str] | None) -> Verdicts:
    with leaving_at_once():
        from normkit.claims import shipped

    return shipped(chosen)


def _measured(
    tier: TierName, chosen: list[str] | None, choices: dict[str, Any], started_at: float, *, is_shown: bool
) -> Verdicts:
    """The verdicts, with a view of the work that stands before anything heavy is imported."""
    console = Console(file=cast(TextIO, Forgiving(sys.stderr)))
    with watch(console, is_shown=is_shown, title="normkit claims") as watcher:
        with leaving_at_once():
            from normkit.claims import run

        spent_s = time.monotonic() - started_at + WRITING_S
        return run(cast("Tier", tier.value), claims=chosen, on_progress=watcher.update, spent_s=spent_s, **choices)


def _write_page(verdicts: Verdicts, path: Path | None) -> tuple[Path | None, list[str]]:
    """The page written, and what went wrong: a full disk must not cost the reader the verdicts."""
    if path is None:
        return None, []
    from normkit.report.claims_page import write_claims

    try:
        return write_claims(verdicts, path), []
    except (OSError, UnicodeError, NormkitError) as error:
        return None, [f"--report: {path} could not be written ({error}); run the same command again."]


def _ship(verdicts: Verdicts, folder: Path | None) -> list[str]:
    """The records written as the package ships them; what went wrong."""
    if folder is None:
        return []
    from normkit.claims.experiments import files
    from normkit.claims.shipped import write

    if verdicts.tier != "full" or len(verdicts.experiments) < len(files()):
        return ["--ship: expected the full tier and every claim; leave out --claim and add --tier full."]
    if folder.exists() and not folder.is_dir():
        return [f"--ship: expected a folder, got the file {str(folder)!r}; choose another name."]
    if lacking := (*verdicts.cut, *verdicts.failures):
        return [
            f"--ship: expected a whole run, got one that lacks something ({lacking[0]}); run the same command again."
        ]
    try:
        for path in write(verdicts, folder):
            complain(f"Shipped {path}")
    except (OSError, NormkitError) as error:
        return [f"--ship: {folder} could not be written ({error}); run the same command again."]
    return []


def _json(verdicts: Verdicts, written: Path | None) -> str:
    from normkit.cli.claims_json import verdicts_json

    return verdicts_json(verdicts, written)


def _text(verdicts: Verdicts, written: Path | None) -> str:
    """The verdicts as standard output shows them, the count last."""
    from normkit.cli.claims_table import closing_lines, verdict_table

    text = io.StringIO()
    console = _console(text)
    console.print(verdict_table(verdicts))
    for line in closing_lines(verdicts):
        console.print(line, markup=False, soft_wrap=True)
    if written is not None:
        console.print(f"Page    {written}", markup=False, soft_wrap=True)
    # A table is padded to the width of a file, which nobody wants in one.
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def _console(text: io.StringIO) -> Console:
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = None if is_terminal else FILE_WIDTH
    return Console(file=text, force_terminal=is_terminal or None, width=width, highlight=False)
