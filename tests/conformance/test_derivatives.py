"""Derivatives against finite differences, in every order and mode; and torch's own checks with random dy."""

import math

import pytest
import torch

from conformance import derivatives_page
from conformance.derivatives import MODES, POINTS, TOLERANCE, Mode, error, weights
from conformance.layers import CLASSES, PARITY_CASES, LayerCase, every_class, every_layer, outputs

# torch.func.jvp scripts a decomposition on its first call.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.name} order {mode.order}")


@every_mode
@every_class
def test_equals_the_finite_difference(case: LayerCase, mode: Mode, device: torch.device) -> None:
    assert error(case, mode, "normkit", device.type) <= TOLERANCE


def test_the_page_is_what_is_measured() -> None:
    page = derivatives_page.PAGE.read_text(encoding="utf-8")
    assert page == derivatives_page.render(), "run PYTHONPATH=tests python -m conformance.derivatives_page"


def test_finite_differences_are_exact_on_polynomials() -> None:
    """x**k has k! as its k-th derivative at 0, and 0 as every other, up to the degree of the interpolation."""
    for order in range(5):
        for degree in range(2 * POINTS + 1):
            powers = [float(i) ** degree for i in range(-POINTS, POINTS + 1)]
            got = math.fsum(w * x for w, x in zip(weights(order), powers, strict=True))
            expected = math.factorial(order) if degree == order else 0
            assert abs(got - expected) <= 1e-14 * math.fsum(
                abs(w * x) for w, x in zip(weights(order), powers, strict=True)
            )


def evaluated_double(case: LayerCase, device: torch.device) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    n = 3
    layer = case.build(n, torch.float64, device)
    inputs = [x.requires_grad_() for x in case.inputs(n, torch.float64, device)]
    return layer, inputs


@every_layer
def test_gradcheck_and_gradgradcheck(case: LayerCase, device: torch.device) -> None:
    """Every element of the input's and the parameters' Jacobian, and the double backward with a random dy."""
    layer, inputs = evaluated_double(case, device)
    parameters = list(layer.parameters())

    def f(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return outputs(
            torch.func.functional_call(layer, dict(zip(names, args[len(inputs) :], strict=True)), args[: len(inputs)])
        )

    names = [name for name, _ in layer.named_parameters()]
    arguments = (*inputs, *parameters)
    assert torch.autograd.gradcheck(f, arguments, check_forward_ad=True, check_batched_grad=True)
    dys = tuple(torch.randn_like(y).requires_grad_() for y in f(*arguments))
    assert torch.autograd.gradgradcheck(f, arguments, dys, check_fwd_over_rev=True, fast_mode=True)


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
MAP_CASES = [case for case in CLASSES if len(case.sized(3)[1]) in FORMATS]


@pytest.mark.parametrize("case", MAP_CASES, ids=str)
def test_second_derivatives_of_channels_last_input(case: LayerCase, device: torch.device) -> None:
    layer, (x,) = evaluated_double(case, device)
    values = []
    for memory_format in (torch.contiguous_format, FORMATS[x.dim()]):
        leaf = x.detach().contiguous(memory_format=memory_format).requires_grad_()
        torch.manual_seed(3)
        y = layer(leaf)
        (dx,) = torch.autograd.grad(
            y, leaf, torch.randn_like(y, memory_format=torch.contiguous_format), create_graph=True
        )
        values.append((dx, *torch.autograd.grad(dx.square().sum(), [leaf, *layer.parameters()], allow_unused=True)))
    for a, b in zip(*values, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", PARITY_CASES, ids=str)
def test_gradient_penalty_trains_as_the_definition_says(case: LayerCase, device: torch.device) -> None:
    """The loss of a WGAN-GP: float32 parameters receive the gradient of a gradient's norm."""
    layer = case.build(device=device)
    exact = case.build(device=device).double()
    exact.load_state_dict(layer.state_dict())
    (x,) = case.inputs(device=device)
    dy = torch.randn_like(x)
    got = []
    for module, dtype in ((layer, torch.float32), (exact, torch.float64)):
        leaf = x.to(dtype).requires_grad_()
        (dx,) = torch.autograd.grad(module(leaf), leaf, dy.to(dtype), create_graph=True)
        got.append(torch.autograd.grad((dx.flatten(1).norm(dim=1) - 1).square().sum(), module.weight)[0])
    torch.testing.assert_close(got[0].double(), got[1], rtol=1e-4, atol=1e-4 * got[1].abs().max().item())
