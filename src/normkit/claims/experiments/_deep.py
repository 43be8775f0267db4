"""Stacks of deep multilayer perceptrons, with the norm before or after the activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_norms import feature_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


def gain(activation: str) -> float:
    """He et al. 2015 for ReLU; Glorot & Bengio 2010, forward, for the others."""
    return math.sqrt(2.0) if activation == "relu" else 1.0


class Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def deep_mlp(
    depth: int,
    width: int,
    norm: str,
    activation: str = "relu",
    *,
    norm_after_activation: bool = False,
    scale: float = 1.0,
    ghost: int | None = None,
    between: Callable[[Sequence[int]], nn.Module] | None = None,
) -> Build:
    """64-[width]·depth-10 on [R, N, 64].

    Args:
        depth: hidden layers.
        norm: see ``feature_norm``.
        activation: a name in ``ACTIVATIONS``.
        norm_after_activation: normalize the activation's output, not its input.
        scale: of the hidden layers' initial weights, beside the usual gain.
        ghost: samples that share BatchNorm's statistics in training.
        between: made for the replicas' seeds; stands after the norm, before the activation.
    """

    def build(seeds: Sequence[int]) -> nn.Module:
        draws = Draws(seeds)
        layers: list[nn.Module] = []
        n_in = 64
        for _ in range(depth):
            layers.append(Linear(draws, n_in, width, gain=scale * gain(activation)))
            tail = [feature_norm(norm, len(seeds), width, ghost=ghost), Activation(activation)]
            if between is not None:
                tail.insert(1, between(seeds))
            layers += reversed(tail) if norm_after_activation else tail
            n_in = width
        return nn.Sequential(*layers, Linear(draws, width, 10, gain=1.0))

    return build
