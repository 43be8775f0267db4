"""The kernel of LayerNorm2d over planes: exact, the same bits everywhere, and right in every kind of call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import normkit
import tolerances
from kernels.channel_norms import check_within
from kernels.row_norms import DTYPES, same_bits
from normkit import composite, reference
from normkit import functional as F
from normkit.kernels import cpu

pytestmark = pytest.mark.usefixtures("each_way_to_call")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# One position, fewer than a vector, around one, several tiles; one channel to more than a block of them.
SHAPES = (
    (1, 2, 1, 2),
    (3, 1, 3, 3),
    (2, 5, 3, 5),
    (2, 7, 4, 4),
    (3, 64, 1, 17),
    (2, 67, 7, 7),
    (2, 33, 9, 31),
    (1, 3, 211, 105),
    (2, 1100, 9, 9),
)


@dataclass
class Case:
    x: Tensor
    w: Tensor | None
    b: Tensor | None
    dy: Tensor
    eps: float = 1e-6

    def results(self) -> list[Tensor]:
        y, stats = cpu.layer_norm2d(self.x, self.w, self.b, self.eps, True)
        assert stats is not None
        dw, db = (torch.empty(self.x.shape[1], dtype=self.x.dtype if p is None else p.dtype) for p in (self.w, self.b))
        dx = cpu.layer_norm2d_backward(self.dy, self.x, stats, self.w, self.eps, need_dx=True, dw=dw, db=db)
        assert dx is not None
        return [y, dx, dw, db, stats]


def make(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    offset: float = 0.0,
    scale: float = 1.0,
    eps: float = 1e-6,
    affine: bool = True,
) -> Case:
    x = ((torch.randn(shape, dtype=torch.float64) + offset) * scale).to(dtype)
    w, b = (torch.randn(shape[1]).to(dtype) if affine else None for _ in range(2))
    return Case(x, w, b, torch.randn(shape).to(dtype), eps)


def check_against_reference(case: Case) -> None:
    shape, dtype = case.x.shape, case.x.dtype
    dy = case.dy.double().numpy()
    w, b = (np.full(shape[1], fill) if p is None else p.double().numpy() for p, fill in ((case.w, 1.0), (case.b, 0.0)))
    y, cache = reference.layer_norm2d(case.x.double().numpy(), w, b, case.eps)
    dx, dw, db = reference.layer_norm2d_backward(dy, cache)
    wide_w, wide_b = (np.broadcast_to(p[:, None, None], shape) for p in (w, b))
    x_hat, rstd = cache.x_hat, np.broadcast_to(cache.rstd, shape)
    positions = np.arange(shape[0] * shape[2] * shape[3]).reshape(shape[0], 1, *shape[2:])
    got_y, got_dx, got_dw, got_db, _ = case.results()
    check_within("y", got_y, y, tolerances.normalized(y, x_hat, wide_w, wide_b, dtype))
    mean_over = tolerances.MeanOver(np.broadcast_to(positions, shape))
    check_within("dx", got_dx, dx, tolerances.input_gradient(dx, dy * wide_w, x_hat, rstd, mean_over, dtype))
    for name, got, exact, terms in (
        ("dw", got_dw, dw, np.abs(dy) * (1 + np.abs(x_hat))),
        ("db", got_db, db, np.abs(dy)),
    ):
        check_within(name, got, exact, tolerances.parameter_gradient(exact, terms.sum((0, 2, 3)), dtype, got.dtype))


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_every_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check_against_reference(make(shape, dtype))
    check_against_reference(make(shape, dtype, affine=False))


@dtypes
@pytest.mark.parametrize("offset", [1.0, 1e2, 1e4, 1e6])
def test_every_offset(dtype: torch.dtype, offset: float) -> None:
    check_against_reference(make((2, 70, 6, 7), dtype, offset=offset, scale=0.03))  # float16 ends at 65504


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e37, 1e19, 1e-13, 1e-19, 1e-38, 1e-40])
@pytest.mark.parametrize("eps", [1e-6, 1e-30])
@pytest.mark.parametrize("positions", [(5, 7), (2, 3)], ids=str)
def test_any_finite_scale(dtype: torch.dtype, scale: float, eps: float, positions: tuple[int, int]) -> None:
    check_against_reference(make((2, 6, *positions), dtype, offset=1.0, scale=scale, eps=eps))


@dtypes
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3, 3e38, 1e-44])
def test_constant_positions_give_the_bias(dtype: torch.dtype, value: float) -> None:
    if value > torch.finfo(dtype).max:
        pytest.skip(f"{dtype} does not hold {value}")
    case = make((2, 67, 5, 5), dtype)
    case.x = torch.full_like(case.x, value)
    assert case.b is not None
    assert torch.equal(case.results()[0], case.b.view(-1, 1, 1).expand_as(case.x))


@pytest.mark.parametrize("value", [0.1, 0.55, 1.37])
def test_squares_that_are_all_alike(value: float) -> None:
    case = make((2, 2000, 5, 7))
    case.x = case.x.sign() * value
    case.dy = torch.full_like(case.dy, 0.1)
    check_against_reference(case)


@dtypes
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", [0, 17, 34])
def test_nan_and_inf_stay_at_their_position(dtype: torch.dtype, bad: float, column: int) -> None:
    case = make((2, 6, 1, 35), dtype)
    clean = case.results()
    case.x = case.x.clone()
    case.x[1, 2, 0, column] = bad
    dirty = case.results()
    inside = torch.zeros(2, 6, 1, 35, dtype=torch.bool)
    inside[1, :, :, column] = True
    for before, after in zip(clean[:2], dirty[:2], strict=True):
        assert same_bits(before[~inside], after[~inside])
        assert after[inside].isnan().all()
    assert same_bits(clean[3], dirty[3])


def test_every_number_of_threads_and_a_sample_alone() -> None:
    case = make((5, 40, 40, 50), torch.bfloat16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = case.results()
        for threads in (2, 3, 8, 16):
            torch.set_num_threads(threads)
            assert all(map(same_bits, case.results(), expected)), threads
    finally:
        torch.set_num_threads(before)
    alone = Case(case.x[3:4], case.w, case.b, case.dy[3:4], case.eps).results()
    assert same_bits(alone[0], expected[0][3:4])
    assert same_bits(alone[1], expected[1][3:4])


def _inputs() -> list[Tensor]:
    return [t.requires_grad_() for t in (torch.randn(2, 3, 4, 5).double(), *torch.randn(2, 3).double())]


def test_first_and_second_derivative_by_differences() -> None:
    assert gradcheck(F.layer_norm2d, _inputs())
    assert gradgradcheck(F.layer_norm2d, _inputs())


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_what_requires_a_gradient_gets_one(needed: tuple[int, ...]) -> None:
    inputs = [t.detach().requires_grad_(i in needed) for i, t in enumerate(_inputs())]
    dy = torch.randn(2, 3, 4, 5).double()
    wanted = [inputs[i] for i in needed]
    got = torch.autograd.grad(F.layer_norm2d(*inputs), wanted, dy)
    torch.testing.assert_close(got, torch.autograd.grad(composite.layer_norm2d(*inputs, 1e-6), wanted, dy))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:, :, ::2],
        lambda t: t[:1].expand(6, -1, -1, -1),
        lambda t: t.transpose(2, 3),
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t[:, :, :1, :1],
    ],
    ids=["strided", "expanded", "transposed", "channels_last", "one position"],
)
def test_input_and_gradient_in_any_strides(change: Callable[[Tensor], Tensor]) -> None:
    inputs = _inputs()
    results = []
    for function in (F.layer_norm2d, lambda *t: composite.layer_norm2d(*t, 1e-6)):
        torch.manual_seed(1)
        y = function(change(inputs[0]), *inputs[1:])
        results.append((y, *torch.autograd.grad(y, inputs, change(torch.randn(2, 3, 4, 5).double()))))
    torch.testing.assert_close(*results)


def test_operators_are_what_they_declare() -> None:
    x, w, b = (t.detach().float().requires_grad_() for t in _inputs())
    ops = torch.ops.normkit
    opcheck(ops.layer_norm2d.default, (x, w, b, 1e-6))
    opcheck(ops.layer_norm2d.default, (x.transpose(2, 3).detach(), None, None, 1e-6))
    x, w, b, dy = x.detach(), w.detach(), b.detach(), torch.randn(2, 3, 4, 5)
    _, stats = ops.layer_norm2d(x, w, b, 1e-6)
    for need in ((True, True, True), (False, True, False), (True, False, False)):
        opcheck(ops.layer_norm2d_backward.default, (dy, x, stats, w, b, 1e-6, *need))
    with pytest.raises(RuntimeError, match="expected weight of 3 elements, got 2"):
        ops.layer_norm2d(x, w[:2], b, 1e-6)
    with pytest.raises(RuntimeError, match="expected x of shape"):
        ops.layer_norm2d(w, w, b, 1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_layer_runs_the_kernel_in_one_graph(dynamic: bool) -> None:
    layer, x = normkit.nn.LayerNorm2d(6), torch.randn(2, 6, 4, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    dy = torch.randn_like(x)
    results = []
    for call in (compiled, layer):
        y = call(x)
        results.append((y, *torch.autograd.grad(y, [x, *layer.parameters()], dy)))
    torch.testing.assert_close(*results)


def test_under_vmap() -> None:
    x, w, b = torch.randn(3, 2, 6, 4, 5), torch.randn(6), torch.randn(6)
    got = torch.func.vmap(F.layer_norm2d, in_dims=(0, None, None))(x, w, b)
    torch.testing.assert_close(got, torch.stack([F.layer_norm2d(t, w, b) for t in x]))
