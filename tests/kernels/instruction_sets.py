"""The same bits on every instruction set: which one runs is chosen when the library is loaded, so in a process each."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

ALL = ("portable", "avx2", "avx512", "avx512_bf16")


@cache
def available() -> tuple[str, ...]:
    """The instruction sets that this processor has."""
    script = "from normkit.kernels import cpu; print(cpu.LIBRARY.isa())"
    return tuple(isa for isa in ALL if run_under(script, NORMKIT_ISA=isa)[0] == isa)


def assert_the_same_bits(script: str) -> None:
    """A script that prints the instruction set that runs and a digest of results prints one digest on each."""
    best, expected = run_under(script, NORMKIT_ISA="")
    compared = []
    for isa in ALL:
        name, digest = run_under(script, NORMKIT_ISA=isa)
        if name != isa:  # this processor lacks it, and the best took its place
            assert name == best
            continue
        assert digest == expected, isa
        compared.append(isa)
    assert "portable" in compared


def run_under(script: str, **variables: str | None) -> list[str]:
    """The words that a script prints in a process of its own, with these environment variables; None: without it."""
    given = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env = {name: value for name, value in given.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()
