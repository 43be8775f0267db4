"""An output that was freed is there for the next, whatever was allocated in between."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from normkit.bench.heap import keep_freed_memory

# Huge pages would hide the faults. Without keep_freed_memory an output above the limit that the environment sets is
# given back as soon as it is freed: by the C library's own rules that depends on what happens to lie above it.
SCRIPT = """
import ctypes, resource, statistics, sys
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
import torch
from normkit.bench.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
x = torch.ones(6 * 2**20)  # 24 MiB

def two_outputs():
    y = x + 1
    return y + 1

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    two_outputs()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(statistics.median(faults() for _ in range(15)))
"""


def faults(how: str) -> int:
    """Of a call in the middle: now and then something small is in the way, and one call needs new memory."""
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True, env=environ)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="faults are counted on Linux")
def test_outputs_find_the_memory_of_those_before() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    assert faults("given back") > 10_000  # two outputs of 6,144 pages
    assert faults("kept") < 100
