"""The kernels of BatchNorm, GroupNorm and InstanceNorm against the float64 reference, within derived bounds."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kernels.channel_norms import SHAPES, channel_case, check_against_reference, groupings, in_channels_last
from kernels.row_norms import DTYPES

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
CASES = [(shape, g) for shape in SHAPES for g in groupings(shape)]


@dtypes
@layouts
@pytest.mark.parametrize(("shape", "n_groups"), CASES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_every_shape(dtype: torch.dtype, channels_last: bool, shape: tuple[int, ...], n_groups: int) -> None:
    check_against_reference(channel_case(shape, n_groups, dtype, channels_last=channels_last))


@dtypes
@layouts
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_given_statistics(dtype: torch.dtype, channels_last: bool, shape: tuple[int, ...]) -> None:
    check_against_reference(channel_case(shape, 0, dtype, channels_last=channels_last, given=True))


@dtypes
@layouts
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("n_groups", [0, 2, 6])
def test_every_offset(dtype: torch.dtype, channels_last: bool, offset: float, n_groups: int) -> None:
    shape, scale = (5, 6, 13, 11), 0.03  # float16 ends at 65504
    check_against_reference(
        channel_case(shape, n_groups, dtype, channels_last=channels_last, offset=offset, scale=scale)
    )


@layouts
@pytest.mark.parametrize("n_groups", [0, 3])
@pytest.mark.parametrize("x", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, None], ids=str)
def test_parameters_of_another_dtype_or_none(
    channels_last: bool, n_groups: int, x: torch.dtype, parameters: torch.dtype | None
) -> None:
    case = channel_case(
        (4, 6, 5, 5), n_groups, x, channels_last=channels_last, parameters=parameters, affine=parameters is not None
    )
    check_against_reference(case)


@layouts
@pytest.mark.parametrize("n_groups", [0, 2])
@pytest.mark.parametrize("missing", ["w", "b"])
def test_bias_without_weight_and_weight_without_bias(channels_last: bool, n_groups: int, missing: str) -> None:
    case = channel_case((3, 4, 9, 2), n_groups, channels_last=channels_last)
    setattr(case, missing, None)
    check_against_reference(case)


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_over_a_million_values(channels_last: bool, dtype: torch.dtype) -> None:
    check_against_reference(channel_case((64, 2, 128, 65), 0, dtype, channels_last=channels_last, offset=0.5))


@layouts
@pytest.mark.parametrize("n_groups", [0, 1])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.55, 1.37])
def test_squares_that_are_all_alike(channels_last: bool, n_groups: int, value: float) -> None:
    """Rounding errors of equal terms all have one sign: the case where long chains of additions fail."""
    case = channel_case((16, 2, 40, 40), n_groups, channels_last=channels_last)
    case.x = case.x.sign() * value
    case.dy = torch.full_like(case.dy, 0.1)
    check_against_reference(case)


@layouts
@pytest.mark.parametrize("n_groups", [0, 1, 4])
@pytest.mark.parametrize("outlier", [1e4, -1e8])
def test_a_sample_that_misleads(channels_last: bool, n_groups: int, outlier: float) -> None:
    """The first guess of the mean comes from a few values; whatever they are, the statistics are right."""
    case = channel_case((4, 4, 20, 20), n_groups, channels_last=channels_last)
    case.x[0] = outlier
    case.x[:, :, :3] = 0.0
    check_against_reference(case)
    case.x = in_channels_last(torch.cat([case.x.new_full((40, 4, 20, 20), 5.0), case.x])) if channels_last else case.x
    case.dy = torch.randn_like(case.x)
    check_against_reference(case)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(1, 6),
    st.integers(1, 40),
    st.lists(st.integers(1, 20), max_size=3),
    st.integers(0, 6),
    st.sampled_from([0.0, 3.0, 1e3]),
    st.sampled_from([1e-20, 1e-4, 1.0, 1e4]),
    st.sampled_from([1e-30, 1e-12, 1e-5, 1.0]),
)
def test_anything(
    dtype: torch.dtype,
    channels_last: bool,
    n: int,
    c: int,
    positions: list[int],
    grouping: int,
    offset: float,
    scale: float,
    eps: float,
) -> None:
    shape = (n, c, *positions)
    choices = groupings(shape)
    assume(choices)
    if dtype == torch.float16:
        scale = min(max(scale, 1e-3), 1.0)
    n_groups = choices[grouping % len(choices)]
    check_against_reference(
        channel_case(shape, n_groups, dtype, channels_last=channels_last, offset=offset, scale=scale, eps=eps)
    )
