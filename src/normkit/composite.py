"""The layers in differentiable torch operations: any device, dtype, order of differentiation, vmap and forward AD.

Each function takes arguments that have been checked. 16-bit input is computed in float32 and rounded once, at
the end. The arithmetic is that of ``moments``; the affine map is (x̂·w) + b on centred values, never
x·scale + shift.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from normkit._sequence_checks import under_autocast
from normkit.moments import Moments, centre, mean_over, power_of_two_scale, scaled_eps, spread

Activation = Literal["relu", "silu", "gelu"]
ACTIVATIONS = {"relu": torch.relu, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}
ACTIVATIONS_OR_NONE = (None, *ACTIVATIONS)

_LOW_PRECISION = (torch.bfloat16, torch.float16)


def under_functorch() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, …) is active."""
    return bool(torch._C._are_functorch_transforms_active())


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """autocast off for the device of x."""
    return torch.autocast(x.device.type, enabled=False) if under_autocast(x) else nullcontext()


def layer_norm(x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Normalize over the last ``n_axes`` axes; w and b have their sizes."""
    x_hat, _ = _normalize(widen(x), tuple(range(-n_axes, 0)), eps)
    return _affine(x_hat, w, b).to(x.dtype).contiguous()


def rms_norm(x: Tensor, n_axes: int, w: Tensor | None, eps: float) -> Tensor:
    """Divide by the root of the mean square over the last ``n_axes`` axes."""
    wide = widen(x)
    if wide.numel() == 0:
        return in_layout_of(x, _affine(wide, w, None).to(x.dtype))
    axes = tuple(range(-n_axes, 0))
    scale = power_of_two_scale(wide.detach().abs().amax(axes, keepdim=True), eps)
    scaled = wide * scale
    mean_square = mean_over(scaled * scaled, axes)
    x_hat = scaled * spread(1 / torch.sqrt(mean_square + scaled_eps(scale, eps)), scaled)
    return in_layout_of(x, _affine(x_hat, w, None).to(x.dtype))


def batch_norm(
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Moments | None]:
    """Normalize each channel (axis 1) over all other axes. No moments for input without elements.

    Here and below weights [N, 1, *] broadcast to x; what the output is where they are 0 is nobody's business.
    """
    axes = (0, *range(2, x.dim()))
    x_hat, moments = _normalize(widen(x), axes, eps, weights)
    y = _affine(x_hat, _per_channel(w, x), _per_channel(b, x))
    return in_layout_of(x, finish(y, activation, residual).to(x.dtype)), moments


def apply_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Normalize each channel (axis 1) with the given statistics."""
    wide = widen(x)
    mean, variance = (t.to(torch.promote_types(t.dtype, wide.dtype)) for t in (mean, variance))
    rstd = 1 / torch.sqrt(variance + eps)
    shape = (-1, *[1] * (x.dim() - 2))
    x_hat = ((wide - mean.view(shape)) * rstd.view(shape)).to(wide.dtype)
    y = _affine(x_hat, _per_channel(w, x), _per_channel(b, x))
    return in_layout_of(x, finish(y, activation, residual).to(x.dtype))


def with_mean_as_padding(x: Tensor, kept: Tensor | None, mean: Tensor) -> Tensor:
    """x, and its channel's mean where [N, 1, *] is not kept: a value that harms no product, nor its derivatives."""
    return x if kept is None else torch.where(kept, x, mean.to(x.dtype).view(-1, *[1] * (x.dim() - 2)))


def affine(
    x_hat: Tensor, w: Tensor | None, b: Tensor | None, x: Tensor, activation: Activation | None, residual: Tensor | None
) -> Tensor:
    """activation(x̂·w + b + residual) of each channel (axis 1), in the dtype and the memory format of x."""
    y = _affine(x_hat, _per_channel(w, x), _per_channel(b, x))
    return in_layout_of(x, finish(y, activation, residual).to(x.dtype))


def group_norm(
    x: Tensor,
    num_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Normalize each group of channels of each sample over the group's channels and all positions."""
    wide = widen(x)
    if x.numel() > 0:
        grouped = torch.unflatten(wide, 1, (num_groups, x.shape[1] // num_groups))
        of_group = None if weights is None else weights.unsqueeze(1)
        x_hat, _ = _normalize(grouped, tuple(range(2, grouped.dim())), eps, of_group)
        wide = x_hat.flatten(1, 2)
    y = _affine(wide, _per_channel(w, x), _per_channel(b, x))
    return in_layout_of(x, finish(y, activation, None).to(x.dtype))


def instance_norm(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, weights: Tensor | None = None
) -> tuple[Tensor, Moments | None]:
    """Normalize each channel of each sample over its positions. No moments for input without elements."""
    x_hat, moments = _normalize(widen(x), tuple(range(2, x.dim())), eps, weights)
    y = _affine(x_hat, _per_channel(w, x), _per_channel(b, x)).to(x.dtype)
    return in_layout_of(x, y), moments


def layer_norm2d(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Normalize over the channels (axis 1) at each position of each sample."""
    x_hat, _ = _normalize(widen(x), (1,), eps)
    return in_layout_of(x, _affine(x_hat, _per_channel(w, x), _per_channel(b, x)).to(x.dtype))


def _normalize(
    x: Tensor, axes: tuple[int, ...], eps: float, weights: Tensor | None = None
) -> tuple[Tensor, Moments | None]:
    """x̂ and the moments; input without elements is returned as it is."""
    if x.numel() == 0:
        return x, None
    centred, moments = centre(x, axes, eps, None if weights is None else weights.to(x.dtype))
    return centred * spread(moments.rstd(eps), centred), moments


def widen(x: Tensor) -> Tensor:
    """float32 for 16-bit input, so that statistics, products and gradients accumulate in it."""
    return x.to(torch.float32) if x.dtype in _LOW_PRECISION else x


def _affine(x_hat: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    """x̂·w + b; parameters of 16 bits are widened, so that their gradients are summed in float32."""
    if w is not None:
        x_hat = x_hat * spread(widen(w), x_hat)
    if b is not None:
        x_hat = x_hat + spread(widen(b), x_hat)
    return x_hat


def finish(y: Tensor, activation: Activation | None, residual: Tensor | None) -> Tensor:
    """activation(y + residual), before the result is rounded to its dtype."""
    if residual is not None:
        y = y + widen(residual)
    return y if activation is None else ACTIVATIONS[activation](y)


def _per_channel(p: Tensor | None, x: Tensor) -> Tensor | None:
    """A vector over the channels, shaped to broadcast against x."""
    return None if p is None else p.view(-1, *[1] * (x.dim() - 2))


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """y in channels_last where x is, else contiguous: the memory formats that torch's layers keep."""
    if under_functorch() or (x.is_contiguous() and y.is_contiguous()):
        return y
    for memory_format, n_axes in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if x.dim() == n_axes and x.is_contiguous(memory_format=memory_format):
            return y.contiguous(memory_format=memory_format)
    return y.contiguous()
