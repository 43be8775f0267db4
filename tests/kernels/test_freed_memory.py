"""Freed memory that the heap keeps for the next call, in processes of their own."""

from __future__ import annotations

import platform

import pytest

import normkit
from kernels.instruction_sets import run_under
from normkit.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.LIBRARY is None, reason=cpu.DESCRIPTION)

# Page faults of a training step, of which some 14 MB are freed together.
_FAULTS = """
import resource, torch, normkit

layer, x = normkit.nn.LayerNormLSTM(128, 128), torch.randn(50, 32, 128, requires_grad=True)

def step():
    layer.zero_grad()
    layer(x)[0].sum().backward()

for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a heap that keeps what it likes")
def test_a_step_finds_the_memory_of_the_last() -> None:
    (faults,) = run_under(_FAULTS, NORMKIT_KEEP_FREED="")
    assert int(faults) < 100  # of 3,400 pages


def test_info_says_whether_it_is_kept() -> None:
    script = "import normkit; print(normkit.info().splitlines()[-1])"
    assert " ".join(run_under(script, NORMKIT_KEEP_FREED="0")).startswith("freed memory: as the C library has it")
    assert " ".join(run_under(script, NORMKIT_KEEP_FREED="")).startswith("freed memory: the heap keeps up to 64 MiB")
    assert normkit.info().splitlines()[-1].startswith("freed memory: ")
