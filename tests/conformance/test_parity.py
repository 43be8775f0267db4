"""torch's layer beside ours: the same values, strides, gradients, statistics and warnings for the same input."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.layers import PARITY_CASES, LayerCase, Shape, every_parity_layer
from conformance.layouts import LAYOUTS, contiguous, strides
from conformance.norms import Rows

VARIANTS = [(case, variant) for case in PARITY_CASES for variant in case.variants]
every_variant = pytest.mark.parametrize(("case", "variant"), VARIANTS, ids=str)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)

# Both compute in float32 at offset 0; each may err by a few ulp of values up to about 5.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def pair(case: LayerCase, device: torch.device, **options: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    ours = case.build(device=device, **options)
    return ours, case.build_torch(ours, **options)


def call(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = layer(x)
    return y, [w.category.__name__ for w in caught]


def all_shapes(case: LayerCase) -> tuple[Shape, ...]:
    return (*case.shapes, *case.unbatched)


@every_variant
def test_values_and_gradients(case: LayerCase, variant: dict[str, Any], device: torch.device) -> None:
    ours, theirs = pair(case, device, **variant)
    for shape in all_shapes(case):
        (x,) = case.inputs(device=device, shape=shape)
        dy = torch.randn(shape, device=device)
        results = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            results.append((y, torch.autograd.grad(y, [leaf, *layer.parameters()], dy)))
        (y, gradients), (expected, expected_gradients) = results
        torch.testing.assert_close(y, expected, **CLOSE, msg=lambda m, s=shape: f"{s}: {m}")
        for got, wanted in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-4, msg=lambda m, s=shape: f"{s}: {m}")


@pytest.mark.parametrize(
    ("case", "variant"), [(c, v) for c, v in VARIANTS if v in (c.variants[0], {"bias": False})], ids=str
)
@every_layout
def test_strides(
    case: LayerCase, variant: dict[str, Any], layout: Callable[[Tensor], Tensor], device: torch.device
) -> None:
    """torch's strides for every input; channels_last stays so, which torch's InstanceNorm does not keep."""
    ours, theirs = pair(case, device, **variant)
    for shape in all_shapes(case):
        x = layout(case.inputs(device=device, shape=shape)[0])
        batched = shape in case.shapes
        expected = x if batched and not isinstance(case.norm, Rows) and is_channels_last(x) else theirs(x)
        assert strides(ours(x)) == strides(expected), shape


def is_channels_last(x: Tensor) -> bool:
    """Whether x is in a channels_last format, and not contiguous as well."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.dim() in formats and x.is_contiguous(memory_format=formats[x.dim()]) and not x.is_contiguous()


@every_variant
def test_running_statistics_over_several_steps(case: LayerCase, variant: dict[str, Any], device: torch.device) -> None:
    """Training steps on batches of several sizes, then evaluation with what was learned."""
    ours, theirs = pair(case, device, **variant)
    ours.train()
    theirs.train()
    for shape in (*case.shapes, *reversed(case.shapes)):
        (x,) = case.inputs(device=device, shape=shape, offset=2.0)
        torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
        for name, value in theirs.named_buffers():
            torch.testing.assert_close(getattr(ours, name), value, **CLOSE)
    ours.eval()
    theirs.eval()
    (x,) = case.inputs(device=device)
    before = {name: value.clone() for name, value in ours.named_buffers()}
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    for name, value in before.items():
        assert torch.equal(getattr(ours, name), value), f"evaluation changed {name}"


@every_variant
def test_no_grad_training_updates_statistics_as_torchs_does(
    case: LayerCase, variant: dict[str, Any], device: torch.device
) -> None:
    ours, theirs = pair(case, device, **variant)
    (x,) = case.inputs(device=device)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(getattr(ours, name), value, **CLOSE)


@every_variant
def test_warnings_are_torchs(case: LayerCase, variant: dict[str, Any], device: torch.device) -> None:
    ours, theirs = pair(case, device, **variant)
    for shape in all_shapes(case):
        (x,) = case.inputs(device=device, shape=shape)
        assert call(ours, x)[1] == call(theirs, x)[1], shape


@every_parity_layer
def test_statistics_are_updated_in_place(case: LayerCase, device: torch.device) -> None:
    """Whoever holds the buffers (a wrapper, an exporter, a shared module) sees the update."""
    ours, theirs = (layer.train() for layer in pair(case, device))
    buffers = dict(ours.named_buffers())
    pointers = {name: value.data_ptr() for name, value in buffers.items()}
    (x,) = case.inputs(device=device)
    ours(x)
    theirs(x)
    for name, value in buffers.items():
        assert getattr(ours, name) is value, name
        assert value.data_ptr() == pointers[name], name
        torch.testing.assert_close(value, getattr(theirs, name), **CLOSE)


@every_parity_layer
def test_unbatched_input_is_a_batch_of_one(case: LayerCase, device: torch.device) -> None:
    for shape in case.unbatched:
        one, batch = (case.build(device=device) for _ in range(2))
        batch.load_state_dict(one.state_dict())
        (x,) = case.inputs(device=device, shape=shape)
        assert torch.equal(one(x), batch(x[None])[0])
        for name, value in batch.named_buffers():
            assert torch.equal(getattr(one, name), value), name


@every_parity_layer
def test_loses_no_step_beside_torchs_in_training(case: LayerCase, device: torch.device) -> None:
    """Ten steps of SGD on both arrive at the same parameters."""
    ours, theirs = pair(case, device)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.05) for layer in (ours, theirs)]
    batches = [case.inputs(device=device)[0] for _ in range(10)]
    targets = [torch.randn_like(x) for x in batches]
    for x, target in zip(batches, targets, strict=True):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-4)


@every_parity_layer
def test_state_of_a_copy_is_its_own(case: LayerCase, device: torch.device) -> None:
    ours = case.build(device=device).train()
    twin = copy.deepcopy(ours)
    before = {name: value.clone() for name, value in twin.named_buffers()}
    ours(contiguous(case.inputs(device=device)[0]))
    for name, value in before.items():
        assert torch.equal(getattr(twin, name), value), name
