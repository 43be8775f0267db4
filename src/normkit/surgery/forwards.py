"""Forwards for norms of other libraries: their attributes, their rounding, computed by ``normkit.functional``.

Each class here is put before the class of a module (see ``adoption``) and holds nothing but a forward, which reads
the attributes that the module has: the names that timm, torchvision and transformers use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normkit.functional import batch_norm, layer_norm, layer_norm2d, rms_norm

_LOW_PRECISION = (torch.bfloat16, torch.float16)


class Forward(torch.nn.Module):
    """What all of these are, so that a module that has one is known."""

    computed_by = ""  # as the report names it


class LayerNormOverRows(Forward):
    """y = x̂·w + b over the last axes, computed in float32 at least and rounded once to the dtype of x."""

    computed_by = "normkit.functional.layer_norm"

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm_over_rows(x, _normalized_shape(self, x), _weight(self), _bias(self), _eps(self))


class LayerNormOverChannels(Forward):
    """The same over the channels at each position of a feature map [N, C, H, W]."""

    computed_by = "normkit.functional.layer_norm2d"

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm2d(x, _weight(self), _bias(self), _eps(self))


class LayerNormOverMovedChannels(Forward):
    """The same by permuting, as timm and torchvision do it: y lies in memory as channels_last, whatever x does.

    The convolutions that follow are tuned for what they get; kept in x's format, many a model would be slower.
    """

    computed_by = "normkit.functional.layer_norm"

    def forward(self, x: Tensor) -> Tensor:
        moved = x.permute(0, 2, 3, 1)
        return layer_norm_over_rows(moved, (x.shape[1],), _weight(self), _bias(self), _eps(self)).permute(0, 3, 1, 2)


class LayerNormOverChannelsPromoted(Forward):
    """The same, and y has the wider dtype of x and the parameters: the LayerNorm written out in ConvNeXt."""

    computed_by = "normkit.functional.layer_norm2d"

    def forward(self, x: Tensor) -> Tensor:
        return promoted_layer_norm2d(x, _weight(self), _bias(self), _eps(self))


class RMSNormRoundedOnce(Forward):
    """y = x / sqrt(mean(x²) + eps) · w, rounded once to the dtype of x."""

    computed_by = "normkit.functional.rms_norm"

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, _normalized_shape(self, x), _weight(self), _eps(self)).to(x.dtype)


class RMSNormTimesWeight(Forward):
    """y = w · x̂ where x̂ has the dtype of x, and y the wider of both: Llama's order.

    Of one dtype, the two roundings become one.
    """

    computed_by = "normkit.functional.rms_norm"

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return times_weight(x, self.weight, _eps(self))


class RMSNormInWeightDtype(Forward):
    """y = w · x̂ where x̂ has the dtype of w if that has 16 bits, and is not rounded otherwise: T5's order."""

    computed_by = "normkit.functional.rms_norm"

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return in_weight_dtype(x, self.weight, _eps(self))


class RMSNormOnePlusWeight(Forward):
    """y = x̂ · (1 + w), rounded once to the dtype of x: Gemma's."""

    computed_by = "normkit.functional.rms_norm, times 1 + weight"

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return one_plus_weight(x, self.weight, _eps(self))


class RMSNormOverChannels(Forward):
    """y = x̂ · w over the channels at each position of a feature map [N, C, H, W], in the memory format of x.

    y has the wider dtype of x and w.
    """

    computed_by = "normkit.functional.rms_norm"

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm_over_channels(x, _weight(self), _eps(self))


class FrozenBatchNorm(Forward):
    """y = (x − running_mean) / sqrt(running_var + eps) · w + b, whatever the mode, in the wider dtype of x and w."""

    computed_by = "normkit.functional.batch_norm"

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        eps: float = getattr(self, "eps", 1e-5)  # DETR's has it as a constant
        return frozen_batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps)


class ThenActivation(Forward):
    """The forward of the next class, then the module's own dropout and activation."""

    computed_by = "then its own activation"

    drop: torch.nn.Module
    act: torch.nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


def layer_norm_over_rows(x: Tensor, shape: Any, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    # Parameters of 16 bits beside wider input, which torch's layer refuses, and those that convert them take.
    narrow = w is not None and w.dtype != x.dtype and w.dtype in _LOW_PRECISION
    if narrow:
        w, b = (None if p is None else p.to(x.dtype) for p in (w, b))
    return layer_norm(x, shape, w, b, eps)


def promoted_layer_norm2d(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    x, w, b = _promoted(x, w, b)
    return layer_norm2d(x, w, b, eps)


def frozen_batch_norm(x: Tensor, mean: Tensor, var: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    x, w, b = _promoted(x, w, b)
    return batch_norm(x, mean, var, w, b, eps=eps)


def times_weight(x: Tensor, w: Tensor, eps: float) -> Tensor:
    if w.dtype == x.dtype:
        return rms_norm(x, w.shape, w, eps).to(x.dtype)
    return w * rms_norm(x, w.shape, None, eps).to(x.dtype)


def in_weight_dtype(x: Tensor, w: Tensor, eps: float) -> Tensor:
    if w.dtype == x.dtype:
        return rms_norm(x, w.shape, w, eps).to(x.dtype)
    if w.dtype in _LOW_PRECISION:
        return w * rms_norm(x, w.shape, None, eps).to(w.dtype)
    return rms_norm(x.to(torch.promote_types(x.dtype, w.dtype)), w.shape, w, eps)


def one_plus_weight(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = torch.promote_types(w.dtype, torch.float32)
    return rms_norm(x, w.shape, 1.0 + w.to(wide), eps).to(x.dtype)


def rms_norm_over_channels(x: Tensor, w: Tensor | None, eps: float) -> Tensor:
    x, w, _ = _promoted(x, w, None)
    y = rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), w, eps).to(x.dtype).permute(0, 3, 1, 2)
    if x.is_contiguous(memory_format=torch.channels_last):
        return y
    return y.contiguous()


def _promoted(x: Tensor, w: Tensor | None, b: Tensor | None) -> tuple[Tensor, Any, Any]:
    """All three in the dtype that torch's arithmetic gives their sum."""
    if w is None or w.dtype == x.dtype:
        return x, w, b
    dtype = torch.promote_types(x.dtype, w.dtype)
    return x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)


def _weight(module: torch.nn.Module) -> Tensor | None:
    return getattr(module, "weight", None)


def _bias(module: torch.nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)


def _eps(module: Any) -> float:
    eps: float = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return eps


def _normalized_shape(module: torch.nn.Module, x: Tensor) -> Any:
    """The sizes that are normalized over; a norm that stores none takes the last axis."""
    if hasattr(module, "normalized_shape"):
        return module.normalized_shape
    w = _weight(module)
    return x.shape[-1:] if w is None else w.shape


# torch.fx records one call, as it does for torch's own layers. What branches on dtypes could not be traced at all.
for _name in (
    "frozen_batch_norm",
    "in_weight_dtype",
    "layer_norm2d",
    "layer_norm_over_rows",
    "one_plus_weight",
    "promoted_layer_norm2d",
    "rms_norm",
    "rms_norm_over_channels",
    "times_weight",
):
    torch.fx.wrap(_name)
