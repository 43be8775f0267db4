"""The kernels of LayerNorm and RMSNorm against the float64 reference, within derived bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.row_norms import DTYPES, NORMS, WIDTHS, check_against_reference, row_case
from normkit.kernels import cpu

norms = pytest.mark.parametrize("norm", NORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@norms
@dtypes
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.usefixtures("poisoned_memory")
def test_every_width(norm: cpu.Norm, dtype: torch.dtype, width: int) -> None:
    check_against_reference(row_case(norm, 5, width, dtype))


@dtypes
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_offset(dtype: torch.dtype, offset: float, scale: float) -> None:
    if dtype == torch.float16 and offset * scale > 6e4:
        pytest.skip("float16 ends at 65504")
    check_against_reference(row_case("layer_norm", 6, 771, dtype, offset=offset, scale=scale))


@norms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_beside_16_bit_input(norm: cpu.Norm, dtype: torch.dtype) -> None:
    check_against_reference(row_case(norm, 33, 100, dtype, parameters=torch.float32))


@norms
def test_16_bit_parameters_beside_float32_input(norm: cpu.Norm) -> None:
    check_against_reference(row_case(norm, 33, 2050, torch.float32, parameters=torch.bfloat16))


@norms
@dtypes
def test_without_parameters(norm: cpu.Norm, dtype: torch.dtype) -> None:
    check_against_reference(row_case(norm, 9, 100, dtype, affine=False))


def test_bias_without_weight_and_weight_without_bias() -> None:
    for missing in ("w", "b"):
        case = row_case("layer_norm", 9, 50, torch.float32)
        setattr(case, missing, None)
        check_against_reference(case)


@norms
@dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 31, 32, 33, 63, 64, 65, 257])
def test_every_number_of_rows(norm: cpu.Norm, dtype: torch.dtype, n_rows: int) -> None:
    check_against_reference(row_case(norm, n_rows, 19, dtype))


@norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameter_gradients_over_65536_rows(norm: cpu.Norm, dtype: torch.dtype) -> None:
    check_against_reference(row_case(norm, 65536, 17, dtype, offset=0.5))


def test_parameter_gradients_of_equal_terms() -> None:
    """Rounding errors of equal terms all have one sign: the case where long chains of additions fail."""
    case = row_case("layer_norm", 20000, 16, torch.float32)
    case.x = case.x[:1].expand(20000, 16).contiguous()
    case.dy = torch.full_like(case.dy, 0.1)
    check_against_reference(case)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(NORMS),
    st.sampled_from(DTYPES),
    st.integers(1, 40),
    st.integers(1, 200),
    st.sampled_from([0.0, 3.0, 1e3]),
    st.sampled_from([1e-20, 1e-4, 1.0, 1e4]),
    st.sampled_from([0.0, 1e-12, 1e-5, 1.0]),
)
def test_anything(
    norm: cpu.Norm, dtype: torch.dtype, n_rows: int, n_cols: int, offset: float, scale: float, eps: float
) -> None:
    if norm == "layer_norm" and (n_cols == 1 or eps == 0.0):
        n_cols, eps = n_cols + 1, max(eps, 1e-30)  # a constant row has no x_hat without eps
    if dtype == torch.float16:
        scale = np.clip(scale, 1e-3, 1.0)
    check_against_reference(row_case(norm, n_rows, n_cols, dtype, offset=offset, scale=scale, eps=max(eps, 1e-30)))
