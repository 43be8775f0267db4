"""Ctrl-C at any time: one line, exit code 130, no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normkit.cli.interrupts import leaving_at_once

TINY = str(Path(__file__).with_name("tiny_task.py"))

# Says when a module begins to be imported, and is slow at it then.
SLOW = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from normkit.cli import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize("module", ["typer", "torch", "plotly.offline"])
def test_an_interrupt_while_something_is_imported_is_one_line_and_130(module: str, tmp_path: Path) -> None:
    arguments = ["compare", "--task", TINY, "--store", str(tmp_path / "runs.sqlite"), "--budget", "0", "--no-progress"]
    code = SLOW.format(module=module, arguments=[*arguments, "--report", str(tmp_path / "r.html")])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert process.returncode == 130
    assert err.startswith("Interrupted")
    assert err.count("\n") == 1


def test_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with leaving_at_once():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_of_a_program_that_has_its_own_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with leaving_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
