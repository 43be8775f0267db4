"""What stands between a forward and its backward kernel: hooks, checkpoints, and gradients that are in no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from normkit import nn
from normkit.kernels import eager

images = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0))
sequences = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1))
NORMS: dict[str, tuple[Callable[[], torch.nn.Module], Tensor]] = {
    "layer": (lambda: nn.LayerNorm(8), sequences),
    "rms": (lambda: nn.RMSNorm(8), sequences),
    "group": (lambda: nn.GroupNorm(2, 8, activation="silu"), images),
    "batch": (lambda: nn.BatchNorm2d(8), images),
    "batch in evaluation": (lambda: nn.BatchNorm2d(8).eval(), images.contiguous(memory_format=torch.channels_last)),
    "instance": (lambda: nn.InstanceNorm2d(8, affine=True), images),
    "layer 2d": (lambda: nn.LayerNorm2d(8), images),
}
RECURRENT: dict[str, tuple[Callable[[], torch.nn.Module], Tensor]] = {
    "lstm": (lambda: nn.LayerNormLSTM(8, 4), sequences),
    "gru": (lambda: nn.LayerNormGRU(8, 4), sequences),
    "rnn": (lambda: nn.LayerNormRNN(8, 4), sequences),
    "batch lstm": (lambda: nn.BatchNormLSTM(8, 4), sequences),
}


@pytest.fixture(params=["libtorch", "Python"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls by libtorch, and as they go without."""
    if request.param == "Python":
        monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)


def output(layer: torch.nn.Module, x: Tensor) -> Tensor:
    y: Any = layer(x)
    return y[0] if isinstance(y, tuple) else y


def gradients(build: Callable[[], torch.nn.Module], x: Tensor, unpack: Callable[[Tensor], Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    layer, x = build(), x.clone().requires_grad_()
    with saved_tensors_hooks(lambda t: t, unpack):
        y = output(layer, x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad(y, [x, *layer.parameters()], dy))


def strided(t: Tensor) -> Tensor:
    """The same values, the first two axes the other way round in memory."""
    return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() >= 2 else t


@pytest.mark.parametrize("name", [*NORMS, *RECURRENT])
def test_other_strides_are_the_same_values(name: str, calls: None) -> None:
    build, x = {**NORMS, **RECURRENT}[name]
    for a, b in zip(gradients(build, x, strided), gradients(build, x, lambda t: t), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_another_dtype_is_computed_in_or_refused(name: str, calls: None) -> None:
    build, x = NORMS[name]
    try:
        found = gradients(build, x, lambda t: t.double() if t.is_floating_point() else t)
    except RuntimeError:
        return
    for a, b in zip(found, gradients(build, x, lambda t: t), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*NORMS, *RECURRENT])
def test_a_gradient_of_zeros_in_no_memory(name: str, calls: None) -> None:
    """As that of sgn."""
    build, x = {**NORMS, **RECURRENT}[name]
    layer, x = build(), x.clone().requires_grad_()
    for g in torch.autograd.grad(torch.sgn(output(layer, x)).sum(), [x, *layer.parameters()]):
        assert (g == 0).all()


@pytest.mark.parametrize("name", [*NORMS, *RECURRENT])
def test_a_checkpoint_whose_backward_is_differentiated(name: str, calls: None) -> None:
    """It gives out each tensor once."""
    build, x = {**NORMS, **RECURRENT}[name]
    layer, x = build(), x.clone().requires_grad_()
    y = checkpoint(lambda x: output(layer, x), x, use_reentrant=False)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(dx.square().sum(), x)
    assert again.isfinite().all()
