"""The kernels as operators of torch: schema, shapes, derivatives, and graphs made of them."""

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import normkit
from normkit.kernels import ops

normkit_ops = torch.ops.normkit


def tensors(requires_grad: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, residual = torch.randn(2, 3, 4, 6)
    w, b = torch.randn(2, 6)
    return tuple(t.requires_grad_(requires_grad) for t in (x, residual, w, b))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward_operators_are_what_they_declare(dtype: torch.dtype) -> None:
    x, residual, w, b = (t.to(dtype).requires_grad_() for t in tensors(requires_grad=False))
    turned = x.detach().transpose(0, 1).requires_grad_()
    opcheck(normkit_ops.layer_norm.default, (x, w, b, 1, 1e-5))
    opcheck(normkit_ops.layer_norm.default, (turned, None, None, 2, 1e-5))
    opcheck(normkit_ops.add_layer_norm.default, (x, residual, w, b, 1, 1e-5))
    opcheck(normkit_ops.rms_norm.default, (x, w, 1, 1e-5))
    opcheck(normkit_ops.rms_norm.default, (x, None, 2, 1e-5))
    opcheck(normkit_ops.add_rms_norm.default, (x, residual, w, 1, 1e-5))


def test_backward_operators_are_what_they_declare() -> None:
    x, dy, w, b = tensors(requires_grad=False)
    _, stats = normkit_ops.layer_norm(x, w, b, 1, 1e-5)
    for need in ((True, True, True), (False, True, False), (True, False, False)):
        opcheck(normkit_ops.layer_norm_backward.default, (dy, x, stats, w, b, None, 1, 1e-5, *need))
    _, stats = normkit_ops.rms_norm(x, w, 1, 1e-5)
    opcheck(normkit_ops.rms_norm_backward.default, (dy, x, stats, w, dy, 1, 1e-5, True, True))


def test_bad_arguments_do_not_reach_the_kernel() -> None:
    x, residual, w, b = tensors(requires_grad=False)
    with pytest.raises(RuntimeError, match="expected weight of 24 elements, got 6"):
        normkit_ops.layer_norm(x, w, b, 2, 1e-5)
    with pytest.raises(RuntimeError, match="expected n_axes between 1 and the 3 axes of x, got 4"):
        normkit_ops.rms_norm(x, None, 4, 1e-5)
    with pytest.raises(RuntimeError, match="expected a tensor of dtype float32"):
        normkit_ops.rms_norm(x.long(), None, 1, 1e-5)
    with pytest.raises(RuntimeError, match="expected residual of x's shape and dtype"):
        normkit_ops.add_rms_norm(x, residual[:1], w, 1, 1e-5)


def test_bad_arguments_do_not_reach_the_backward() -> None:
    x, dy, w, b = tensors(requires_grad=False)
    _, stats = normkit_ops.layer_norm(x, w, b, 1, 1e-5)
    for weight, bias, message in (
        (None, b, "expected weight to take the gradient of, got None"),
        (w, None, "expected bias to take the gradient of, got None"),
        (w, b[:3], "expected bias of 6 elements, got 3"),
    ):
        with pytest.raises(RuntimeError, match=message):
            normkit_ops.layer_norm_backward(dy, x, stats, weight, bias, None, 1, 1e-5, True, True, True)
    for odd in (stats[1:], stats.double()):
        with pytest.raises(RuntimeError, match="expected the 36 statistics that the forward returned"):
            normkit_ops.layer_norm_backward(dy, x, odd, w, b, None, 1, 1e-5, True, True, True)
    x, dy = torch.randn(2, 2, 6, 3, 2)
    _, stats = normkit_ops.layer_norm2d(x, w, b, 1e-6)
    with pytest.raises(RuntimeError, match="expected bias of 6 elements, got 3"):
        normkit_ops.layer_norm2d_backward(dy, x, stats, w, b[:3], 1e-6, True, True, True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_models_run_the_kernel_in_one_graph(dynamic: bool) -> None:
    x, residual, w, b = tensors()

    def model(x: Tensor, residual: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y, z = normkit.functional.add_layer_norm(x, residual, 6, w, b)
        y = normkit.functional.rms_norm(y.sin(), 6, w)
        return normkit.functional.layer_norm(y + z, 6, w, b)

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    dy = torch.randn_like(x)
    got = compiled(x, residual, w, b)
    expected = model(x, residual, w, b)
    torch.testing.assert_close(got, expected)
    got_gradients = torch.autograd.grad(got, (x, residual, w, b), dy)
    torch.testing.assert_close(got_gradients, torch.autograd.grad(expected, (x, residual, w, b), dy))


def test_the_operator_is_in_the_graph() -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    x, _, w, b = tensors(requires_grad=False)
    torch.compile(lambda x: normkit.functional.layer_norm(x, 6, w, b), fullgraph=True, backend=backend)(x)
    assert any("normkit.layer_norm" in name for name in seen)


def test_operators_give_the_bits_of_the_eager_call() -> None:
    x, residual, w, b = tensors(requires_grad=False)
    assert torch.equal(ops.row_norm("layer_norm", x, 1, w, b, 1e-5), normkit.functional.layer_norm(x, 6, w, b, 1e-5))
    got = ops.add_row_norm("rms_norm", x, residual, 1, w, None, 1e-5)
    assert all(map(torch.equal, got, normkit.functional.add_rms_norm(x, residual, 6, w, 1e-5)))
