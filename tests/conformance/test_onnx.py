"""ONNX: each layer becomes the one operator that every runtime has a kernel for, and computes the same."""

import io

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from conformance.layers import CASES, LayerCase, every_class, outputs
from normkit import nn

# torch's own use of what it deprecates, in its exporter.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")

OPERATORS: dict[type, list[str]] = {
    nn.LayerNorm: ["LayerNormalization"],
    nn.RMSNorm: ["RMSNormalization"],
    nn.GroupNorm: ["GroupNormalization"],
    nn.BatchNorm1d: ["BatchNormalization"],
    nn.BatchNorm2d: ["BatchNormalization"],
    nn.BatchNorm3d: ["BatchNormalization"],
    nn.SyncBatchNorm: ["BatchNormalization"],
    nn.InstanceNorm1d: ["InstanceNormalization"],
    nn.InstanceNorm2d: ["InstanceNormalization"],
    nn.InstanceNorm3d: ["InstanceNormalization"],
    # ONNX normalizes trailing axes only: the channels are moved there and back.
    nn.LayerNorm2d: ["Transpose", "LayerNormalization", "Transpose"],
    nn.AddLayerNorm: ["Add", "LayerNormalization"],
    nn.AddRMSNorm: ["Add", "RMSNormalization"],
}
OPSET = 23  # the first with RMSNormalization; GroupNormalization in its present form is there from 21

# What the TorchScript exporter, which ends at opset 20, can express with one operator.
OLD_EXPORTER = [
    case
    for case in CASES
    if "LayerNorm" in case.name or "BatchNorm" in case.name or case.name in ("InstanceNorm2d", "RMSNorm", "AddRMSNorm")
]

# onnxruntime's own kernels are single-pass float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def run(model: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feeds)]


class Model(torch.nn.Module):
    """A model that holds a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.layer(*inputs)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")  # two inputs share it
@every_class
def test_becomes_the_native_operator(case: LayerCase) -> None:
    layer = case.build().eval()
    inputs = case.inputs(offset=3.0)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.onnx.export(
        layer, inputs, dynamo=True, opset_version=OPSET, verbose=False, dynamic_shapes=[{0: batch} for _ in inputs]
    )
    assert program is not None
    assert [node.op_type for node in program.model_proto.graph.node] == OPERATORS[case.layer]
    longer = case.inputs(offset=3.0, shape=(case.sized(6)[1][0] + 5, *case.sized(6)[1][1:]))
    for given in (inputs, longer):
        for got, expected in zip(run(program.model_proto, given), outputs(layer(*given)), strict=True):
            torch.testing.assert_close(got, expected.detach(), **CLOSE)


@pytest.mark.parametrize("case", [case for case in CASES if case.unbatched and case.training], ids=str)
def test_unbatched_input(case: LayerCase) -> None:
    layer = case.build().eval()
    inputs = case.inputs(shape=case.unbatched[0])
    program = torch.onnx.export(layer, inputs, dynamo=True, opset_version=OPSET, verbose=False)
    assert program is not None
    operators = [node.op_type for node in program.model_proto.graph.node]
    assert sum(name.endswith("Normalization") for name in operators) == 1
    assert len(operators) <= 3
    (got,) = run(program.model_proto, inputs)
    torch.testing.assert_close(got, layer(*inputs).detach(), **CLOSE)


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:ONNX export mode is set to TrainingMode.EVAL, but operator 'instance_norm'")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks look at shapes while tracing
@pytest.mark.parametrize("case", OLD_EXPORTER, ids=str)
def test_old_exporter(case: LayerCase) -> None:
    layer = case.build().eval()
    inputs = case.inputs(offset=3.0)
    file = io.BytesIO()
    # In a model, as layers are exported: this exporter gives the outermost forward its keyword-only arguments by place.
    torch.onnx.export(Model(layer).eval(), inputs, file, dynamo=False, opset_version=17)
    model = onnx.load_from_string(file.getvalue())
    operators = [node.op_type for node in model.graph.node]
    if "RMS" not in case.name:
        assert sum(name.endswith("Normalization") for name in operators) == 1, operators
        assert len(operators) <= 3, operators
    for got, expected in zip(run(model, inputs), outputs(layer(*inputs)), strict=True):
        torch.testing.assert_close(got, expected.detach(), **CLOSE)
