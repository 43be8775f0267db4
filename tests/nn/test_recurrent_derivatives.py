"""Derivatives of every order and mode, for every cell, placement and option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from nn.recurrent import ALL, BATCH_LSTM, PLACED, ROW_LAYERS, Recurrent, flat

# torch's own, when forward-mode differentiation starts
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

I, H = 2, 3  # noqa: E741


def as_function(layer: torch.nn.Module, outputs: int) -> Callable[..., tuple[Tensor, ...]]:
    """The first outputs of the layer as a function of its input and all its parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def f(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(functional_call(layer, dict(zip(names, parameters, strict=True)), (x,)))[:outputs])

    return f


def arguments(layer: torch.nn.Module, *shape: int) -> list[Tensor]:
    x = torch.randn(shape, dtype=torch.float64)
    return [t.detach().requires_grad_() for t in (x, *layer.parameters())]


def built(case: Recurrent, **options: Any) -> torch.nn.RNNBase:
    return case.build(I, H, dtype=torch.float64, **options)


@pytest.mark.parametrize(("case", "norm"), PLACED, ids=str)
def test_first_derivatives_reverse_and_forward(case: Recurrent, norm: str) -> None:
    layer = built(case, norm=norm)
    f = as_function(layer, 3)
    assert torch.autograd.gradcheck(f, arguments(layer, 3, 3, I), check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize(("case", "norm"), PLACED, ids=str)
def test_second_derivatives(case: Recurrent, norm: str) -> None:
    layer = built(case, norm=norm)
    f = as_function(layer, 3)
    assert torch.autograd.gradgradcheck(f, arguments(layer, 3, 3, I), fast_mode=True)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_all_options_together(case: Recurrent) -> None:
    options = {"proj_size": 2} if case.has_c else {}
    layer = built(case, num_layers=2, bidirectional=True, **options).eval()

    def f(x: Tensor) -> Tensor:
        return flat(layer(x, lengths=[3, 1]))[0]

    x = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x,), fast_mode=True)


@pytest.mark.parametrize("case", ROW_LAYERS, ids=str)
def test_vmap_over_inputs_and_over_gradients(case: Recurrent) -> None:
    layer = built(case)
    x = torch.randn(4, 3, 2, I, dtype=torch.float64)
    each = torch.stack([layer(one)[0] for one in x])
    torch.testing.assert_close(vmap(lambda one: layer(one)[0])(x), each)

    def loss(one: Tensor) -> Tensor:
        return layer(one)[0].square().sum()

    found = vmap(grad(loss))(x)
    leaf = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(torch.stack([layer(one)[0] for one in leaf]).square().sum(), leaf)
    torch.testing.assert_close(found, by_autograd)


def test_forward_over_reverse() -> None:
    layer = built(ALL[0])
    x, v = torch.randn(2, 3, 2, I, dtype=torch.float64).unbind(0)

    def loss(x: Tensor) -> Tensor:
        return layer(x)[0].pow(3).sum()

    _, tangent = jvp(grad(loss), (x,), (v,))
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (by_reverse,) = torch.autograd.grad((g * v).sum(), leaf)
    torch.testing.assert_close(tangent, by_reverse)


def test_statistics_that_a_transform_is_given_are_replaced_and_others_left_alone() -> None:
    """As normkit's BatchNorm has it (docs/decisions/0004)."""
    layer, twin = (built(BATCH_LSTM, max_steps=2) for _ in range(2))
    x = torch.randn(4, 3, I, dtype=torch.float64)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    g = grad(lambda x: layer(x)[0].square().sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(g, torch.autograd.grad(twin(leaf)[0].square().sum(), leaf)[0])
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name])

    given = dict(layer.named_buffers())

    def with_statistics(buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        buffers = dict(buffers)
        y = functional_call(layer, buffers, (x,))[0]
        return y.square().sum(), buffers

    _, updated = grad(with_statistics, has_aux=True)(given)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(updated[name], buffer)
