"""The layers inside what people put around them: autocast, checkpoints, fake tensors, nested tensors, wrappers."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from conformance.layers import CASES, CLASSES, LayerCase, every_class, every_layer, every_parity_layer, outputs
from normkit import nn

LOW_PRECISION = (torch.bfloat16, torch.float16)
BATCHED_ROWS = [case for case in CASES if case.layer in (nn.LayerNorm, nn.RMSNorm) and case.name.endswith("Norm")]


@pytest.mark.parametrize("autocast_dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("input_dtype", [torch.float32, *LOW_PRECISION], ids=str)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's RMSNorm, of itself
@every_parity_layer
def test_autocast(case: LayerCase, input_dtype: torch.dtype, autocast_dtype: torch.dtype, device: torch.device) -> None:
    """float32 parameters, and the output dtype, values and gradients that torch's layer has there."""
    ours = case.build(device=device)
    theirs = case.build_torch(ours)
    (x,) = case.inputs(device=device, dtype=input_dtype)
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        with torch.autocast(device.type, dtype=autocast_dtype):
            y = layer(leaf)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), [leaf, *layer.parameters()])))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got.float(), expected.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@every_layer
def test_activation_checkpoint(case: LayerCase, use_reentrant: bool, device: torch.device) -> None:
    """Outputs and gradients of the recomputed layer are those of the layer, to the bit."""
    layer = case.build(device=device)
    plain = copy.deepcopy(layer)
    inputs = case.inputs(device=device, offset=2.0)
    results = []
    for module, call in ((plain, plain), (layer, lambda *xs: checkpoint(layer, *xs, use_reentrant=use_reentrant))):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        ys = outputs(call(*leaves))
        torch.autograd.backward(ys, [torch.full_like(y, 0.5) * (i + 1) + y.detach() for i, y in enumerate(ys)])
        results.append([*ys, *(x.grad for x in leaves), *(p.grad for p in module.parameters())])
    for got, expected in zip(*reversed(results), strict=True):
        assert torch.equal(got, expected)


@every_class
def test_fake_tensors(case: LayerCase) -> None:
    real = case.build()
    inputs = case.inputs()
    expected = outputs(copy.deepcopy(real)(*inputs))
    state = real.state_dict()
    with FakeTensorMode() as mode:
        state = {name: mode.from_tensor(value) for name, value in state.items()}
        fake = torch.func.functional_call(real, state, tuple(mode.from_tensor(x) for x in inputs))
    for y, wanted in zip(outputs(fake), expected, strict=True):
        assert (y.shape, y.stride(), y.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("case", BATCHED_ROWS, ids=str)
def test_jagged_nested_tensors(case: LayerCase, device: torch.device) -> None:
    """Rows of ragged sequences, forward and backward, as torch's layers take them."""
    layer = case.build(device=device)
    parts = [torch.randn(length, 6, device=device) for length in (3, 1, 5)]
    dys = [torch.randn_like(part) for part in parts]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    y = layer(nested)
    (dx,) = torch.autograd.grad(y, nested, torch.nested.nested_tensor_from_jagged(torch.cat(dys), nested.offsets()))
    for i, (part, dy) in enumerate(zip(parts, dys, strict=True)):
        leaf = part.clone().requires_grad_()
        expected = layer(leaf)
        torch.testing.assert_close(y.unbind()[i], expected)
        torch.testing.assert_close(dx.unbind()[i], torch.autograd.grad(expected, leaf, dy)[0])


@every_class
def test_twice_in_one_graph(case: LayerCase, device: torch.device) -> None:
    """A shared layer called twice before one backward: gradients of both calls add up."""
    layer = case.build(device=device)
    first, second = case.inputs(device=device), case.inputs(device=device, offset=1.0)
    losses = [outputs(layer(*xs))[0].pow(3).sum() for xs in (first, second)]
    together = torch.autograd.grad(losses[0] + losses[1], list(layer.parameters()), retain_graph=True)
    alone = [torch.autograd.grad(loss, list(layer.parameters())) for loss in losses]
    for got, a, b in zip(together, *alone, strict=True):
        torch.testing.assert_close(got, a + b)


@every_class
def test_parameters_that_another_tool_parametrizes(case: LayerCase, device: torch.device) -> None:
    """weight behind torch.nn.utils.parametrize: the layer reads the attribute, not the parameter."""

    class Twice(torch.nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return 2 * w

    layer = case.build(device=device)
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        doubled.weight.mul_(2)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Twice())
    inputs = case.inputs(device=device)
    assert torch.equal(outputs(layer(*inputs))[0], outputs(doubled(*inputs))[0])


@pytest.mark.parametrize("name", ["weight", "bias"])
@every_class
def test_a_parameter_set_to_none(case: LayerCase, name: str, device: torch.device) -> None:
    layer = case.build(device=device)
    if not hasattr(layer, name):
        assert "RMS" in case.name
        return
    neutral = copy.deepcopy(layer)
    with torch.no_grad():
        getattr(neutral, name).fill_(1.0 if name == "weight" else 0.0)
    setattr(layer, name, None)
    inputs = case.inputs(device=device)
    torch.testing.assert_close(outputs(layer(*inputs))[0], outputs(neutral(*inputs))[0])


def test_numpy_settings(device: torch.device) -> None:
    """Settings read from a file of arrays are NumPy numbers; torch's layers take them."""
    settings: list[tuple[Any, dict[str, Any]]] = [
        (nn.LayerNorm, {"normalized_shape": np.int64(6), "eps": np.float32(1e-5)}),
        (nn.LayerNorm, {"normalized_shape": np.array([6])}),
        (nn.RMSNorm, {"normalized_shape": (np.int32(6),), "eps": np.float64(1e-5)}),
        (nn.GroupNorm, {"num_groups": np.int64(2), "num_channels": np.int64(6), "eps": np.float32(1e-5)}),
        (nn.BatchNorm1d, {"num_features": np.int64(6), "eps": np.float32(1e-5), "momentum": np.float32(0.1)}),
        (nn.LayerNorm2d, {"num_channels": np.int64(6), "eps": np.float32(1e-6)}),
    ]
    for layer, arguments in settings:
        shape = (2, 6, 3, 3) if layer is nn.LayerNorm2d else (4, 6)
        module = layer(**arguments, device=device)
        x = torch.randn(shape, device=device)
        plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in arguments.items()}
        twin = layer(**plain, device=device)
        torch.testing.assert_close(module(x), twin(x))
        for a, b in zip(module.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_there_is_a_case_for_every_layer() -> None:
    """The recurrent ones have a suite of their own, tests/nn/test_recurrent_*.py."""
    recurrent = {name for name in nn.__all__ if name.removesuffix("Cell").endswith(("LSTM", "GRU", "RNN"))}
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    assert {case.layer.__name__ for case in CLASSES} == layers - recurrent
