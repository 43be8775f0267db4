"""The normalizations as functions: check, choose, call.

Signatures are those of ``torch.nn.functional``; what torch has no function for follows its style. Shapes, dtypes
and formulas are documented on the layers in ``normkit.nn``, which call these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit import _channel_norms, _checks, composite
from normkit._channel_norms import updated_statistics
from normkit.kernels import choose, rows

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm2d",
    "rms_norm",
]


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalization over the last axes; see :class:`normkit.nn.LayerNorm`.

    Example:
        >>> x = torch.tensor([[1.0, 3.0], [1e6, 1e6 + 2]])
        >>> layer_norm(x, 2)
        tensor([[-1.0000,  1.0000],
                [-1.0000,  1.0000]])
    """
    if choose.accepts_row_norm(input, normalized_shape, weight, bias, eps):
        return rows.by_kernel("layer_norm", input, normalized_shape, weight, bias, eps)
    shape, eps = _check_layer_norm(input, normalized_shape, weight, bias, eps)
    if _exporting():
        return torch.nn.functional.layer_norm(input, list(shape), weight, bias, eps)
    return rows.by_any("layer_norm", _autocast(input), len(shape), weight, bias, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Root mean square normalization over the last axes; see :class:`normkit.nn.RMSNorm`.

    Example:
        >>> rms_norm(torch.tensor([3.0, 4.0]), 2)
        tensor([0.8485, 1.1314])
    """
    if eps is None:
        eps = _rms_eps(input)
    if choose.accepts_row_norm(input, normalized_shape, weight, None, eps):
        return rows.by_kernel("rms_norm", input, normalized_shape, weight, None, eps)
    shape, eps = _check_rms_norm(input, normalized_shape, weight, eps)
    if _exporting():
        if not torch.compiler.is_exporting():
            return _rms_norm_of_the_old_exporter(input, len(shape), weight, eps)
        return torch.nn.functional.rms_norm(input, list(shape), weight, eps)
    return rows.by_any("rms_norm", _autocast(input), len(shape), weight, None, eps)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalization of each channel (axis 1); see :class:`normkit.nn.BatchNorm2d`.

    In training, running statistics that are given are updated in place:
    ``running = (1 - momentum)·running + momentum·batch``, with the unbiased variance of the batch.

    Example:
        >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])
    """
    eps = _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps)
    if _exporting() and not isinstance(momentum, Tensor):  # torch's operator takes a number
        return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    running = _pair(running_mean, running_var)
    if training:
        return _channel_norms.normalize_batch(input, running, weight, bias, momentum, eps)
    assert running is not None
    return _channel_norms.normalize_with(input, running, weight, bias, eps)


def batch_norm_with_statistics(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalization in training without side effects: the output, and the new running mean and variance."""
    eps = _check_batch_norm(input, running_mean, running_var, weight, bias, True, eps)
    y, moments = composite.batch_norm(input, weight, bias, eps)
    if moments is None:
        return y, running_mean, running_var
    count = input.numel() // input.shape[1]
    return y, *updated_statistics((running_mean, running_var), moments, count, momentum)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Instance normalization of each channel of each sample; see :class:`normkit.nn.InstanceNorm2d`.

    Running statistics that are given are updated in place with the average over the samples.

    Example:
        >>> instance_norm(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[[-1.0000,  1.0000],
                 [ 0.0000,  0.0000]]])
    """
    eps = _check_instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, eps)
    if _exporting():
        return torch.nn.functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    running = _pair(running_mean, running_var)
    if use_input_stats:
        return _channel_norms.normalize_instances(input, running, weight, bias, momentum, eps)
    assert running is not None
    return _channel_norms.normalize_with(input, running, weight, bias, eps)


def instance_norm_with_statistics(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Instance normalization in training without side effects: the output, and the new running mean and variance."""
    eps = _check_instance_norm(input, running_mean, running_var, weight, bias, True, eps)
    y, moments = composite.instance_norm(input, weight, bias, eps)
    if moments is None:
        return y, running_mean, running_var
    return y, *updated_statistics((running_mean, running_var), moments, input[0, 0].numel(), momentum)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Group normalization of the channels of each sample; see :class:`normkit.nn.GroupNorm`.

    Example:
        >>> group_norm(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2)
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    call = "group_norm"
    _checks.tensor(call, "input", input)
    _checks.at_least_2d(call, input)
    channels = input.shape[1]
    _checks.groups(call, num_groups, channels)
    _check_affine(call, input, weight, bias, (channels,))
    eps = _checks.eps(call, eps)
    values = channels // num_groups * input[0, 0].numel() if input.numel() else 0
    advice = "use fewer groups, so that each holds more than one channel"
    _checks.values_per_statistic(call, input, values, "group", advice)
    if _exporting():
        return torch.nn.functional.group_norm(input, num_groups, weight, bias, eps)
    return _channel_norms.normalize_groups(_autocast(input), num_groups, weight, bias, eps)


def layer_norm2d(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Layer normalization over the channels (axis 1) at each position; see :class:`normkit.nn.LayerNorm2d`.

    Example:
        >>> layer_norm2d(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).flatten()
        tensor([-1.0000,  1.0000])
    """
    call = "layer_norm2d"
    _checks.tensor(call, "input", input)
    _checks.rank(call, input, ("N, C, H, W", "C, H, W"))
    channels = (input.shape[-3],)
    _check_affine(call, input, weight, bias, channels)
    eps = _checks.eps(call, eps)
    if _exporting():
        there, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if input.dim() == 4 else ((1, 2, 0), (2, 0, 1))
        return torch.nn.functional.layer_norm(input.permute(there), channels, weight, bias, eps).permute(back)
    x = _autocast(input)
    if x.dim() == 3:
        return _channel_norms.normalize_pixels(x[None], weight, bias, eps)[0]
    return _channel_norms.normalize_pixels(x, weight, bias, eps)


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    dropout_p: float = 0.0,
    training: bool = True,
) -> tuple[Tensor, Tensor]:
    """``sum = dropout(input) + residual`` and its layer normalization; see :class:`normkit.nn.AddLayerNorm`.

    Example:
        >>> y, total = add_layer_norm(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 2)
        >>> y, total
        (tensor([-1.0000,  1.0000]), tensor([1., 3.]))
    """
    p = _check_add("add_layer_norm", input, residual, dropout_p, training)
    shape, eps = _checks.as_call("add_layer_norm", _check_layer_norm, input, normalized_shape, weight, bias, eps)
    if _exporting():
        total = torch.nn.functional.dropout(input, dropout_p, training) + residual
        return layer_norm(total, shape, weight, bias, eps), total
    return rows.add_by_any("layer_norm", _autocast(input), residual, len(shape), weight, bias, eps, p)


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    dropout_p: float = 0.0,
    training: bool = True,
) -> tuple[Tensor, Tensor]:
    """``sum = dropout(input) + residual`` and its RMS normalization; see :class:`normkit.nn.AddRMSNorm`.

    Example:
        >>> y, total = add_rms_norm(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0]), 2)
        >>> y, total
        (tensor([0.8485, 1.1314]), tensor([3., 4.]))
    """
    p = _check_add("add_rms_norm", input, residual, dropout_p, training)
    if eps is None:
        eps = _rms_eps(input)
    shape, eps = _checks.as_call("add_rms_norm", _check_rms_norm, input, normalized_shape, weight, eps)
    if _exporting():
        total = torch.nn.functional.dropout(input, dropout_p, training) + residual
        return rms_norm(total, shape, weight, eps), total
    return rows.add_by_any("rms_norm", input, residual, len(shape), weight, None, eps, p)


def _check_layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float
) -> tuple[tuple[int, ...], float]:
    call = "layer_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", x)
    _checks.trailing(call, x, shape)
    _check_affine(call, x, w, b, shape)
    return shape, _checks.eps(call, eps)


def _check_rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], w: Tensor | None, eps: float
) -> tuple[tuple[int, ...], float]:
    call = "rms_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", x)
    _checks.trailing(call, x, shape)
    _checks.parameter(call, "weight", w, shape, x)  # of any floating dtype, as torch's
    return shape, _checks.eps(call, eps)


def _pair(mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if mean is None or var is None else (mean, var)


def _rms_eps(x: object) -> float:
    """The eps that stands for None: that of the dtype which x is computed in."""
    return torch.finfo(torch.float64 if getattr(x, "dtype", None) == torch.float64 else torch.float32).eps


def _check_add(call: str, x: Tensor, residual: Tensor, p: float, training: bool) -> float:
    """The probability of dropping, here and now."""
    _checks.tensor(call, "input", x)
    _checks.residual(call, x, residual)
    _checks.probability(call, "dropout_p", p)
    return float(p) if training else 0.0


def _check_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> float:
    call = "batch_norm"
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    _check_affine(call, x, weight, bias, (x.shape[1],))
    _check_running(call, x, running_mean, running_var, needed=not training)
    eps = _checks.eps(call, eps, positive=training)
    if training:
        advice = "use a larger batch, .eval(), or a norm that does not depend on the batch, such as LayerNorm"
        values = x.numel() // x.shape[1] if x.numel() else 0
        _checks.values_per_statistic(call, x, values, "channel when training", advice)
    return eps


def _check_instance_norm(
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
    _check_affine(call, x, weight, bias, (x.shape[1],))
    _check_running(call, x, running_mean, running_var, needed=not use_input_stats)
    eps = _checks.eps(call, eps)
    if use_input_stats:
        advice = "InstanceNorm has nothing to normalize at one position; use BatchNorm, LayerNorm or none there"
        positions = x[0, 0].numel() if x.numel() else 0
        _checks.values_per_statistic(call, x, positions, "channel of a sample", advice)
    return eps


def _check_affine(call: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        _checks.parameter(call, name, value, shape, x)
        _checks.parameter_dtype(call, name, value, x)


def _check_running(
    call: str, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *, needed: bool
) -> None:
    _checks.running_pair(call, running_mean, running_var, needed=needed)
    _checks.parameter(call, "running_mean", running_mean, (x.shape[1],), x)
    _checks.parameter(call, "running_var", running_var, (x.shape[1],), x)


def _autocast(x: Tensor) -> Tensor:
    """Off the CPU, autocast runs torch's row and group norms in float32 and returns float32; so does this."""
    device = x.device.type
    if device == "cpu" or x.dtype not in _checks.LOW_PRECISION or not torch.amp.is_autocast_available(device):
        return x
    return x.float() if torch.is_autocast_enabled(device) else x


def _rms_norm_of_the_old_exporter(x: Tensor, n_axes: int, w: Tensor | None, eps: float) -> Tensor:
    """The TorchScript exporter ends at an opset without RMSNormalization, and knows few operators."""
    wide = composite.widen(x)
    y = wide * torch.rsqrt(wide.square().mean(tuple(range(-n_axes, 0)), keepdim=True) + eps)
    return (y if w is None else y * w).to(x.dtype)


def _exporting() -> bool:
    """While a graph is exported, the call becomes torch's own operator, which every runtime knows."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
