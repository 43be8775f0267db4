"""The normalizations as functions: check, choose, call.

Signatures are those of ``torch.nn.functional``; what torch has no function for follows its style. Shapes, dtypes
and formulas are documented on the layers in ``normkit.nn``, which call these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit import _channel_norms, _checks, composite
from normkit.kernels import choose, ops, rows
from normkit.kernels.cpu import Norm

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
        n_axes = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
        return rows.row_norm("layer_norm", input, n_axes, weight, bias, eps)
    call = "layer_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", input)
    _checks.trailing(call, input, shape)
    _check_affine(call, input, weight, bias, shape)
    _checks.eps(call, eps)
    if _exporting():
        return torch.nn.functional.layer_norm(input, list(shape), weight, bias, eps)
    return _row_norm("layer_norm", _autocast(input), len(shape), weight, bias, eps)


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
    if eps is None and isinstance(input, Tensor):
        eps = _rms_eps(input)
    if choose.accepts_row_norm(input, normalized_shape, weight, None, eps):
        n_axes = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
        return rows.row_norm("rms_norm", input, n_axes, weight, None, eps)
    call = "rms_norm"
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.tensor(call, "input", input)
    _checks.trailing(call, input, shape)
    _checks.parameter(call, "weight", weight, shape, input)  # of any floating dtype, as torch's
    assert eps is not None
    _checks.eps(call, eps)
    if _exporting():
        return torch.nn.functional.rms_norm(input, list(shape), weight, eps)
    return _row_norm("rms_norm", _autocast(input), len(shape), weight, None, eps)


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
    _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps)
    if _exporting():
        factor = float(momentum)
        return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, factor, eps)
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
    _check_batch_norm(input, running_mean, running_var, weight, bias, True, eps)
    y, moments = composite.batch_norm(input, weight, bias, eps)
    if moments is None:
        return y, running_mean, running_var
    count = input.numel() // input.shape[1]
    return y, *_channel_norms.updated_statistics((running_mean, running_var), moments, count, momentum)


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
    call = "instance_norm"
    _checks.tensor(call, "input", input)
    _checks.at_least_2d(call, input)
    channels = (input.shape[1],)
    _check_affine(call, input, weight, bias, channels)
    _check_running(call, input, running_mean, running_var, needed=not use_input_stats)
    _checks.eps(call, eps)
    if use_input_stats:
        advice = "InstanceNorm has nothing to normalize at one position; use BatchNorm, LayerNorm or none there"
        positions = input[0, 0].numel() if input.numel() else 0
        _checks.values_per_statistic(call, input, positions, "channel of a sample", advice)
    if _exporting():
        return torch.nn.functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    running = _pair(running_mean, running_var)
    if use_input_stats:
        return _channel_norms.normalize_instances(input, running, weight, bias, momentum, eps)
    assert running is not None
    return _channel_norms.normalize_with(input, running, weight, bias, eps)


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
    _checks.eps(call, eps)
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
    _checks.eps(call, eps)
    if _exporting():
        last = torch.nn.functional.layer_norm(input.movedim(-3, -1), channels, weight, bias, eps)
        return last.movedim(-1, -3)
    if input.dim() == 3:
        return composite.layer_norm2d(_autocast(input)[None], weight, bias, eps)[0]
    return composite.layer_norm2d(_autocast(input), weight, bias, eps)


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
    call = "add_layer_norm"
    dropping = _check_add(call, input, residual, dropout_p, training)
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.trailing(call, input, shape)
    _check_affine(call, input, weight, bias, shape)
    _checks.eps(call, eps)
    return _add_row_norm("layer_norm", input, residual, shape, weight, bias, eps, dropping)


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
    call = "add_rms_norm"
    dropping = _check_add(call, input, residual, dropout_p, training)
    shape = _checks.normalized_shape(call, normalized_shape)
    _checks.trailing(call, input, shape)
    _checks.parameter(call, "weight", weight, shape, input)
    eps = _rms_eps(input) if eps is None else eps
    _checks.eps(call, eps)
    return _add_row_norm("rms_norm", input, residual, shape, weight, None, eps, dropping)


def _row_norm(norm: Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """The kernel as a call or as an operator, or composite, for arguments that have been checked."""
    path = choose.path_of(x, w, b)
    if path == "composite":
        return (
            composite.rms_norm(x, n_axes, w, eps) if norm == "rms_norm" else composite.layer_norm(x, n_axes, w, b, eps)
        )
    y = (rows if path == "kernel" else ops).row_norm(norm, x, n_axes, w, b, eps)
    return composite.in_layout_of(x, y) if norm == "rms_norm" else y


def _add_row_norm(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    shape: tuple[int, ...],
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Add and normalize in one kernel, for arguments that have been checked; p is the probability of dropping."""
    path = "composite" if _exporting() else choose.path_of(x, residual, w, b)
    if path == "kernel":
        return rows.add_row_norm(norm, x, residual, len(shape), w, b, eps, p)
    dropped = torch.nn.functional.dropout(x, p)
    if path == "operator":
        return ops.add_row_norm(norm, dropped, residual, len(shape), w, b, eps)
    z = dropped + residual
    if norm == "layer_norm":
        return layer_norm(z, shape, w, b, eps), z
    return rms_norm(z, shape, w, eps), z


def _pair(mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if mean is None or var is None else (mean, var)


def _rms_eps(x: Tensor) -> float:
    """The eps that stands for None: that of the dtype which x is computed in."""
    return torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps


def _check_add(call: str, x: Tensor, residual: Tensor, p: float, training: bool) -> float:
    """The probability of dropping, now."""
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
) -> None:
    call = "batch_norm"
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    _check_affine(call, x, weight, bias, (x.shape[1],))
    _check_running(call, x, running_mean, running_var, needed=not training)
    _checks.eps(call, eps, positive=training)
    if training:
        advice = "use a larger batch, .eval(), or a norm that does not depend on the batch, such as LayerNorm"
        values = x.numel() // x.shape[1] if x.numel() else 0
        _checks.values_per_statistic(call, x, values, "channel when training", advice)


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
    if x.device.type != "cpu" and x.dtype in _checks.LOW_PRECISION and torch.is_autocast_enabled(x.device.type):
        return x.float()
    return x


def _exporting() -> bool:
    """While a graph is exported, the call becomes torch's own operator, which every runtime knows."""
    return torch.compiler.is_exporting() or (torch.jit.is_tracing() and torch.onnx.is_in_onnx_export())
