"""torch.compile without a graph break, forward and backward, with the eager layer's results and statistics."""

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from conformance.layers import CASES, LayerCase, every_layer, outputs
from normkit import nn

# Compiled code may fuse a product and a sum into one rounding.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

BY_NAME = {case.name: case for case in CASES}
needs_a_compiler = pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("g++", "clang++", "c++")), reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check_compiled(case: LayerCase, layer: torch.nn.Module, device: torch.device, **options: Any) -> None:
    """Two steps of the compiled layer and of a copy: outputs, gradients and statistics."""
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, **options)
    shapes = (case.sized(6)[1], case.sized(6)[1])
    if options.get("dynamic"):
        shapes = (case.sized(6)[1], (case.sized(6)[1][0] + 3, *case.sized(6)[1][1:]))
    for shape in shapes:
        inputs = case.inputs(device=device, offset=3.0, shape=shape)
        results = []
        for call in (compiled, eager):
            leaves = [x.clone().requires_grad_() for x in inputs]
            ys = outputs(call(*leaves))
            torch.manual_seed(1)
            dys = [torch.randn_like(y) for y in ys]
            results.append((*ys, *torch.autograd.grad(ys, [*leaves, *eager_parameters(call, layer, eager)], dys)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, **CLOSE)
        assert [y.stride() for y in results[0][: len(ys)]] == [y.stride() for y in ys]
    for name, value in eager.named_buffers():
        torch.testing.assert_close(dict(layer.named_buffers())[name], value, **CLOSE)


def eager_parameters(call: object, layer: torch.nn.Module, eager: torch.nn.Module) -> list[torch.nn.Parameter]:
    return list((eager if call is eager else layer).parameters())


@every_layer
def test_whole_graph(case: LayerCase, device: torch.device) -> None:
    check_compiled(case, case.build(device=device), device, backend="aot_eager")


@pytest.mark.parametrize("transform", ["grad", "jvp"])
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func.jvp's own use
@every_layer
def test_transforms_inside_a_graph(case: LayerCase, transform: str, device: torch.device) -> None:
    """torch.func's transforms of a call, compiled as a whole, give what they give uncompiled.

    Statistics that a training step replaces are more than dynamo follows: with a warning it leaves the step to Python.
    """
    layer = case.build(device=device)
    replaces = layer.training and getattr(layer, "running_mean", None) is not None
    buffers = {name: b.clone() for name, b in layer.named_buffers()}
    inputs = case.inputs(device=device)

    def loss(parameters: dict[str, torch.Tensor], *xs: torch.Tensor) -> torch.Tensor:
        own = {name: b.clone() for name, b in buffers.items()}
        ys = outputs(torch.func.functional_call(layer, (parameters, own), xs))
        return torch.stack([(y * y.detach().cos()).sum() for y in ys]).sum()

    def directional(parameters: dict[str, torch.Tensor], *xs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"": torch.func.jvp(lambda *t: loss(parameters, *t), xs, tuple(x.sin() for x in xs))[1]}

    call = torch.func.grad(loss) if transform == "grad" else directional
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    want = call(parameters, *inputs)
    got = torch.compile(call, backend="aot_eager", fullgraph=not replaces)(parameters, *inputs)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d", "InstanceNorm1d", "LayerNorm2d"])
def test_dynamic_shapes(name: str, device: torch.device) -> None:
    case = BY_NAME[name]
    check_compiled(case, case.build(device=device), device, backend="aot_eager", dynamic=True)


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}, {"affine": False}], ids=str)
def test_whole_graph_of_batch_norm(options: dict[str, Any], device: torch.device) -> None:
    case = BY_NAME["BatchNorm2d"]
    check_compiled_statistics(case, case.build(device=device, **options), device)


def check_compiled_statistics(case: LayerCase, layer: torch.nn.Module, device: torch.device) -> None:
    """Three training steps, so that the third batch's weight is 1/3 where momentum is None."""
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for offset in (0.0, 2.0, -5.0):
        (x,) = case.inputs(device=device, offset=offset)
        torch.testing.assert_close(compiled(x), eager(x), **CLOSE)
    for name, value in eager.named_buffers():
        torch.testing.assert_close(getattr(layer, name), value, **CLOSE)


@needs_a_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own use
@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm2d"])
def test_inductor(name: str, device: torch.device) -> None:
    """Generated code keeps the accuracy: nothing of the corrected two-pass is optimized away."""
    case = BY_NAME[name]
    layer = case.build(device=device, **({"momentum": None} if "Batch" in name else {}))
    check_compiled(case, layer, device, backend="inductor")
    exact = copy.deepcopy(layer)
    (x,) = case.inputs(device=device, offset=1e4)
    compiled = torch.compile(layer, fullgraph=True, backend="inductor")
    torch.testing.assert_close(compiled(x), exact(x), **CLOSE)


def test_a_model_of_several_layers(device: torch.device) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, momentum=None),
        torch.nn.ReLU(),
        nn.GroupNorm(2, 6),
        nn.LayerNorm2d(6),
        nn.InstanceNorm2d(6, affine=True),
        torch.nn.Flatten(),
        nn.RMSNorm(96),
    ).to(device)
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(2, 3, 6, 6, device=device)
        torch.testing.assert_close(compiled(x), eager(x), rtol=1e-4, atol=1e-4)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, **CLOSE)
