"""The command line: one file a command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from normkit.cli.interrupts import INTERRUPTED, leaving_at_once

_NEEDED = ("typer", "rich", "click")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``normkit`` with these arguments (those of the process if None).

    Returns:
        The exit code: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted by Ctrl-C.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        normkit ...
        0
    """
    started_at = time.monotonic()
    try:
        with leaving_at_once():
            from normkit.cli.app import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        print(f'normkit: expected the package {package}, got none; run `pip install "normkit[lab]"`.', file=sys.stderr)
        return 1
    try:
        return run(sys.argv[1:] if argv is None else argv, started_at)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
