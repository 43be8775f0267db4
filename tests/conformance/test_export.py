"""Graphs of the layers: torch.export, torch.jit.trace and torch.fx."""

import copy

import pytest
import torch

from conformance.layers import CASES, LayerCase, every_layer, outputs
from normkit._padding import Padding

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NATIVE = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
# Beside the one operator: the residual sum, moving the channels last and back, and counting the batches.
BESIDE = ("add", "dropout", "permute", "movedim", "add_", "select", "unsqueeze", "squeeze")


def functions_of(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target).split(".")[1] for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@every_layer
def test_export_holds_torchs_own_operator(case: LayerCase, strict: bool, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    program = torch.export.export(copy.deepcopy(layer), inputs, strict=strict)
    names = functions_of(program.graph)
    assert sum(name in NATIVE for name in names) == 1
    assert set(names) <= {*NATIVE, *BESIDE}
    got = outputs(program.module()(*inputs))
    for y, expected in zip(got, outputs(layer(*inputs)), strict=True):
        torch.testing.assert_close(y, expected, **CLOSE)


@every_layer
def test_export_with_a_dynamic_batch(case: LayerCase, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(copy.deepcopy(layer), inputs, dynamic_shapes=[{0: batch} for _ in inputs])
    shape = case.sized(6)[1]
    longer = case.inputs(device=device, shape=(shape[0] + 5, *shape[1:]))
    for y, expected in zip(outputs(program.module()(*longer)), outputs(layer(*longer)), strict=True):
        torch.testing.assert_close(y, expected, **CLOSE)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_export_of_batch_norm_without_momentum(training: bool, device: torch.device) -> None:
    """The cumulative average needs the count of batches inside the graph; torch's layer cannot be exported so."""
    case = next(case for case in CASES if case.name == "BatchNorm2d")
    layer = case.build(device=device, momentum=None).train(training)
    inputs = case.inputs(device=device)
    program = torch.export.export(copy.deepcopy(layer), inputs)
    module = program.module()
    for _ in range(2):
        torch.testing.assert_close(module(*inputs), layer(*inputs), **CLOSE)
    for name, value in layer.named_buffers():
        torch.testing.assert_close(dict(module.named_buffers())[name], value, **CLOSE)


@every_layer
def test_fx_records_one_call(case: LayerCase, device: torch.device) -> None:
    layer = case.build(device=device)
    inputs = case.inputs(device=device)
    graph = torch.fx.symbolic_trace(copy.deepcopy(layer))
    calls = [node for node in graph.graph.nodes if node.op.startswith("call")]
    # A mask and its kin are inputs, too, and are put together before the call.
    assert len([node for node in calls if node.target is not Padding]) == 1
    for y, expected in zip(outputs(graph(*inputs)), outputs(layer(*inputs)), strict=True):
        assert torch.equal(y, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks look at shapes while tracing
@every_layer
def test_jit_trace(case: LayerCase, device: torch.device) -> None:
    """A traced layer is right for other values, and, as torch's, for another batch size."""
    layer = case.build(device=device).eval()
    inputs = case.inputs(device=device)
    traced = torch.jit.trace(copy.deepcopy(layer), inputs)
    shape = case.sized(6)[1]
    for size in (shape, (shape[0] + 5, *shape[1:])):
        other = case.inputs(device=device, offset=5.0, shape=size)
        for y, expected in zip(outputs(traced(*other)), outputs(layer(*other)), strict=True):
            torch.testing.assert_close(y, expected, **CLOSE)
