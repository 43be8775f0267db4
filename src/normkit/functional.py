"""The normalizations as functions: check, choose, call.

Signatures are those of ``torch.nn.functional``; what torch has no function for follows its style. Shapes, dtypes
and formulas are documented on the layers in ``normkit.nn``, which call these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from normkit import _call_checks, _channel_norms, _checks, _masked_norms, composite
from normkit._padding import keywords, padding_of
from normkit._with_statistics import batch_norm_with_statistics as batch_norm_with_statistics
from normkit._with_statistics import instance_norm_with_statistics as instance_norm_with_statistics
from normkit.composite import Activation
from normkit.kernels import channels, choose, eager, rows
from normkit.kernels import layer_norm2d as layer_norm2d_kernel

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
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Layer normalization over the last axes; see :class:`normkit.nn.LayerNorm`.

    ``out`` takes the result where no gradient is needed; it may be the input.

    Example:
        >>> x = torch.tensor([[1.0, 3.0], [1e6, 1e6 + 2]])
        >>> layer_norm(x, 2)
        tensor([[-1.0000,  1.0000],
                [-1.0000,  1.0000]])
    """
    if out is None and not is_dynamo_compiling():
        y: Tensor | None = eager.LIBRARY.layer_norm(input, normalized_shape, weight, bias, eps)
        if y is not None:
            return y
    if choose.accepts_row_norm(input, normalized_shape, weight, bias, eps):
        if out is None:
            return rows.by_kernel("layer_norm", input, normalized_shape, weight, bias, eps)
        _checks.out("layer_norm", input, out, weight, bias)
        if out.is_contiguous():
            return rows.write("layer_norm", input, normalized_shape, weight, bias, eps, out)
    if out is not None:
        _checks.out("layer_norm", input, out, weight, bias)
        return out.copy_(layer_norm(input, normalized_shape, weight, bias, eps))
    shape, eps = _call_checks.layer_norm(input, normalized_shape, weight, bias, eps)
    if _exporting():
        return torch.nn.functional.layer_norm(input, list(shape), weight, bias, eps)
    return rows.by_any("layer_norm", _autocast(input), len(shape), weight, bias, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Root mean square normalization over the last axes; see :class:`normkit.nn.RMSNorm`.

    ``out`` takes the result where no gradient is needed; it may be the input.

    Example:
        >>> rms_norm(torch.tensor([3.0, 4.0]), 2)
        tensor([0.8485, 1.1314])
    """
    if out is None and not is_dynamo_compiling():
        y: Tensor | None = eager.LIBRARY.rms_norm(input, normalized_shape, weight, eps)
        if y is not None:
            return y
    if eps is None:
        eps = _rms_eps(input)
    if choose.accepts_row_norm(input, normalized_shape, weight, None, eps):
        if out is None:
            return rows.by_kernel("rms_norm", input, normalized_shape, weight, None, eps)
        _checks.out("rms_norm", input, out, weight)
        if out.is_contiguous():
            return rows.write("rms_norm", input, normalized_shape, weight, None, eps, out)
    if out is not None:
        _checks.out("rms_norm", input, out, weight)
        return out.copy_(rms_norm(input, normalized_shape, weight, eps))
    shape, eps = _call_checks.rms_norm(input, normalized_shape, weight, eps)
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
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Batch normalization of each channel (axis 1); see :class:`normkit.nn.BatchNorm2d`.

    With a residual (of the input's shape and dtype) or an activation (relu, silu or gelu, the exact one) the result is
    ``activation(norm(input) + residual)``, in one pass and rounded once. ``out`` takes the result where no gradient is
    needed; it may be the input. ``mask``, ``weights`` and ``lengths`` say which positions count, as for the layer.

    In training, running statistics that are given are updated in place:
    ``running = (1 - momentum)·running + momentum·batch``, with the unbiased variance of the batch.

    Example:
        >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])
    """
    if out is None and weights is None and lengths is None and not is_dynamo_compiling():
        done: Tensor | None = eager.LIBRARY.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps, activation, residual, mask
        )
        if done is not None:
            return done
    padding = padding_of(mask, weights, lengths)
    if (
        not training
        and residual is None
        and activation in composite.ACTIVATIONS_OR_NONE
        and running_mean is not None
        and running_var is not None
        and padding is None
        and choose.accepts_channel_norm(input, weight, bias, eps, running_mean, running_var)
    ):
        given = running_mean, running_var
        if out is None:
            return channels.by_kernel(input, 0, weight, bias, eps, activation, given)
        _checks.out("batch_norm", input, out, weight, bias, running_mean, running_var)
        if out.is_contiguous():
            return channels.write(input, 0, weight, bias, eps, activation, given, out)
    if out is not None:
        _checks.out("batch_norm", input, out, weight, bias, running_mean, running_var, residual)
        plain = input, running_mean, running_var, weight, bias, training, momentum, eps
        return out.copy_(batch_norm(*plain, activation=activation, residual=residual, **keywords(padding)))
    eps = _call_checks.batch_norm(input, running_mean, running_var, weight, bias, training, eps, activation, residual)
    if _exporting() and padding is None and not isinstance(momentum, Tensor):  # torch's operator takes a number
        y = torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return composite.finish(y, activation, residual)
    running = _pair(running_mean, running_var)
    if padding is not None:
        plain_norm = weight, bias, momentum, eps, activation, residual
        if training:
            return _masked_norms.normalize_batch(input, padding, running, *plain_norm)
        assert running is not None
        return _masked_norms.apply_given(input, padding, running, weight, bias, eps, activation, residual)
    if training:
        return _channel_norms.normalize_batch(input, running, weight, bias, momentum, eps, activation, residual)
    assert running is not None
    return _channel_norms.normalize_with(input, running, weight, bias, eps, activation, residual)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Instance normalization of each channel of each sample; see :class:`normkit.nn.InstanceNorm2d`.

    Running statistics that are given are updated in place with the average over the samples. ``mask``, ``weights`` and
    ``lengths`` say which positions count, as for the layer.

    Example:
        >>> instance_norm(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[[-1.0000,  1.0000],
                 [ 0.0000,  0.0000]]])
    """
    if weights is None and lengths is None and not is_dynamo_compiling():
        y: Tensor | None = eager.LIBRARY.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, mask
        )
        if y is not None:
            return y
    padding = padding_of(mask, weights, lengths)
    eps = _call_checks.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, eps)
    if _exporting() and padding is None:
        return torch.nn.functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    running = _pair(running_mean, running_var)
    if padding is not None:
        if use_input_stats:
            return _masked_norms.normalize_instances(input, padding, running, weight, bias, momentum, eps)
        assert running is not None
        return _masked_norms.apply_given(input, padding, running, weight, bias, eps, call="instance_norm")
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
    *,
    activation: Activation | None = None,
    out: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Group normalization of the channels of each sample; see :class:`normkit.nn.GroupNorm`.

    With an activation (relu, silu or gelu, the exact one) the result is ``activation(norm(input))``, in one pass and
    rounded once. ``out`` takes it where no gradient is needed; it may be the input. ``mask``,
    ``weights`` and ``lengths`` say which positions count, as for the layer.

    Example:
        >>> group_norm(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2)
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    if out is None and weights is None and lengths is None and not is_dynamo_compiling():
        done: Tensor | None = eager.LIBRARY.group_norm(input, num_groups, weight, bias, eps, activation, mask)
        if done is not None:
            return done
    padding = padding_of(mask, weights, lengths)
    if (
        padding is None
        and activation in composite.ACTIVATIONS_OR_NONE
        and type(num_groups) is int
        and choose.accepts_channel_norm(input, weight, bias, eps)
        and num_groups > 0
        and input.shape[1] % num_groups == 0
        and input.numel() > input.shape[0] * num_groups
    ):
        if out is None:
            return channels.by_kernel(input, num_groups, weight, bias, eps, activation)
        _checks.out("group_norm", input, out, weight, bias)
        if out.is_contiguous():
            return channels.write(input, num_groups, weight, bias, eps, activation, None, out)
    if out is not None:
        _checks.out("group_norm", input, out, weight, bias)
        return out.copy_(group_norm(input, num_groups, weight, bias, eps, activation=activation, **keywords(padding)))
    eps = _call_checks.group_norm(input, num_groups, weight, bias, eps, activation)
    if padding is not None:
        x = _autocast(input)
        return _masked_norms.normalize_groups(x, padding, num_groups, weight, bias, eps, activation)
    if _exporting():
        y = torch.nn.functional.group_norm(input, num_groups, weight, bias, eps)
        return composite.finish(y, activation, None)
    return _channel_norms.normalize_groups(_autocast(input), num_groups, weight, bias, eps, activation)


def layer_norm2d(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Layer normalization over the channels (axis 1) at each position; see :class:`normkit.nn.LayerNorm2d`.

    ``out`` takes the result where no gradient is needed; it may be the input.

    Example:
        >>> layer_norm2d(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).flatten()
        tensor([-1.0000,  1.0000])
    """
    if out is None and not is_dynamo_compiling():
        y: Tensor | None = eager.LIBRARY.layer_norm2d(input, weight, bias, eps)
        if y is not None:
            return y
    if choose.accepts_channel_norm(input, weight, bias, eps) and input.dim() == 4:
        if out is None:
            return layer_norm2d_kernel.layer_norm2d(input, weight, bias, eps)
        _checks.out("layer_norm2d", input, out, weight, bias)
        if out.is_contiguous():
            return layer_norm2d_kernel.write(input, weight, bias, eps, out)
    if out is not None:
        _checks.out("layer_norm2d", input, out, weight, bias)
        return out.copy_(layer_norm2d(input, weight, bias, eps))
    call = "layer_norm2d"
    _checks.tensor(call, "input", input)
    _checks.rank(call, input, ("N, C, H, W", "C, H, W"))
    channels = (input.shape[-3],)
    _call_checks.affine(call, input, weight, bias, channels)
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
    if dropout_p == 0.0 and not is_dynamo_compiling():
        both: tuple[Tensor, Tensor] | None = eager.LIBRARY.add_layer_norm(
            input, residual, normalized_shape, weight, bias, eps, 0.0, 0
        )
        if both is not None:
            return both
    if (
        dropout_p == 0.0
        and choose.accepts_row_norm(input, normalized_shape, weight, bias, eps)
        and choose.accepts_sum(input, residual)
    ):
        return rows.add_by_kernel("layer_norm", input, residual, normalized_shape, weight, bias, eps)
    p = _call_checks.add("add_layer_norm", input, residual, dropout_p, training)
    shape, eps = _checks.as_call("add_layer_norm", _call_checks.layer_norm, input, normalized_shape, weight, bias, eps)
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
    if dropout_p == 0.0 and not is_dynamo_compiling():
        both: tuple[Tensor, Tensor] | None = eager.LIBRARY.add_rms_norm(
            input, residual, normalized_shape, weight, eps, 0.0, 0
        )
        if both is not None:
            return both
    if eps is None:
        eps = _rms_eps(input)
    if (
        dropout_p == 0.0
        and choose.accepts_row_norm(input, normalized_shape, weight, None, eps)
        and choose.accepts_sum(input, residual)
    ):
        return rows.add_by_kernel("rms_norm", input, residual, normalized_shape, weight, None, eps)
    p = _call_checks.add("add_rms_norm", input, residual, dropout_p, training)
    shape, eps = _checks.as_call("add_rms_norm", _call_checks.rms_norm, input, normalized_shape, weight, eps)
    if _exporting():
        total = torch.nn.functional.dropout(input, dropout_p, training) + residual
        return rms_norm(total, shape, weight, eps), total
    return rows.add_by_any("rms_norm", input, residual, len(shape), weight, None, eps, p)


def _pair(mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if mean is None or var is None else (mean, var)


def _rms_eps(x: object) -> float:
    """The eps that stands for None: that of the dtype which x is computed in."""
    return torch.finfo(torch.float64 if getattr(x, "dtype", None) == torch.float64 else torch.float32).eps


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
