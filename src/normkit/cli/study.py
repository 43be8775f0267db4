"""``normkit study``: write the learning page, and open it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from normkit.cli.arguments import check_file, check_page
from normkit.cli.interrupts import INTERRUPTED, leaving_at_once
from normkit.cli.streams import complain

PAGE = Path("out/study.html")

Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where to write the page.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def study(out: Out = PAGE, open_: Open = False) -> None:
    """Write the page that teaches what BatchNorm and LayerNorm do, every sentence of it tested.

    One file that works offline: live arithmetic, charts of the runs that come with normkit, questions.

        normkit study --open
    """
    check_file(out, "--out")
    check_page(out, "--out")
    with leaving_at_once():
        from normkit.claims import shipped
        from normkit.study import write_study

        verdicts = shipped()
    try:
        written = write_study(verdicts, out)
    except KeyboardInterrupt:
        complain("Interrupted before the page was written.")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"Page    {written}")
    if open_:
        webbrowser.open(written.resolve().as_uri())
