"""16-bit input: computed in float32 and rounded once, sums over the batch accumulated in float32."""

import pytest
import torch

from conformance.layers import LayerCase, every_layer, outputs
from conformance.oracle import exact
from conformance.test_exactness import check_against_reference

LOW_PRECISION = (torch.bfloat16, torch.float16)
every_16_bit_dtype = pytest.mark.parametrize("dtype", LOW_PRECISION, ids=lambda d: str(d).removeprefix("torch."))


@pytest.mark.parametrize("offset", [0.0, 3.0, 256.0], ids="offset {:g}".format)
@every_16_bit_dtype
@every_layer
def test_rounded_once(case: LayerCase, dtype: torch.dtype, offset: float, device: torch.device) -> None:
    layer = case.build(193, dtype, device)
    check_against_reference(case, layer, case.inputs(193, dtype, device, offset=offset))


@every_16_bit_dtype
@every_layer
def test_float32_parameters_beside_16_bit_input(case: LayerCase, dtype: torch.dtype, device: torch.device) -> None:
    layer = case.build(65, torch.float32, device)
    check_against_reference(case, layer, case.inputs(65, dtype, device, offset=3.0))
    assert all(p.dtype == torch.float32 for p in layer.parameters())


@every_16_bit_dtype
@every_layer
def test_without_parameters(case: LayerCase, dtype: torch.dtype, device: torch.device) -> None:
    option = "elementwise_affine" if hasattr(case.build(), "elementwise_affine") else "affine"
    layer = case.build(65, dtype, device, **{option: False})
    check_against_reference(case, layer, case.inputs(65, dtype, device, offset=3.0))


@every_layer
def test_the_largest_float16_numbers(case: LayerCase, device: torch.device) -> None:
    """Sums and squares of numbers near 65504 need float32's range."""
    layer = case.build(33, torch.float16, device)
    if not case.training:  # else the exact result exceeds float16
        layer.running_var.fill_(1e8)
    sign = torch.randint(0, 2, case.sized(33)[1]).mul(2).sub(1)
    x = (sign * (60000 + 5000 * torch.rand(sign.shape))).to(device, torch.float16)
    check_against_reference(case, layer, (x, torch.zeros_like(x)) if case.adds_residual else (x,))


def many_rows(case: LayerCase) -> tuple[int, ...]:
    """An input shape in which every weight meets 65,536 elements: where 16-bit or chained sums give way."""
    n_parameters = case.build(4).weight.numel()
    shape = list(case.sized(4)[1])
    parameter_axes = case.norm.parameters(tuple(shape))
    samples_axis = 0
    elements = parameter_axes.size // n_parameters
    shape[samples_axis] *= 65536 // elements
    return tuple(shape)


@every_layer
def test_parameter_gradients_over_65536_bfloat16_rows(case: LayerCase, device: torch.device) -> None:
    layer = case.build(4, torch.bfloat16, device)
    inputs = case.inputs(4, torch.bfloat16, device, shape=many_rows(case))
    y = outputs(layer(*inputs))
    # A mean beside the noise, so that the sums grow with the number of rows.
    dys = tuple((torch.randn(t.shape) + 1).to(t) for t in y)
    oracle = exact(case, layer, inputs, dys)
    gradients = torch.autograd.grad(y[:1], list(layer.parameters()), dys[:1])
    names = [name for name, _ in layer.named_parameters()]
    assert names == [name for name, _ in oracle.parameters]
    for got, (name, expected) in zip(gradients, oracle.parameters, strict=True):
        assert got.dtype == torch.bfloat16
        expected.check(got, f"gradient of {name}")
