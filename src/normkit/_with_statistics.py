"""BatchNorm and InstanceNorm in training without side effects: the new running statistics are results."""

from __future__ import annotations

from torch import Tensor

from normkit import _call_checks, _masked_norms, composite
from normkit._channel_norms import updated_statistics
from normkit._padding import Padding
from normkit.composite import Activation


def batch_norm_with_statistics(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    padding: Padding | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the new running mean and variance."""
    eps = _call_checks.batch_norm(input, running_mean, running_var, weight, bias, True, eps, activation, residual)
    running = running_mean, running_var
    if padding is not None:
        positions = _masked_norms.positions_of_batch(input, padding, keeps=running is not None)
        y, new = _masked_norms.train_batch(input, positions, running, weight, bias, momentum, eps, activation, residual)
        return y, *(new or running)
    y, moments = composite.batch_norm(input, weight, bias, eps, activation, residual)
    if moments is None:
        return y, *running
    return y, *updated_statistics(running, moments, input.numel() // input.shape[1], momentum)


def instance_norm_with_statistics(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    padding: Padding | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the new running mean and variance."""
    eps = _call_checks.instance_norm(input, running_mean, running_var, weight, bias, True, eps)
    running = running_mean, running_var
    if padding is not None:
        positions = _masked_norms.positions_of_samples(input, padding, keeps=True)
        y, new = _masked_norms.train_instances(input, positions, running, weight, bias, momentum, eps)
        return y, *(new or running)
    y, moments = composite.instance_norm(input, weight, bias, eps)
    if moments is None:
        return y, *running
    return y, *updated_statistics(running, moments, input[0, 0].numel(), momentum)
