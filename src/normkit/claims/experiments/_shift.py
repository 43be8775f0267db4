"""Internal covariate shift: of gradients (Santurkar et al. 2018), and of distributions (Ioffe & Szegedy 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

State = Mapping[str, Tensor]
Forward = Callable[[Tensor], Tensor]  # outputs [R, ...] -> losses [R]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradient_shift(
    model: nn.Sequential, before: State, after: State, x: Tensor, loss: Forward, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """How the gradient of a layer's weights changes once the layers before it have taken their step.

    G is the gradient at the parameters ``before`` a step; G' the same where all layers before it have those ``after``
    the step. Both on the same batch, in training mode; running statistics stay as they are.

    Args:
        layers: places in ``model`` of layers with a ``weight``.

    Returns:
        cos(G, G') and |G - G'| / |G|, each [layers, R].
    """
    cosines, distances = [], []
    for layer in layers:
        g = _gradient(model, before, x, loss, layer)
        mixed = {name: after[name] if _place(name) < layer else before[name] for name in before}
        moved = _gradient(model, mixed, x, loss, layer)
        cosines.append(nn.functional.cosine_similarity(g, moved, dim=1, eps=1e-30))
        distances.append((g - moved).norm(dim=1) / g.norm(dim=1).clamp(min=1e-30))
    return torch.stack(cosines), torch.stack(distances)


def _place(name: str) -> int:
    return int(name.split(".")[0])


def _gradient(model: nn.Sequential, parameters: State, x: Tensor, loss: Forward, layer: int) -> Tensor:
    """[R, weights], in float64: gradients in a deep network may be very small."""
    weight = parameters[f"{layer}.weight"].clone().requires_grad_()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    outputs = functional_call(model, {**parameters, **buffers, f"{layer}.weight": weight}, (x,))
    (gradient,) = torch.autograd.grad(loss(outputs).sum(), weight)
    return gradient.double().flatten(1)


@contextmanager
def looking_at(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, what comes out of the modules, in their order, forward pass after forward pass."""
    found: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _, __, output: found.append(output.detach())) for m in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each unit over the cases: of values [R, N, C], each [layers, R, C]."""
    std, mean = zip(*(torch.std_mean(v, 1, correction=0) for v in values), strict=True)
    return torch.stack(mean), torch.stack(std).clamp(min=1e-6)


def drift(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over layers and units of |change of mean| / std + |change of log std|, [R]."""
    change = (after[0] - before[0]).abs() / before[1] + (after[1] / before[1]).log().abs()
    return change.mean((0, 2))


def wasserstein(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Mean over layers and units of the 1-Wasserstein distance between a unit's values before and after, [R].

    In units of the standard deviation before. On the line, of as many values each, it is the mean distance of the
    values in rising order; values [R, N, C].
    """
    per_layer = []
    for one, other in zip(before, after, strict=True):
        distance = (one.sort(1).values - other.sort(1).values).abs().mean(1)
        per_layer.append(distance / one.std(1, correction=0).clamp(min=1e-6))
    return torch.stack(per_layer).mean((0, 2))
