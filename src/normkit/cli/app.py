"""From arguments to a command, and from what a command raises to an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from normkit._version import __version__
from normkit.cli.bench import bench
from normkit.cli.claims import claims
from normkit.cli.compare import compare
from normkit.cli.info import info
from normkit.cli.streams import complain, use_plain_signs
from normkit.cli.study import study
from normkit.errors import ArgumentError, NormkitError

FAILED = 1
WRONG_USAGE = 2


def run(argv: Sequence[str], started_at: float) -> int:
    """The exit code of one call; errors that normkit raises on purpose become one line on stderr.

    Args:
        argv: the arguments.
        started_at: when the command started, on the clock of ``time.monotonic``; commands find it as ``obj``.
    """
    use_plain_signs()
    command = typer.main.get_command(_app())
    try:
        command.main(args=list(argv), prog_name="normkit", standalone_mode=True, obj=started_at)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except NormkitError as error:
        complain(f"normkit: {error}")
        return WRONG_USAGE if isinstance(error, ArgumentError) else FAILED
    except OSError as error:  # of a file or stream; where it can be said better, it has been
        complain(f"normkit: {error}")
        return FAILED
    return 0


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(_normkit)
    app.command(short_help="Train with each norm on real data, and say which wins.")(compare)
    app.command(short_help="Put what textbooks say about the norms to the test.")(claims)
    app.command(short_help="Write the page that teaches what the norms do.")(study)
    app.command(short_help="Time the layers beside torch's, after proving them right.")(bench)
    app.command(short_help="Show which path the layers take here, and why.")(info)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normkit {__version__}")
        raise typer.Exit


def _normkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Normalization layers for PyTorch, and a laboratory that shows which one to use.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
    """
