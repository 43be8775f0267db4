"""Input that norms are known to get wrong: constant, single, empty, strided; and gradients asked for in part."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from conformance.layers import CASES, LayerCase, every_layer, outputs
from conformance.layouts import LAYOUTS, contiguous
from conformance.norms import BatchNorm, RMSNorm, Rows
from conformance.test_exactness import check_against_reference

TRAINED = pytest.mark.parametrize("case", [case for case in CASES if case.training], ids=str)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


@every_layout
@every_layer
def test_every_memory_layout(case: LayerCase, layout: Callable[[Tensor], Tensor], device: torch.device) -> None:
    layer = case.build(device=device)
    for shape in (case.shapes[0], case.sized(6)[1]):
        inputs = tuple(layout(x) for x in case.inputs(device=device, offset=10.0, shape=shape))
        check_against_reference(case, layer, inputs)


@every_layout
@every_layer
def test_gradient_in_every_memory_layout(
    case: LayerCase, layout: Callable[[Tensor], Tensor], device: torch.device
) -> None:
    layer = case.build(device=device)
    inputs = tuple(x.requires_grad_() for x in case.inputs(device=device))
    wanted = [*inputs, *layer.parameters()]
    ys = outputs(layer(*inputs))
    dys = [layout(torch.randn_like(y)) for y in ys]
    expected = torch.autograd.grad(ys, wanted, [contiguous(dy) for dy in dys], retain_graph=True)
    got = torch.autograd.grad(ys, wanted, dys)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


CENTRING = pytest.mark.parametrize(
    "case", [case for case in CASES if case.training and not isinstance(case.norm, RMSNorm)], ids=str
)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 3.33e6, 1e30, 3.4e38, 1e-42], ids="{:g}".format)
@pytest.mark.parametrize("eps", [1e-5, 1e-60], ids="eps {:g}".format)
@CENTRING
def test_constant_input_gives_exactly_the_bias(case: LayerCase, eps: float, value: float, device: torch.device) -> None:
    layer = case.build(37, device=device, eps=eps)
    x = torch.full(case.sized(37)[1], value, device=device)
    y = outputs(layer(x, torch.zeros_like(x)) if case.adds_residual else layer(x))[0]
    bias = layer.bias.detach().cpu().numpy().ravel()[case.norm.parameters(tuple(x.shape))]
    np.testing.assert_array_equal(y.detach().cpu().numpy(), bias)


@pytest.mark.parametrize("value", [7.3, 3.33e6, 1e30], ids="{:g}".format)
@TRAINED
def test_one_constant_slice_among_others(case: LayerCase, value: float, device: torch.device) -> None:
    """The rest is normalized as if it were alone, and the constant slice has the gradient of the formula."""
    layer = case.build(9, device=device)
    inputs = case.inputs(9, device=device)
    slices = torch.from_numpy(case.norm.slices(tuple(inputs[0].shape)).copy()).to(device)
    inputs[0][slices == 1] = value
    if case.adds_residual:
        inputs[1][slices == 1] = 0.0
    check_against_reference(case, layer, inputs)


NAN_OR_INF = pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)


@NAN_OR_INF
@every_layer
def test_nan_and_inf_stay_in_their_slice(case: LayerCase, bad: float, device: torch.device) -> None:
    """Every element that shares no statistic with the bad one keeps its value and gradient, bit for bit."""
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    slices = torch.from_numpy(case.norm.slices(tuple(inputs[0].shape)).copy()).to(device)
    chosen = slices.max() // 2
    elsewhere = slices != chosen
    dy = torch.randn_like(inputs[0])

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = outputs(layer(x, *inputs[1:]))[0]
        return y.detach(), torch.autograd.grad(y, x, dy)[0]

    y, dx = run(inputs[0])
    spoiled = inputs[0].clone()
    spoiled.view(-1)[(slices.flatten() == chosen).nonzero()[0]] = bad
    bad_y, bad_dx = run(spoiled)
    assert elsewhere.any()
    assert not bad_y.isfinite().all()
    assert torch.equal(bad_y[elsewhere], y[elsewhere])
    assert torch.equal(bad_dx[elsewhere], dx[elsewhere])
    # The one exception is the formula's: an infinite rms makes 0 of the finite elements beside it.
    if case.training and not (isinstance(case.norm, RMSNorm) and math.isinf(bad)):
        assert bad_y[~elsewhere].isnan().all()


@NAN_OR_INF
@every_layer
def test_nan_and_inf_in_dy_stay_in_their_slice(case: LayerCase, bad: float, device: torch.device) -> None:
    layer = case.build(device=device)
    x, *rest = case.inputs(device=device)
    x.requires_grad_()
    y = outputs(layer(x, *rest))[0]
    dy = torch.randn_like(y)
    slices = torch.from_numpy(case.norm.slices(tuple(x.shape)).copy()).to(device)
    elsewhere = slices != slices.max() // 2
    (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
    dy.view(-1)[(~elsewhere).flatten().nonzero()[0]] = bad
    (bad_dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(bad_dx[elsewhere], dx[elsewhere])
    assert not bad_dx[~elsewhere].isfinite().any()


def empty_shapes(case: LayerCase) -> list[tuple[int, ...]]:
    """The usual shapes without samples; and without positions, where there are any beside the channels."""
    if isinstance(case.norm, Rows):
        return [(0, *shape[1:]) for shape in case.shapes if len(shape) > case.norm.n_axes]
    no_samples = [(0, *shape[1:]) for shape in case.shapes]
    return no_samples + [(*shape[:-1], 0) for shape in case.shapes if len(shape) > 2]


@every_layer
def test_empty_input(case: LayerCase, device: torch.device) -> None:
    """Empty output, empty gradient, zero parameter gradients, statistics as they were."""
    layer = case.build(device=device)
    before = {name: b.clone() for name, b in layer.named_buffers() if name != "num_batches_tracked"}
    for shape in empty_shapes(case):
        inputs = tuple(x.requires_grad_() for x in case.inputs(device=device, shape=shape))
        y = outputs(layer(*inputs))[0]
        assert y.shape == shape
        wanted = [*inputs, *layer.parameters()]
        gradients = torch.autograd.grad(y, wanted, torch.ones_like(y))
        assert [g.shape for g in gradients] == [w.shape for w in wanted]
        assert all(not g.any() for g in gradients)
    for name, value in before.items():
        assert torch.equal(getattr(layer, name), value)


ALONE = [(case, name) for case in CASES for name in ("input", *dict(case.build().named_parameters()))]


@pytest.mark.parametrize(("case", "wanted"), ALONE, ids=str)
def test_gradient_of_one_thing_alone(case: LayerCase, wanted: str, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    reference_inputs = tuple(x.clone().requires_grad_() for x in inputs)
    y = outputs(layer(*reference_inputs))[0]
    dy = torch.randn_like(y)
    target = reference_inputs[0] if wanted == "input" else getattr(layer, wanted)
    (expected,) = torch.autograd.grad(y, target, dy)

    layer.requires_grad_(False)
    target = inputs[0] if wanted == "input" else getattr(layer, wanted)
    target.requires_grad_()
    alone = outputs(layer(*inputs))[0]
    assert torch.equal(alone, y)
    (got,) = torch.autograd.grad(alone, target, dy)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@every_layer
def test_without_grad_gives_the_same_bits(case: LayerCase, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    trained = outputs(layer(*(x.requires_grad_() for x in inputs)))[0]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = outputs(layer(*inputs))[0]
        assert not y.requires_grad
        assert torch.equal(y, trained.detach())


@every_layer
def test_input_and_dy_are_not_written_to(case: LayerCase, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = tuple(x.requires_grad_() for x in case.inputs(device=device))
    copies = [x.detach().clone() for x in inputs]
    y = outputs(layer(*inputs))[0]
    dy = torch.randn_like(y)
    copy_of_dy = dy.clone()
    y.backward(dy)
    assert torch.equal(dy, copy_of_dy)
    assert all(torch.equal(x.detach(), c) for x, c in zip(inputs, copies, strict=True))
    assert y.untyped_storage().data_ptr() != inputs[0].untyped_storage().data_ptr()


@every_layer
def test_output_may_be_changed_in_place(case: LayerCase, device: torch.device) -> None:
    """As after torch's layers: relu_ on the output does not disturb the gradient."""
    layer = case.build(device=device)
    x, *rest = case.inputs(device=device)
    x.requires_grad_()
    dy = torch.randn_like(x)
    (expected,) = torch.autograd.grad(torch.relu(outputs(layer(x, *rest))[0]), x, dy)
    (got,) = torch.autograd.grad(torch.relu_(outputs(layer(x, *rest))[0]), x, dy)
    assert torch.equal(got, expected)


INDEPENDENT = [case for case in CASES if not isinstance(case.norm, BatchNorm)]


@pytest.mark.parametrize("case", INDEPENDENT, ids=str)
def test_a_row_does_not_depend_on_its_batch(case: LayerCase, device: torch.device) -> None:
    """Where samples share no statistic, each one's output is the same bits alone and in any batch."""
    layer = case.build(33, device=device)
    inputs = case.inputs(33, device=device, shape=(7, *case.sized(33)[1][1:]))
    whole = outputs(layer(*inputs))[0]
    for i in range(7):
        one = outputs(layer(*(x[i : i + 1] for x in inputs)))[0]
        assert torch.equal(one[0], whole[i])
