"""Standard output and error as they are: full, closed at the other end, or ASCII only."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

# One sign for one, so that columns stay where they are.
_PLAIN = str.maketrans({"±": "~", "–": "-", "—": "-", "−": "-", "·": "-", "†": "+", "×": "x", "≤": "<", "…": "."})


def use_plain_signs() -> None:
    """What the terminal's encoding lacks is written by a sign that is like it, or a question mark; never an error."""
    codecs.register_error("normkit.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if (
            stream is not None
            and not (stream.encoding or "").lower().startswith("utf")
            and hasattr(stream, "reconfigure")
        ):
            stream.reconfigure(errors="normkit.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(sign if sign.isascii() else "?" for sign in signs), error.end


def show(text: str) -> str:
    """Write to standard output. Returns why that failed, if it did.

    A reader that stops reading (``| head``) is no failure: it has what it wanted.
    """
    if sys.stdout is None:
        return ""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _close(sys.stdout)
    except OSError as error:
        _close(sys.stdout)
        return error.strerror or str(error)
    return ""


def complain(line: str) -> None:
    """Write a line to standard error, if it can be written there."""
    Forgiving(sys.stderr).write(line + "\n")


class Forgiving:
    """A stream for what is good to know and no more: where it cannot be written, work goes on without.

    Args:
        stream: what is written to, and asked for everything else; None where there is none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                _close(self._stream)
        return len(text)

    def flush(self) -> None:
        """Each write is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _close(stream: TextIO) -> None:
    """What is still to be written, by Python itself at the end too, goes nowhere."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
