"""An output that was freed is there for the next, whatever was allocated in between."""

from __future__ import annotations

import subprocess
import sys

import pytest

from normkit.bench.heap import keep_freed_memory

SCRIPT = """
import resource, sys
import torch
from normkit.bench.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
x = torch.ones(6 * 2**20)  # 24 MiB

def two_outputs():
    y = x + 1
    return y + 1

for _ in range(3):
    two_outputs()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    two_outputs()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="faults are counted on Linux")
def test_outputs_find_the_memory_of_those_before() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    assert faults("given back") > 5000  # the two are given back together, call after call
    assert min(faults("kept") for _ in range(3)) < 500  # the system may take some back in between
