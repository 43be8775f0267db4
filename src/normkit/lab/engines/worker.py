"""The worker's side: text in, a run, text out."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from importlib import import_module
from typing import Any, TextIO

import torch

from normkit.lab.encoding import RUNS
from normkit.lab.form import Form


def execute(function: str, request: str, form: str = RUNS.where) -> str:
    """Compute a run.

    Args:
        function: "module:function", from a spec to its record.
        request: the spec as text.
        form: "module:name" of the form of both.

    Returns:
        The record as text. An error is a record too, with status "failed".
    """
    kind: Form[Any, Any] = _named(form)
    spec = kind.decode_spec(request)
    try:
        return kind.encode_record(_named(function)(spec))
    except (Exception, SystemExit) as error:
        return kind.encode_record(kind.failed(spec, f"{type(error).__name__}: {error}"))


def _named(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def main(function: str, form: str = RUNS.where) -> None:
    """Serve the parent process: a spec a line on standard input, its record a line on standard output.

    The process ends when standard input does, in the middle of a run if need be: so no worker outlives its
    parent, however that ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    requests, answers = _claim_channels()
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    while True:
        answers.write(execute(function, inbox.get(), form) + "\n")
        answers.flush()


def _claim_channels() -> tuple[TextIO, TextIO]:
    """Take over standard input and output, so that a task that reads or prints cannot break into them.

    What a task prints goes to standard error, which the parent keeps for its message if the worker dies.
    """
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return requests, answers


def _listen(requests: TextIO, inbox: queue.SimpleQueue[str]) -> None:
    for line in requests:
        inbox.put(line)
    os._exit(0)
