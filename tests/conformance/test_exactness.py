"""Outputs and gradients in the dtype that is computed in, against the reference in float64."""

import pytest
import torch

from conformance.layers import CASES, LayerCase, every_layer, outputs
from conformance.oracle import exact

OFFSETS = (0.0, 3.0, 30.0, 1e2, 1e4, 1e6)
# Around powers of two, where vectors and blocks end; the long ones cross a block of 2048 and of 4096.
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257, 1000, 2049, 4097)


def check_against_reference(case: LayerCase, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """y, dx, dw and db for a random dy."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    ys = outputs(layer(*inputs))
    dys = tuple(torch.randn(y.shape, dtype=torch.float64).to(y) for y in ys)
    oracle = exact(case, layer, inputs, dys)
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(ys, [*inputs, *parameters.values()], dys)
    for i, (y, expected) in enumerate(zip(ys, oracle.ys, strict=True)):
        assert y.dtype == inputs[0].dtype
        expected.check(y, f"output {i}")
    for i, expected in enumerate(oracle.dxs):
        assert gradients[i].dtype == inputs[0].dtype
        expected.check(gradients[i], f"gradient of input {i}")
    of_parameter = dict(zip(parameters, gradients[len(inputs) :], strict=True))
    assert of_parameter.keys() == {name for name, _ in oracle.parameters}
    for name, expected in oracle.parameters:
        expected.check(of_parameter[name], f"gradient of {name}")


@pytest.mark.parametrize("offset", OFFSETS, ids="offset {:g}".format)
@every_layer
def test_float32_at_any_offset(case: LayerCase, offset: float, device: torch.device) -> None:
    layer = case.build(97, device=device)
    check_against_reference(case, layer, case.inputs(97, device=device, offset=offset))


@pytest.mark.parametrize("offset", OFFSETS, ids="offset {:g}".format)
@every_layer
def test_float64_at_any_offset(case: LayerCase, offset: float, device: torch.device) -> None:
    layer = case.build(33, torch.float64, device)
    check_against_reference(case, layer, case.inputs(33, torch.float64, device, offset=offset))


@pytest.mark.parametrize("n", WIDTHS)
@every_layer
def test_any_width(case: LayerCase, n: int, device: torch.device) -> None:
    layer = case.build(n, device=device)
    check_against_reference(case, layer, case.inputs(n, device=device, offset=10.0))


@every_layer
def test_without_parameters(case: LayerCase, device: torch.device) -> None:
    option = "elementwise_affine" if hasattr(case.build(), "elementwise_affine") else "affine"
    layer = case.build(33, device=device, **{option: False})
    assert not list(layer.parameters())
    check_against_reference(case, layer, case.inputs(33, device=device, offset=100.0))


@every_layer
def test_every_accepted_rank(case: LayerCase, device: torch.device) -> None:
    layer = case.build(device=device)
    for shape in case.shapes:
        check_against_reference(case, layer, case.inputs(device=device, shape=shape))


# (scale of x, eps): subnormal and largest numbers, whose squares leave float32's range, each with an eps far
# above, near, and far below x²; and eps below float32's smallest normal number.
SCALES = (
    *((1e-42, eps) for eps in (1e-5, 1e-45)),
    *((1e-38, eps) for eps in (1e-12, 1e-60)),
    *((1e-30, eps) for eps in (1e-5, 1e-30, 1e-60)),
    *((1e-22, eps) for eps in (1e-30, 1e-43, 1e-45)),
    *((1e-3, eps) for eps in (1e-5, 0.5, 1e30)),
    *((1e10, eps) for eps in (1e-5, 1e20)),
    *((1e30, eps) for eps in (1e-5, 1e-45, 1e38)),
    *((6e37, eps) for eps in (1e-5, 1e-60)),
)


@pytest.mark.parametrize(("scale", "eps"), SCALES, ids="{:g}".format)
@pytest.mark.parametrize("case", [case for case in CASES if case.training], ids=str)
def test_any_scale_and_any_eps(case: LayerCase, scale: float, eps: float, device: torch.device) -> None:
    layer = case.build(17, device=device, eps=eps)
    check_against_reference(case, layer, case.inputs(17, device=device, scale=scale))


@pytest.mark.parametrize(
    ("dtype", "exponent"), [(torch.float32, 100), (torch.float32, -50), (torch.float64, 900), (torch.float64, -400)]
)
@pytest.mark.parametrize("case", [case for case in CASES if case.training], ids=str)
def test_scale_does_not_matter_beside_a_vanishing_eps(
    case: LayerCase, dtype: torch.dtype, exponent: int, device: torch.device
) -> None:
    """Beside an eps that vanishes, the scale of x does not matter: far beyond the range of its squares, too."""
    layer = case.build(17, dtype, device, eps=1e-38 if dtype == torch.float32 else 1e-300)
    inputs = case.inputs(17, dtype, device, offset=3.0)
    expected = outputs(layer(*inputs))[0]
    y = outputs(layer(*(x * 2.0**exponent for x in inputs)))[0]
    few_ulp = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=few_ulp, atol=4 * few_ulp)


@every_layer
def test_an_outlier_beside_many_small_values(case: LayerCase, device: torch.device) -> None:
    layer = case.build(257, device=device)
    inputs = case.inputs(257, device=device)
    inputs[0].view(-1)[::97] *= 1e6
    check_against_reference(case, layer, inputs)


@every_layer
def test_tiny_variance_at_an_offset(case: LayerCase, device: torch.device) -> None:
    """Neighbouring numbers at 1000: the deviations are a few ulp of the input, and exact."""
    layer = case.build(65, device=device)
    check_against_reference(case, layer, case.inputs(65, device=device, offset=1000.0, scale=1e-4))


@pytest.mark.usefixtures("poisoned_memory")
@every_layer
def test_reads_no_memory_before_writing_it(case: LayerCase, device: torch.device) -> None:
    for n in (6, 33):
        check_against_reference(case, case.build(n, device=device), case.inputs(n, device=device))
