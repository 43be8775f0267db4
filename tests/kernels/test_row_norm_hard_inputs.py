"""Constant rows, the ends of the float range, NaN and Inf, and rows or columns that are not there."""

import math

import pytest
import torch

from kernels.row_norms import DTYPES, NORMS, RowCase, check_against_reference, row_case, same_bits
from normkit.kernels import cpu

norms = pytest.mark.parametrize("norm", NORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("width", [1, 3, 16, 100, 768, 5000])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1000.3, 1e-30, 1e30, 3e38, 1e-44])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_a_constant_row_gives_the_bias(dtype: torch.dtype, width: int, value: float, eps: float) -> None:
    if value > torch.finfo(dtype).max:
        pytest.skip(f"{dtype} does not hold {value}")
    case = row_case("layer_norm", 2, width, dtype, eps=eps)
    case.x = torch.full_like(case.x, value)
    y, _ = case.forward()
    assert case.b is not None
    assert torch.equal(y, case.b.expand_as(y))


@norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e30, 1e37, 1e19, 1e-19, 1e-30, 1e-38, 1e-40])
@pytest.mark.parametrize("eps", [1e-5, 1e-30])
def test_any_finite_scale(norm: cpu.Norm, dtype: torch.dtype, scale: float, eps: float) -> None:
    check_against_reference(row_case(norm, 7, 100, dtype, offset=1.0, scale=scale, eps=eps))


@norms
def test_the_largest_numbers(norm: cpu.Norm) -> None:
    case = row_case(norm, 1, 64, torch.float32)
    case.x = torch.full((1, 64), 3.4e38)
    case.x[0, ::2] = -3.4e38
    case.w = torch.ones(64)
    y, _ = case.forward()
    bias = 0.0 if case.b is None else case.b
    torch.testing.assert_close(y - bias, case.x.sign(), rtol=1e-6, atol=0)


@norms
@dtypes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [5, 16, 37, 800])
def test_nan_and_inf_stay_in_their_row(norm: cpu.Norm, dtype: torch.dtype, bad: float, width: int) -> None:
    clean = row_case(norm, 9, width, dtype)
    dirty = RowCase(norm, clean.x.clone(), clean.w, clean.b, clean.dy)
    dirty.x[4, width // 2] = bad
    (y0, s0), (y1, s1) = clean.forward(), dirty.forward()
    dx0, dx1 = clean.backward(s0)[0], dirty.backward(s1)[0]
    others = [i for i in range(9) if i != 4]
    assert same_bits(y0[others], y1[others])
    assert same_bits(dx0[others], dx1[others])
    assert y1[4, width // 2].isnan()
    if norm == "layer_norm" or math.isnan(bad):
        assert y1[4].isnan().all()
        assert dx1[4].isnan().all()


@norms
def test_a_nan_weight_reaches_its_column_alone(norm: cpu.Norm) -> None:
    case = row_case(norm, 3, 20, torch.bfloat16, parameters=torch.float32)
    assert case.w is not None
    case.w.view(torch.int32)[7] = -1  # a NaN with every bit set
    y, _ = case.forward()
    assert y[:, 7].isnan().all()
    assert y.isnan().sum() == 3


@norms
@pytest.mark.usefixtures("poisoned_memory")
def test_no_rows(norm: cpu.Norm) -> None:
    case = row_case(norm, 0, 20, torch.float32)
    y, stats = case.forward()
    dx, dw, db = case.backward(stats)
    assert y.shape == dx.shape == (0, 20)
    assert dw is not None
    assert torch.equal(dw, torch.zeros(20))
    assert db is None or torch.equal(db, torch.zeros(20))


@norms
def test_no_columns(norm: cpu.Norm) -> None:
    case = row_case(norm, 5, 0, torch.float32)
    y, stats = case.forward()
    assert y.shape == case.backward(stats)[0].shape == (5, 0)
