"""2**31 elements and more: indices that no 32 bits hold, over address space that costs a few megabytes of memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.row_norms import same_bits
from normkit import functional
from normkit.kernels import cpu

TILE = 2**24  # bytes
HEAD = 2**31  # elements before the tail: with two bytes each, 32 bits hold neither their indices nor their addresses
ITEM = 2
FIXED, NO_RESERVE, POPULATE = 0x10, 0x4000, 0x8000  # of mmap, which Python does not name
BFLOAT16 = cpu.DTYPE_CODES[torch.bfloat16]

needs_mirrors = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 2**32, reason="needs memfd_create and 64-bit addresses"
)


@dataclass(frozen=True)
class Mirrored:
    """HEAD elements that all lie in one tile of memory, over and over, and a tail of a tile of its own."""

    address: int
    tile: Tensor  # bfloat16, what every stretch of the head is
    tail: Tensor


@contextmanager
def mirrored() -> Iterator[Mirrored]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    file = os.memfd_create("tiles")
    os.ftruncate(file, 2 * TILE)
    size = HEAD * ITEM + TILE
    reserved = libc.mmap(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE, -1, 0)
    try:
        for at in range(0, size, TILE):
            place = 0 if at < HEAD * ITEM else TILE
            flags = mmap.MAP_SHARED | FIXED | POPULATE
            where = libc.mmap(reserved + at, TILE, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, place)
            assert where == reserved + at, os.strerror(ctypes.get_errno())
        tile, tail = (
            torch.frombuffer((ctypes.c_char * TILE).from_address(reserved + at), dtype=torch.bfloat16)
            for at in (0, HEAD * ITEM)
        )
        yield Mirrored(reserved, tile, tail)
    finally:
        libc.munmap(reserved, size)
        os.close(file)


@contextmanager
def input_and_output() -> Iterator[tuple[Mirrored, Mirrored]]:
    """Random numbers in both, others in the tail than in the head."""
    with ExitStack() as stack:
        x, y = (stack.enter_context(mirrored()) for _ in range(2))
        for t in (x.tile, x.tail, y.tile, y.tail):
            t.copy_(torch.randn(t.shape))
        yield x, y


@needs_mirrors
def test_rows() -> None:
    n_cols, n_tail = 4096, 5
    n_rows = HEAD // n_cols + n_tail
    w, dw = torch.randn(n_cols), torch.empty(n_cols)
    stats = torch.empty(n_rows, 3)
    with input_and_output() as (x, out):
        parts = [(at.view(-1, n_cols)[:n_tail], to.view(-1, n_cols)[:n_tail]) for at, to in of_both(x, out)]
        cpu.LIBRARY.row_norm_forward(
            0, BFLOAT16, n_rows, n_cols, 1e-5, x.address, w.data_ptr(), 0, 0, 0, out.address, stats.data_ptr(),
            0, 0, 0.0, 0,
        )  # fmt: skip
        few = []
        for of_x, y in parts:
            expected, its_stats = cpu.row_norm("layer_norm", of_x, n_cols, w, None, 1e-5, True)
            assert same_bits(y, expected)
            few.append(its_stats)
        cpu.LIBRARY.row_norm_backward(  # with dy = x
            0, BFLOAT16, n_rows, n_cols, 1e-5, x.address, x.address, stats.data_ptr(), w.data_ptr(), 0, 0,
            out.address, 0, 0.0, 0, dw.data_ptr(), 0, 0, 0,
        )  # fmt: skip
        for (of_x, dx), its_stats in zip(parts, few, strict=True):
            assert its_stats is not None
            expected = cpu.row_norm_backward("layer_norm", of_x, of_x, its_stats, n_cols, w, 1e-5, True, False, None).dx
            assert expected is not None
            assert same_bits(dx, expected)
    assert dw.isfinite().all()


@needs_mirrors
@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_groups_of_channels(layout: str) -> None:
    c, side, n_groups = 64, 64, 8
    size = c * side * side
    n = HEAD // size + 1
    w, b, dw, db = (torch.randn(c) for _ in range(4))
    stats = torch.empty(n * n_groups, 4)
    shape = (int(layout == "pixels"), BFLOAT16, n, c, side * side, n_groups, 1e-5)
    none = (0, 0) * 2
    with input_and_output() as (x, out):
        parts = [(seen(at[:size], layout, c, side), seen(to[:size], layout, c, side)) for at, to in of_both(x, out)]
        cpu.LIBRARY.channel_norm_forward(
            *shape,
            x.address,
            0,
            w.data_ptr(),
            0,
            b.data_ptr(),
            0,
            0,
            *none,
            out.address,
            stats.data_ptr(),
            *none,
            0.0,
            0,
        )
        few = []
        for of_x, y in parts:
            expected, its_stats = cpu.channel_norm(of_x, n_groups, w, b, 1e-5)
            assert same_bits(y, expected)
            few.append(its_stats)
        cpu.LIBRARY.channel_norm_backward(  # with dy = x
            *shape, False, x.address, x.address, stats.data_ptr(), w.data_ptr(), 0, 0, 0, 0, out.address,
            dw.data_ptr(), 0, db.data_ptr(), 0, 0,
        )  # fmt: skip
        for (of_x, dx), its_stats in zip(parts, few, strict=True):
            gradient = cpu.channel_norm_backward(
                of_x, of_x, its_stats, n_groups, w, None, 1e-5, constant_stats=False, need_dx=True, dw=None, db=None
            )
            assert gradient is not None
            assert same_bits(dx, gradient)
    assert dw.isfinite().all()
    assert db.isfinite().all()


@needs_mirrors
def test_channels_of_pixels() -> None:
    c, side = 64, 64
    size = c * side * side
    n = HEAD // size + 1
    w, b, dw, db = (torch.randn(c) for _ in range(4))
    stats = torch.empty(n, 3, side * side)
    shape = (BFLOAT16, n, c, side * side, 1e-5)
    with input_and_output() as (x, out):
        parts = [(seen(at[:size], "planes", c, side), seen(to[:size], "planes", c, side)) for at, to in of_both(x, out)]
        cpu.LIBRARY.layer_norm2d_forward(
            *shape, x.address, w.data_ptr(), 0, b.data_ptr(), 0, out.address, stats.data_ptr()
        )
        few = []
        for of_x, y in parts:
            expected, its_stats = cpu.layer_norm2d(of_x, w, b, 1e-5, True)
            assert its_stats is not None
            assert same_bits(y, expected)
            few.append(its_stats)
        cpu.LIBRARY.layer_norm2d_backward(  # with dy = x
            *shape, x.address, x.address, stats.data_ptr(), w.data_ptr(), 0, out.address,
            dw.data_ptr(), 0, db.data_ptr(), 0,
        )  # fmt: skip
        for (of_x, dx), its_stats in zip(parts, few, strict=True):
            gradient = cpu.layer_norm2d_backward(of_x, of_x, its_stats, w, 1e-5, need_dx=True, dw=None, db=None)
            assert gradient is not None
            assert same_bits(dx, gradient)
    assert dw.isfinite().all()
    assert db.isfinite().all()


def of_both(x: Mirrored, y: Mirrored) -> list[tuple[Tensor, Tensor]]:
    return [(x.tile, y.tile), (x.tail, y.tail)]


def seen(values: Tensor, layout: str, c: int, side: int) -> Tensor:
    """One sample [1, c, side, side] in that layout."""
    return values.view(1, side, side, c).permute(0, 3, 1, 2) if layout == "pixels" else values.view(1, c, side, side)


ROWS, MAP = (2**16, 2**15 + 3), (2**9, 2**6, 2**8, 2**8 + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_results_on_the_meta_device_have_the_shapes_they_would_have(dtype: torch.dtype) -> None:
    x, m = (torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in (ROWS, MAP))
    w = torch.empty(ROWS[-1], dtype=dtype, device="meta", requires_grad=True)
    v = torch.empty(MAP[1], dtype=dtype, device="meta", requires_grad=True)
    results = {
        x: [
            functional.layer_norm(x, ROWS[-1], w, w),
            functional.rms_norm(x, ROWS[-1], w),
            *functional.add_layer_norm(x, x, ROWS[-1], w, w),
            *functional.add_rms_norm(x, x, ROWS[-1], w),
            torch.ops.normkit.layer_norm(x, w, w, 1, 1e-5)[0],
            torch.ops.normkit.rms_norm(x, w, 1, 1e-5)[0],
        ],
        m: [
            functional.batch_norm(m, None, None, v, v, training=True),
            functional.group_norm(m, 8, v, v),
            functional.instance_norm(m, None, None, v, v),
            functional.layer_norm2d(m, v, v),
            torch.ops.normkit.channel_norm(m, v, v, None, None, 8, 1e-5)[0],
        ],
    }
    for like, ys in results.items():
        assert like.numel() > 2**31
        for y in ys:
            (gradient,) = torch.autograd.grad(y, like, y.detach())
            for t in (y, gradient):
                assert (t.shape, t.dtype, t.stride()) == (like.shape, like.dtype, like.stride())
