"""The same bits on every instruction set: which one runs is chosen when the library is loaded, so in a process each."""

from __future__ import annotations

import os
import subprocess
import sys


def available() -> list[str]:
    """The instruction sets that this processor has."""
    script = "from normkit.kernels import cpu; print(cpu.LIBRARY.isa(), '-')"
    return [isa for isa in ("portable", "avx2", "avx512") if _run(script, isa)[0] == isa]


def assert_the_same_bits(script: str) -> None:
    """A script that prints the instruction set that runs and a digest of results prints one digest on each."""
    best, expected = _run(script, "")
    compared = []
    for isa in ("portable", "avx2", "avx512"):
        name, digest = _run(script, isa)
        if name != isa:  # this processor lacks it, and the best took its place
            assert name == best
            continue
        assert digest == expected, isa
        compared.append(isa)
    assert "portable" in compared


def _run(script: str, isa: str) -> tuple[str, str]:
    env = {**os.environ, "NORMKIT_ISA": isa, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    name, digest = done.stdout.split()
    return name, digest
