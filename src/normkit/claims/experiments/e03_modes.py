"""E03: training against evaluation, one case against its batch, and a batch of one.

Where the formula says "the same", the comparison is bit by bit. The derivative of one case's output with respect to
another case's input is compared with -(1 + y_i·y_j) / (N·sigma), y normalized.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normkit import nn as normkit_layers
from normkit import reference
from normkit.claims.experiments._exact import (
    Layers,
    difference,
    exact_experiment,
    integer,
    normal,
    unequal,
    with_random_affine,
)
from normkit.errors import SingleValueError

EPS = 1e-5
MOMENTUM = 0.1


def check(generator: torch.Generator, layers: Layers) -> dict[str, float]:
    n, c = integer(generator, 3, 12), integer(generator, 3, 12)
    x = 2.0 * normal(generator, n, c) + 1.0
    return {
        **_layer(generator, layers, x),
        **_running_statistics(generator, layers, x),
        **_batch_mates(generator, layers, x),
        **_one_case(generator, layers, x),
    }


def _layer(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """LayerNorm: how many numbers change with the mode and with the company, in float64 and float32."""
    by_mode, by_company, by_size = 0.0, 0.0, []
    for dtype in (torch.float64, torch.float32):
        layer = with_random_affine(layers.layer(x.shape[1], dtype=dtype), generator)
        data = x.to(dtype)
        trained = layer.train()(data).detach()
        by_mode += unequal(trained, layer.eval()(data).detach())
        by_company += sum(unequal(layer(data[i : i + 1]).detach()[0], trained[i]) for i in range(len(data)))
    layer = with_random_affine(layers.layer(x.shape[1], dtype=torch.float64), generator)
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    for size in (1, 2, 17, 256):
        data = normal(generator, size, x.shape[1])
        expected = torch.from_numpy(reference.layer_norm(data.numpy(), x.shape[1], weight, bias)[0])
        by_size.append(difference(layer(data).detach(), expected))
    return {"layer_mode": by_mode, "layer_company": by_company, "layer_batch_size": max(by_size)}


def _running_statistics(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """BatchNorm: what training leaves in the running statistics, and that evaluation uses and keeps them."""
    layer = with_random_affine(layers.batch(x.shape[1], momentum=MOMENTUM, dtype=torch.float64), generator)
    mean, variance = torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)
    with torch.no_grad():
        for _ in range(3):
            batch = normal(generator, *x.shape) + x
            trained = layer.train()(batch)
            mean = (1 - MOMENTUM) * mean + MOMENTUM * batch.mean(0)
            variance = (1 - MOMENTUM) * variance + MOMENTUM * batch.var(0, correction=1)
        left_mean, left_variance = _statistics(layer)
        evaluated = layer.eval()(batch)
        kept_mean, kept_variance = _statistics(layer)
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        expected = (batch - left_mean) / torch.sqrt(left_variance + EPS) * weight + bias
        alone = torch.cat([layer(case[None]) for case in batch])
    return {
        "batch_running_mean": difference(left_mean, mean),
        "batch_running_variance": difference(left_variance, variance),
        "batch_eval": difference(evaluated, expected),
        "batch_eval_company": difference(alone, evaluated),
        "batch_eval_keeps_statistics": difference(kept_mean, left_mean) + difference(kept_variance, left_variance),
        "batch_mode": difference(trained, evaluated),
    }


def _statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_buffer("running_mean").clone(), layer.get_buffer("running_var").clone()


def _batch_mates(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    n, c = x.shape
    y_hat = (x - x.mean(0)) / x.std(0, correction=0)
    sigma = x.std(0, correction=0)
    layer = layers.batch(c, eps=1e-14, dtype=torch.float64)
    of_unit = torch.stack([_jacobian(layer, x, unit) for unit in range(c)])
    product = torch.einsum("iu,ju->uij", y_hat, y_hat)
    identity = torch.eye(n, dtype=x.dtype)
    expected = (n * identity - 1 - product) / (n * sigma[:, None, None])
    others = torch.cat([x[:1], normal(generator, n - 1, c)])
    layer_norm = layers.layer(c, dtype=torch.float64)
    return {
        "batch_jacobian": difference(of_unit, expected),
        "batch_company": difference(layer(others).detach()[0], layer(x).detach()[0]),
        "layer_company_gradient": difference(_gradient_to_others(layer_norm, x), torch.zeros_like(x[1:])),
    }


def _jacobian(layer: nn.Module, x: Tensor, unit: int) -> Tensor:
    """d y_i / d x_j of one unit: [case i, case j]."""
    x = x.clone().requires_grad_()
    y = layer(x)[:, unit]
    return torch.stack([torch.autograd.grad(y[i], x, retain_graph=True)[0][:, unit] for i in range(len(x))])


def _gradient_to_others(layer: nn.Module, x: Tensor) -> Tensor:
    """d (a random function of case 0's output) / d (the other cases)."""
    x = x.clone().requires_grad_()
    y = layer(x)[0]
    (gradient,) = torch.autograd.grad(y, x, torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype))
    return gradient[1:]


def _one_case(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """A batch of one: BatchNorm refuses it, and what its formula gives is beta, whatever the input."""
    c = x.shape[1]
    by_formula = with_random_affine(normkit_layers.BatchNorm1d(c, single_value="skip", dtype=torch.float64), generator)
    one = x[:1].clone().requires_grad_()
    y = by_formula(one)
    (gradient,) = torch.autograd.grad(y, one, normal(generator, 1, c), materialize_grads=True)
    try:
        layers.batch(c, dtype=torch.float64)(x[:1])
        accepted = 1.0
    except (SingleValueError, ValueError):
        accepted = 0.0
    return {
        "batch_of_one_output": difference(y.detach()[0], by_formula.get_parameter("bias").detach()),
        "batch_of_one_gradient": difference(gradient, torch.zeros_like(gradient)),
        "batch_of_one_accepted": accepted,
    }


EXPERIMENT = exact_experiment(
    "E03",
    "Modes, batch-mates and single cases",
    "Does a norm do the same in training and in evaluation, and does a case's output depend on its batch-mates?",
    check,
)
