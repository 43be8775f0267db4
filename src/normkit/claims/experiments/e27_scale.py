"""E27: a normalized layer does not see the scale of its weights, so the weights' norm becomes a learning rate.

f(a·W) = f(W), so the gradient is perpendicular to W and shrinks as 1/a; without weight decay every step of SGD makes
W longer, by exactly the step's length squared, and the effective learning rate lr / |W|^2 falls. BatchNorm is so for
every unit by itself, LayerNorm only for the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normkit.claims.experiments._exact import Layers, difference, exact_experiment, normal

CASES, INPUTS, UNITS, CLASSES = 16, 6, 8, 3
EPS = 1e-14  # as in E02: eps would break the exact invariance
STEPS, LEARNING_RATE, WEIGHT_DECAY = 25, 5.0, 0.005
FACTOR = 4.0

Loss = Callable[[Tensor], Tensor]


def check(generator: torch.Generator, layers: Layers) -> dict[str, float]:
    x, w = normal(generator, CASES, INPUTS), normal(generator, UNITS, INPUTS)
    labels = torch.randint(CLASSES, (CASES,), generator=generator)
    head = normal(generator, CLASSES, UNITS)
    metrics = {}
    for name, make in (("batch", layers.batch), ("layer", layers.layer)):
        layer = make(UNITS, eps=EPS, dtype=torch.float64)

        def loss(w: Tensor, layer: torch.nn.Module = layer) -> Tensor:
            return torch.nn.functional.cross_entropy(torch.tanh(layer(x @ w.T)) @ head.T, labels)

        found = {**_gradient(loss, w), **_training(loss, w)}
        metrics.update({f"{name}_{metric}": value for metric, value in found.items()})
    return metrics


def _gradient(loss: Loss, w: Tensor) -> dict[str, float]:
    one_unit = torch.ones(UNITS, 1, dtype=w.dtype)
    one_unit[0] = FACTOR
    value, g = _value_and_gradient(loss, w)
    scaled, g_scaled = _value_and_gradient(loss, FACTOR * w)
    unit, _ = _value_and_gradient(loss, one_unit * w)
    return {
        "scaled_loss": difference(scaled, value),
        "scaled_gradient": difference(FACTOR * g_scaled, g),
        "gradient_along_weights": abs((g * w).sum().item()),
        "one_unit_scaled_loss": difference(unit, value),
        "gradient_along_a_unit": (g * w).sum(1).abs().max().item(),
    }


def _value_and_gradient(loss: Loss, w: Tensor) -> tuple[Tensor, Tensor]:
    w = w.clone().requires_grad_()
    value = loss(w)
    (gradient,) = torch.autograd.grad(value, w)
    return value.detach(), gradient


def _training(loss: Loss, start: Tensor) -> dict[str, float]:
    """SGD without and with weight decay, from the same weights."""
    w, pythagoras, shrinking = start, 0.0, 0
    for _ in range(STEPS):
        _, g = _value_and_gradient(loss, w)
        after = w - LEARNING_RATE * g
        squares = (w.square().sum(), (LEARNING_RATE * g).square().sum(), after.square().sum())
        pythagoras = max(pythagoras, abs((squares[0] + squares[1] - squares[2]) / squares[0]).item())
        shrinking += int(squares[2] < squares[0])
        w = after
    decayed = start
    for _ in range(STEPS):
        _, g = _value_and_gradient(loss, decayed)
        decayed = decayed - LEARNING_RATE * (g + WEIGHT_DECAY * decayed)
    return {
        "square_of_the_length": pythagoras,
        "steps_that_shorten": float(shrinking),
        "effective_rate_left": (start.square().sum() / w.square().sum()).item(),
        "effective_rate_left_with_decay": (start.square().sum() / decayed.square().sum()).item(),
    }


EXPERIMENT = exact_experiment(
    "E27",
    "Scale invariance and the effective learning rate",
    "Why does a normalized layer tolerate large learning rates?",
    check,
)
