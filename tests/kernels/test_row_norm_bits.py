"""The same bits whatever the number of threads, the batch a row is in, the instruction set and the alignment."""

import pytest
import torch

from kernels.instruction_sets import assert_the_same_bits
from kernels.row_norms import DTYPES, NORMS, row_case, same_bits
from normkit.kernels import cpu

norms = pytest.mark.parametrize("norm", NORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1000, 100), (129, 768), (3, 40000)], ids=str)
def test_every_number_of_threads(norm: cpu.Norm, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    case = row_case(norm, *shape, dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = case.results()
        for threads in (2, 3, 5, 8, 16):
            torch.set_num_threads(threads)
            assert all(map(same_bits, case.results(), expected)), threads
    finally:
        torch.set_num_threads(before)


@norms
@dtypes
def test_a_row_alone_and_in_a_batch(norm: cpu.Norm, dtype: torch.dtype) -> None:
    whole = row_case(norm, 40, 101, dtype)
    y, stats = whole.forward()
    dx, _, _ = whole.backward(stats)
    for i in (0, 17, 39):
        alone = row_case(norm, 1, 101, dtype)
        alone.x, alone.dy, alone.w, alone.b = whole.x[i : i + 1], whole.dy[i : i + 1], whole.w, whole.b
        y1, stats1 = alone.forward()
        assert same_bits(y1, y[i : i + 1])
        assert same_bits(alone.backward(stats1)[0], dx[i : i + 1])


@norms
@dtypes
@pytest.mark.parametrize("elements", [1, 3])
def test_memory_of_any_alignment(norm: cpu.Norm, dtype: torch.dtype, elements: int) -> None:
    case = row_case(norm, 13, 77, dtype)
    expected = case.results()
    for name in ("x", "dy", "w", "b"):
        value = getattr(case, name)
        if value is not None:
            shifted = torch.empty(value.numel() + elements, dtype=dtype)[elements:].view(value.shape)
            setattr(case, name, shifted.copy_(value))
    assert all(map(same_bits, case.results(), expected))


_DIGEST = """
import hashlib, sys, torch
from kernels.row_norms import DTYPES, NORMS, row_case
from normkit.kernels import cpu
digest = hashlib.sha256()
for norm in NORMS:
    for dtype in DTYPES:
        for shape in ((70, 5), (65, 33), (40, 800), (3, 5000)):
            torch.manual_seed(sum(shape))
            case = row_case(norm, *shape, dtype, offset=2.0)
            case.x[0], case.x[1, 1], case.x[2] = 3.0, float("nan"), 1e-30
            case.x[-1] *= 1e36
            for t in case.results():
                digest.update(t.nan_to_num(nan=7.0).view(torch.int16 if t.element_size() == 2 else torch.int32)
                              .numpy().tobytes())
print(cpu.LIBRARY.isa(), digest.hexdigest())
"""


def test_every_instruction_set() -> None:
    assert_the_same_bits(_DIGEST)
