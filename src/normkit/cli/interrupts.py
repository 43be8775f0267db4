"""Ctrl-C, at any time: one line and exit code 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Within: Ctrl-C ends the process there and then. For imports: an exception in one may be swallowed or wrapped."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    # A live view hides the cursor. Bytes to the file itself: the stream may be locked just now.
    start = b"\r\n" + _SHOW_CURSOR if os.isatty(2) else b""
    try:
        os.write(2, start + b"Interrupted before anything was computed.\n")
    finally:
        os._exit(INTERRUPTED)
