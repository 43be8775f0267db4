"""Constant slabs, the ends of the float range, NaN and Inf, and statistics of extreme size."""

import math

import pytest
import torch
from torch import Tensor

from kernels.channel_norms import ChannelCase, channel_case, check_against_reference
from kernels.row_norms import DTYPES, same_bits

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
groupings = pytest.mark.parametrize("n_groups", [0, 2, 6])
SHAPE = (3, 6, 7, 11)


@layouts
@groupings
@dtypes
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1000.3, 1e-30, 1e30, 3e38, 1e-44])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_constant_slabs_give_the_bias(
    channels_last: bool, n_groups: int, dtype: torch.dtype, value: float, eps: float
) -> None:
    if value > torch.finfo(dtype).max:
        pytest.skip(f"{dtype} does not hold {value}")
    case = channel_case(SHAPE, n_groups, dtype, channels_last=channels_last, eps=eps)
    case.x = torch.full_like(case.x, value)
    y, _ = case.forward()
    assert case.b is not None
    assert torch.equal(y, case.b.view(-1, 1, 1).expand_as(y))


@layouts
@groupings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e30, 1e37, 1e19, 1e13, 1e-13, 1e-19, 1e-30, 1e-38, 1e-40])
@pytest.mark.parametrize("eps", [1e-5, 1e-30])
def test_any_finite_scale(channels_last: bool, n_groups: int, dtype: torch.dtype, scale: float, eps: float) -> None:
    check_against_reference(
        channel_case(SHAPE, n_groups, dtype, channels_last=channels_last, offset=1.0, scale=scale, eps=eps)
    )


@layouts
@groupings
@pytest.mark.parametrize("exponent", [900, 480, -450])
def test_float64_far_beyond_the_range_of_its_squares(channels_last: bool, n_groups: int, exponent: int) -> None:
    case = channel_case(SHAPE, n_groups, torch.float64, channels_last=channels_last, offset=1.0, eps=1e-300)
    y, _ = case.forward()
    case.x = case.x * 2.0**exponent
    torch.testing.assert_close(case.forward()[0], y, rtol=1e-11, atol=1e-12)


@layouts
@pytest.mark.parametrize("var", [1e-30, 1e30, 0.0])
def test_given_statistics_of_any_size(channels_last: bool, var: float) -> None:
    case = channel_case(SHAPE, 0, channels_last=channels_last, given=True, eps=1e-30)
    assert case.given is not None
    case.given[1][::2] = var
    check_against_reference(case)


def _changed(case: ChannelCase, index: tuple[int, ...], value: float) -> ChannelCase:
    x = case.x.clone()
    x[index] = value
    return ChannelCase(x, case.n_groups, case.w, case.b, case.dy)


@layouts
@groupings
@dtypes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_stay_in_their_slab(channels_last: bool, n_groups: int, dtype: torch.dtype, bad: float) -> None:
    clean = channel_case(SHAPE, n_groups, dtype, channels_last=channels_last)
    dirty = _changed(clean, (1, 2, 3, 4), bad)
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[slice(None) if n_groups == 0 else 1, {0: slice(2, 3), 2: slice(0, 3), 6: slice(2, 3)}[n_groups]] = True
    (y0, s0), (y1, s1) = clean.forward(), dirty.forward()
    (dx0, dw0, db0), (dx1, dw1, db1) = clean.backward(s0), dirty.backward(s1)
    for before, after in ((y0, y1), (dx0, dx1)):
        assert same_bits(before[~inside], after[~inside])
        assert after[inside].isnan().all()
    others = ~inside.any(0).any(-1).any(-1)
    assert same_bits(_of(dw0)[others], _of(dw1)[others])
    assert same_bits(_of(db0), _of(db1))


def _of(t: Tensor | None) -> Tensor:
    assert t is not None
    return t


@layouts
def test_a_nan_weight_reaches_its_channel_alone(channels_last: bool) -> None:
    case = channel_case(SHAPE, 0, channels_last=channels_last)
    _of(case.w)[3] = math.nan
    y, _ = case.forward()
    assert y[:, 3].isnan().all()
    assert y.isnan().sum() == y[:, 3].numel()
