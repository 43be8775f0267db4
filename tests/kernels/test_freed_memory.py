"""Freed memory that the heap keeps for the next call, in processes of their own."""

from __future__ import annotations

import platform

import pytest

import normkit
from kernels.instruction_sets import run_under
from normkit.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.LIBRARY is None, reason=cpu.DESCRIPTION)

# What has a say in it.
_UNSET: dict[str, str | None] = dict.fromkeys(
    (
        "NORMKIT_KEEP_FREED",
        "GLIBC_TUNABLES",
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TOP_PAD_",
        "MALLOC_MMAP_MAX_",
    )
)

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
    (faults,) = run_under(_FAULTS, **_UNSET)
    assert int(faults) < 340  # a tenth of the pages that it frees: some come with what else the process does


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another heap")
def test_info_says_whether_it_is_kept() -> None:
    def said(**variables: str) -> str:
        return " ".join(run_under("import normkit; print(normkit.info().splitlines()[-1])", **{**_UNSET, **variables}))

    for off in ("0", "off", "False"):
        assert said(NORMKIT_KEEP_FREED=off).startswith("freed memory: as the C library has it (NORMKIT_KEEP_FREED)")
    assert said().startswith("freed memory: the heap keeps up to 64 MiB")
    assert said(MALLOC_TRIM_THRESHOLD_="131072") == "freed memory: as MALLOC_TRIM_THRESHOLD_ has it"
    assert said(GLIBC_TUNABLES="glibc.malloc.mmap_threshold=131072") == "freed memory: as GLIBC_TUNABLES has it"
    assert normkit.info().splitlines()[-1].startswith("freed memory: ")
