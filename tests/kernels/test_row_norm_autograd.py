"""Derivatives through the kernels: the first by a kernel, higher ones by composite, all as composite gives them."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kernels.row_norms import NORMS
from normkit import composite
from normkit.kernels import choose, cpu, rows

pytestmark = pytest.mark.usefixtures("each_way_to_call")

norms = pytest.mark.parametrize("norm", NORMS)


def by_kernel(norm: cpu.Norm, n_axes: int = 1, eps: float = 1e-5) -> Callable[..., Tensor]:
    return lambda x, w, b=None: rows.by_any(norm, x, n_axes, w, b, eps)


def by_composite(norm: cpu.Norm, n_axes: int = 1, eps: float = 1e-5) -> Callable[..., Tensor]:
    if norm == "layer_norm":
        return lambda x, w, b=None: composite.layer_norm(x, n_axes, w, b, eps)
    return lambda x, w: composite.rms_norm(x, n_axes, w, eps)


def arguments(norm: cpu.Norm, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [(3, 5), (5,), (5,)] if norm == "layer_norm" else [(3, 5), (5,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@norms
def test_first_and_second_derivative_by_differences(norm: cpu.Norm) -> None:
    assert gradcheck(by_kernel(norm), arguments(norm))
    assert gradgradcheck(by_kernel(norm), arguments(norm))


@norms
def test_third_derivative_as_composite(norm: cpu.Norm) -> None:
    results = []
    inputs = arguments(norm)
    weights = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    for function in (by_kernel(norm), by_composite(norm)):
        y = function(*inputs)
        for v in weights:
            (y,) = torch.autograd.grad(y, inputs[0], v, create_graph=True)
        results.append(torch.autograd.grad(y.sin().sum(), inputs, allow_unused=True, materialize_grads=True))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@norms
def test_higher_derivatives_reach_what_the_input_came_from(norm: cpu.Norm) -> None:
    """x is not a leaf: the second derivative must go on through it."""
    leaf, w = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    assert gradgradcheck(lambda leaf: by_kernel(norm)(leaf.exp(), w), [leaf])


@norms
@pytest.mark.parametrize("needed", [(0,), (1,), (0, 1), (2,), (1, 2), (0, 2)], ids=str)
def test_only_what_requires_a_gradient_gets_one(norm: cpu.Norm, needed: tuple[int, ...]) -> None:
    if norm == "rms_norm" and 2 in needed:
        pytest.skip("RMSNorm has no bias")
    inputs = [t.detach().requires_grad_(i in needed) for i, t in enumerate(arguments(norm))]
    wanted = [inputs[i] for i in needed]
    dy = torch.randn(3, 5, dtype=torch.float64)
    got = torch.autograd.grad(by_kernel(norm)(*inputs), wanted, dy)
    expected = torch.autograd.grad(by_composite(norm)(*inputs), wanted, dy)
    torch.testing.assert_close(got, expected)


@norms
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.expand(4, 3, 5),
        lambda t: t.expand(5, 3, 5).transpose(0, 2).transpose(0, 2),
        lambda t: t.T.contiguous().T.expand(4, 3, 5),
        lambda t: torch.cat([t, t], 1)[:, ::2].expand(4, 3, 5),
    ],
    ids=["expanded", "expanded-5", "transposed", "strided"],
)
def test_input_and_gradient_in_any_strides(norm: cpu.Norm, change: Callable[[Tensor], Tensor]) -> None:
    inputs = arguments(norm)
    dy = change(torch.randn(3, 5, dtype=torch.float64))
    results = []
    for function in (by_kernel(norm), by_composite(norm)):
        y = function(change(inputs[0]), *inputs[1:])
        results.append((y, *torch.autograd.grad(y, inputs, dy)))
    torch.testing.assert_close(*results)


@norms
def test_several_normalized_axes(norm: cpu.Norm) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    b = [torch.randn(4, 5, dtype=torch.float64, requires_grad=True)] if norm == "layer_norm" else []
    dy = torch.randn_like(x)
    results = []
    for function in (by_kernel(norm, 2), by_composite(norm, 2)):
        y = function(x, w, *b)
        results.append((y, *torch.autograd.grad(y, [x, w, *b], dy)))
    torch.testing.assert_close(*results)
    assert [g.shape for g in results[0][1:]] == [x.shape, w.shape, *(t.shape for t in b)]


@norms
def test_backward_twice_over_one_graph(norm: cpu.Norm) -> None:
    inputs = arguments(norm)
    y, dy = by_kernel(norm)(*inputs), torch.randn(3, 5, dtype=torch.float64)
    first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(y, inputs, dy))


@norms
def test_an_input_changed_in_place_is_noticed(norm: cpu.Norm) -> None:
    inputs = arguments(norm)
    hidden = inputs[0] * 1
    y = by_kernel(norm)(hidden, *inputs[1:])
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@norms
def test_many_output_gradients_at_once(norm: cpu.Norm) -> None:
    """is_grads_batched runs the backward under vmap: memory that no kernel may read."""
    inputs = arguments(norm)
    dy = torch.randn(4, 3, 5, dtype=torch.float64)
    got = torch.autograd.grad(by_kernel(norm)(*inputs), inputs, dy, is_grads_batched=True)
    expected = torch.autograd.grad(by_composite(norm)(*inputs), inputs, dy, is_grads_batched=True)
    torch.testing.assert_close(got, expected)


# torch loads its own formulas of forward mode through torch.jit.script.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@norms
def test_forward_mode_over_the_backward(norm: cpu.Norm) -> None:
    inputs = arguments(norm)
    dy, tangent = torch.randn(2, 3, 5, dtype=torch.float64)
    tangents = []
    for function in (by_kernel(norm), by_composite(norm)):
        y = function(*inputs)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(dy, tangent)
            (dx,) = torch.autograd.grad(y, inputs[0], dual)
            tangents.append(torch.autograd.forward_ad.unpack_dual(dx).tangent)
    torch.testing.assert_close(*tangents)


@norms
def test_several_python_threads_at_once(norm: cpu.Norm) -> None:
    w = torch.randn(257)
    inputs = [torch.randn(300, 257, requires_grad=True) for _ in range(6)]
    alone = [torch.autograd.grad(by_kernel(norm)(x, w), x, x.detach())[0] for x in inputs]
    found: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = torch.autograd.grad(by_kernel(norm)(inputs[i], w), inputs[i], inputs[i].detach())[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(found[i], alone[i]) for i in range(len(inputs)))


def test_what_is_saved_for_backward() -> None:
    """x, the weight, and 12 bytes a row."""
    x, w, b = torch.randn(8, 64, requires_grad=True), torch.ones(64, requires_grad=True), torch.zeros(64)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        rows.by_any("layer_norm", x, 1, w, b, 1e-5)
    assert [t.data_ptr() for t in saved[:2]] == [x.data_ptr(), w.data_ptr()]
    assert saved[2].numel() * saved[2].element_size() == 8 * 12
    assert len(saved) == 3


def test_the_backward_asks_for_composite_only_when_it_must() -> None:
    dy = torch.randn(3)
    with torch.no_grad():
        assert not choose.wants_composite_backward(dy)
    assert choose.wants_composite_backward(dy)
