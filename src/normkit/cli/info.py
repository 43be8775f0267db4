"""``normkit info``: which path the layers take here, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def info(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: versions, machine, and the text line by line.")
    ] = False,
) -> None:
    """Show versions, the machine, and which path the layers take here."""
    import normkit
    from normkit.lab.provenance import environment

    text = normkit.info()
    typer.echo(json.dumps(environment() | {"info": text.splitlines()}, indent=2) if as_json else text)
