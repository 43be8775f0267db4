"""The checks of a whole call, for each of ``normkit.functional``; what is wrong is worded in ``_checks``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from normkit import _checks


def layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float
) -> tuple[tuple[int, ...], float]:
    call = "layer_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", x)
    _checks.trailing(call, x, shape)
    affine(call, x, w, b, shape)
    return shape, _checks.eps(call, eps)


def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], w: Tensor | None, eps: float
) -> tuple[tuple[int, ...], float]:
    call = "rms_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", x)
    _checks.trailing(call, x, shape)
    _checks.parameter(call, "weight", w, shape, x)  # of any floating dtype, as torch's
    return shape, _checks.eps(call, eps)


def add(call: str, x: Tensor, residual: Tensor, p: float, training: bool) -> float:
    """The probability of dropping, here and now."""
    _checks.tensor(call, "input", x)
    _checks.residual(call, x, residual)
    _checks.probability(call, "dropout_p", p)
    return float(p) if training else 0.0


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    activation: object,
    residual: Tensor | None,
) -> float:
    call = "batch_norm"
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    affine(call, x, weight, bias, (x.shape[1],))
    running(call, x, running_mean, running_var, needed=not training)
    eps = _checks.eps(call, eps, positive=training)
    if training:
        advice = "use a larger batch, .eval(), or a norm that does not depend on the batch, such as LayerNorm"
        values = x.numel() // x.shape[1] if x.numel() else 0
        _checks.values_per_statistic(call, x, values, "channel when training", advice)
    _checks.activation(call, activation)
    if residual is not None:
        _checks.residual(call, x, residual)
    return eps


def group_norm(x: Tensor, num_groups: int, w: Tensor | None, b: Tensor | None, eps: float, activation: object) -> float:
    call = "group_norm"
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    channels = x.shape[1]
    _checks.groups(call, num_groups, channels)
    affine(call, x, w, b, (channels,))
    eps = _checks.eps(call, eps)
    values = channels // num_groups * x[0, 0].numel() if x.numel() else 0
    advice = "use fewer groups, so that each holds more than one channel"
    _checks.values_per_statistic(call, x, values, "group", advice)
    _checks.activation(call, activation)
    return eps


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    eps: float,
) -> float:
    call = "instance_norm"
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    affine(call, x, weight, bias, (x.shape[1],))
    running(call, x, running_mean, running_var, needed=not use_input_stats)
    eps = _checks.eps(call, eps)
    if use_input_stats:
        advice = "InstanceNorm has nothing to normalize at one position; use BatchNorm, LayerNorm or none there"
        positions = x[0, 0].numel() if x.numel() else 0
        _checks.values_per_statistic(call, x, positions, "channel of a sample", advice)
    return eps


def affine(call: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        _checks.parameter(call, name, value, shape, x)
        _checks.parameter_dtype(call, name, value, x)


def running(call: str, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *, needed: bool) -> None:
    _checks.running_pair(call, running_mean, running_var, needed=needed)
    _checks.parameter(call, "running_mean", running_mean, (x.shape[1],), x)
    _checks.parameter(call, "running_var", running_var, (x.shape[1],), x)
