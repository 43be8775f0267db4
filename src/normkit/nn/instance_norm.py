"""InstanceNorm for sequences, images, and volumes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from normkit import _checks
from normkit._padding import Padding, keywords, padding_of, unbatched
from normkit.composite import under_functorch
from normkit.functional import instance_norm, instance_norm_with_statistics
from normkit.nn._ragged import is_ragged, through_padding
from normkit.nn._statistics import apply_keeping_float32, check_arguments, keep_in_float32
from normkit.nn._updates import step_of


class _InstanceNormLayer(torch.nn.modules.instancenorm._InstanceNorm):
    """What the layers have in common; the classes below differ in the layouts that they take."""

    layouts: ClassVar[tuple[str, str]]  # with and without a sample axis
    frozen_statistics = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        check_arguments(type(self).__name__, num_features, eps, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)  # type: ignore[arg-type]
        keep_in_float32(self)

    def forward(
        self,
        input: Tensor,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        return _forward(self, input, self.layouts, padding_of(mask, weights, lengths))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _InstanceNormLayer:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


class InstanceNorm1d(_InstanceNormLayer, torch.nn.InstanceNorm1d):
    """Normalizes each channel of each sample over its positions.

    y = (x − mean) / sqrt(var + eps) · weight[c] + bias[c], with the mean and the population variance over the
    positions of one channel of one sample, and eps inside the root.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; None leaves them as they are.
        affine: whether to learn weight (starts at 1) and bias (starts at 0).
        track_running_stats: whether to keep running statistics, averaged over the samples; evaluation
            normalizes with them.
        device, dtype: of the parameters. Running statistics are float32 at least.
        bias: False leaves out the bias.

    Shape:
        input [N, C, L] or [C, L] -> output of the same shape. forward takes ``mask=``, ``weights=`` and ``lengths=``
        as BatchNorm1d's; a sample without any valid position is 0, and takes no part in the running statistics.

    Dtypes:
        As BatchNorm1d.

    Raises:
        ShapeError: another rank; another number of channels, where the layer has parameters; one position when
            the input's own statistics are used.
        ArgumentError, DtypeError: as BatchNorm1d.

    Example:
        >>> InstanceNorm1d(2)(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[[-1.0000,  1.0000],
                 [ 0.0000,  0.0000]]])

    Differs from torch:
        channels_last input gives channels_last output. Running statistics of a 16-bit module are float32. Under
        torch.func transforms running statistics are treated as BatchNorm's are; torch updates them in place
        under grad and jvp, and raises under vmap. Accuracy and derivatives as LayerNorm.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016; https://arxiv.org/abs/1607.08022
    """

    layouts = ("N, C, L", "C, L")

    def forward(
        self,
        input: Tensor,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        padding = padding_of(mask, weights, lengths)
        if is_ragged(input):
            ragged: Tensor = through_padding(type(self).__name__, self.forward, input, padding)  # ragged as the input
            return ragged
        return _forward(self, input, self.layouts, padding)


class InstanceNorm2d(_InstanceNormLayer, torch.nn.InstanceNorm2d):
    """Normalizes each channel of each feature map over its positions.

    As :class:`InstanceNorm1d`, for input [N, C, H, W] or [C, H, W].

    Example:
        >>> InstanceNorm2d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 2)).flatten()
        tensor([-1.0000,  1.0000])
    """

    layouts = ("N, C, H, W", "C, H, W")


class InstanceNorm3d(_InstanceNormLayer, torch.nn.InstanceNorm3d):
    """Normalizes each channel of each volume over its positions.

    As :class:`InstanceNorm1d`, for input [N, C, D, H, W] or [C, D, H, W].

    Example:
        >>> InstanceNorm3d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)).flatten()
        tensor([-1.0000,  1.0000])
    """

    layouts = ("N, C, D, H, W", "C, D, H, W")


def _forward(
    layer: torch.nn.modules.instancenorm._InstanceNorm, x: Tensor, layouts: tuple[str, str], padding: Padding | None
) -> Tensor:
    mean, var = layer.running_mean, layer.running_var
    step = step_of(layer)
    own_statistics = step != "evaluate" or not (layer.track_running_stats or layer.frozen_statistics)
    if step == "observe":
        mean = var = None
    momentum = layer.momentum if layer.momentum is not None else 0.0
    if own_statistics and mean is not None and var is not None and under_functorch():
        return _train_in_transform(layer, x, layouts, mean, var, momentum, padding)
    return checked_instance_norm(
        type(layer).__name__,
        layouts,
        x,
        layer.num_features,
        mean,
        var,
        layer.weight,
        layer.bias,
        own_statistics,
        momentum,
        layer.eps,
        padding,
    )


def checked_instance_norm(
    call: str,
    layouts: tuple[str, str],
    x: Tensor,
    num_features: int,
    mean: Tensor | None,
    var: Tensor | None,
    w: Tensor | None,
    b: Tensor | None,
    own_statistics: bool,
    momentum: float,
    eps: float,
    padding: Padding | None = None,
) -> Tensor:
    """One step of the layer. torch.fx records it as one call, as it records torch's own layer."""
    batch = _as_batch(call, layouts, x, num_features, exactly=w is not None or mean is not None)
    said = keywords(padding if batch is x else unbatched(padding))
    y = _checks.as_call(call, instance_norm, batch, mean, var, w, b, own_statistics, momentum, eps, **said)
    return y if batch is x else y.squeeze(0)


torch.fx.wrap("checked_instance_norm")


def _as_batch(call: str, layouts: tuple[str, str], x: Tensor, num_features: int, *, exactly: bool) -> Tensor:
    """The checked input with a sample axis; another number of channels is an error, or without parameters a warning."""
    _checks.tensor(call, "input", x)
    _checks.rank(call, x, layouts)
    batched = x.dim() == layouts[0].count(",") + 1
    axis = 1 if batched else 0
    if exactly:
        _checks.channels(call, x, num_features, axis)
    elif x.shape[axis] != num_features:
        warnings.warn(
            f"{call}: expected {num_features} channels, got {x.shape[axis]}; without parameters the layer "
            f"normalizes any number, so build it for the number it gets.",
            stacklevel=5,
        )
    return x if batched else x.unsqueeze(0)


def _train_in_transform(
    layer: torch.nn.modules.instancenorm._InstanceNorm,
    x: Tensor,
    layouts: tuple[str, str],
    mean: Tensor,
    var: Tensor,
    momentum: float,
    padding: Padding | None,
) -> Tensor:
    """A training step inside torch.func, as BatchNorm's: given statistics are replaced, others left alone."""
    call = type(layer).__name__
    batch = _as_batch(call, layouts, x, layer.num_features, exactly=True)
    y, new_mean, new_var = _checks.as_call(
        call, instance_norm_with_statistics, batch, mean, var, layer.weight, layer.bias, momentum, layer.eps,
        padding=padding if batch is x else unbatched(padding),
    )  # fmt: skip
    if torch._C._functorch.is_functorch_wrapped_tensor(mean):
        layer.running_mean, layer.running_var = new_mean, new_var
    return y if batch is x else y.squeeze(0)
