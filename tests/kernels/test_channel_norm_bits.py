"""The same bits whatever the number of threads, the batch a sample is in, the instruction set and the alignment."""

import pytest
import torch

from kernels.channel_norms import channel_case
from kernels.instruction_sets import assert_the_same_bits
from kernels.row_norms import DTYPES, same_bits

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@pytest.mark.parametrize(
    ("shape", "n_groups"),
    [((16, 3, 64, 64), 0), ((40, 50, 7, 7), 0), ((2, 4, 200, 200), 2), ((40, 6, 30, 30), 6), ((300, 700), 0)],
    ids=str,
)
def test_every_number_of_threads(
    channels_last: bool, dtype: torch.dtype, given: bool, shape: tuple[int, ...], n_groups: int
) -> None:
    if given and n_groups:
        pytest.skip("given statistics are a channel's")
    case = channel_case(shape, n_groups, dtype, channels_last=channels_last, given=given)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = case.results()
        for threads in (2, 3, 5, 8, 16):
            torch.set_num_threads(threads)
            assert all(map(same_bits, case.results(), expected)), threads
    finally:
        torch.set_num_threads(before)


@layouts
@dtypes
@pytest.mark.parametrize(
    ("shape", "n_groups"), [((40, 6, 9, 9), 2), ((33, 5, 7, 3), 5), ((3, 4, 150, 150), 2)], ids=str
)
def test_a_sample_alone_and_in_a_batch(
    channels_last: bool, dtype: torch.dtype, shape: tuple[int, ...], n_groups: int
) -> None:
    whole = channel_case(shape, n_groups, dtype, channels_last=channels_last)
    y, stats = whole.forward()
    dx, _, _ = whole.backward(stats)
    for i in (0, shape[0] // 2, shape[0] - 1):
        alone = channel_case((1, *shape[1:]), n_groups, dtype, channels_last=channels_last)
        alone.x, alone.dy, alone.w, alone.b = whole.x[i : i + 1], whole.dy[i : i + 1], whole.w, whole.b
        y1, stats1 = alone.forward()
        assert same_bits(y1, y[i : i + 1])
        assert same_bits(alone.backward(stats1)[0], dx[i : i + 1])


@layouts
@dtypes
@pytest.mark.parametrize("elements", [1, 3])
@pytest.mark.parametrize("n_groups", [0, 3])
def test_memory_of_any_alignment(channels_last: bool, dtype: torch.dtype, elements: int, n_groups: int) -> None:
    case = channel_case((3, 6, 7, 5), n_groups, dtype, channels_last=channels_last)
    expected = case.results()
    for name in ("x", "dy", "w", "b"):
        value = getattr(case, name)
        shifted = torch.empty(value.numel() + elements, dtype=dtype)[elements:].as_strided(value.shape, value.stride())
        setattr(case, name, shifted.copy_(value))
    assert all(map(same_bits, case.results(), expected))


_DIGEST = """
import hashlib, torch
from kernels import test_layer_norm2d
from kernels.channel_norms import channel_case
from kernels.row_norms import DTYPES
from normkit.kernels import cpu
digest = hashlib.sha256()
for dtype in DTYPES:
    for channels_last in (False, True):
        for shape, groups in (((6, 5), 0), ((3, 4, 5), 2), ((5, 6, 9, 7), 0), ((5, 6, 9, 7), 3), ((2, 2, 33, 34), 0)):
            torch.manual_seed(sum(shape))
            case = channel_case(shape, groups, dtype, channels_last=channels_last, offset=2.0)
            case.x[:, 0], case.x[0, 1], case.x[-1] = 3.0, float("nan"), case.x[-1] * 1e36
            results = case.results()
            if len(shape) == 4 and not channels_last:
                results += test_layer_norm2d.make(shape, dtype).results()
            for t in results:
                digest.update(t.nan_to_num(nan=7.0).contiguous()
                              .view(torch.int16 if t.element_size() == 2 else torch.int32).numpy().tobytes())
print(cpu.LIBRARY.isa(), digest.hexdigest())
"""


def test_every_instruction_set() -> None:
    assert_the_same_bits(_DIGEST)


_ROUNDING = """
import hashlib, torch
from normkit import functional as F
from normkit.kernels import cpu

# Of every exponent and sign, each kind of what is rounded off; subnormal, infinite and no numbers among them.
upper = torch.arange(2**16, dtype=torch.int64) << 16
lower = torch.tensor([0, 1, 0x7fff, 0x8000, 0x8001, 0xffff])
w = (upper[:, None] | lower).flatten().to(torch.int32).view(torch.float32)
digest = hashlib.sha256()
for dtype in (torch.bfloat16, torch.float16):
    ones, zeros = torch.ones(2, len(w), dtype=dtype), torch.zeros(len(w))
    y = F.batch_norm(ones, zeros, torch.ones(len(w)), w, None, eps=0.0)[0]  # 1 times w
    expected = w.to(dtype)
    assert torch.equal(y.isnan(), w.isnan())
    assert torch.equal(y[~w.isnan()].view(torch.int16), expected[~w.isnan()].view(torch.int16))
    digest.update(y.view(torch.int16).numpy().tobytes())
print(cpu.LIBRARY.isa(), digest.hexdigest())
"""


def test_every_number_is_rounded_to_the_nearest_on_every_instruction_set() -> None:
    assert_the_same_bits(_ROUNDING)
