"""BatchNorm for vectors and sequences, images, and volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import _checks
from normkit._padding import Padding, keywords, padding_of
from normkit.composite import Activation, under_functorch
from normkit.functional import batch_norm, batch_norm_with_statistics
from normkit.nn._ragged import is_ragged, through_rows
from normkit.nn._statistics import apply_keeping_float32, check_arguments, keep_in_float32, with_activation


class BatchNorm1d(torch.nn.BatchNorm1d):
    """Normalizes each channel over the batch, and over the positions where there are any.

    In training: y = (x − mean) / sqrt(var + eps) · weight[c] + bias[c], with the mean and the population
    variance of channel c over all samples and positions of the batch, eps inside the root; and
    running = (1 − momentum) · running + momentum · batch, where the batch's variance is the unbiased one. With weights
    mean = Σ(w·x) / Σw, var = Σ(w·(x − mean)²) / Σw, and the unbiased variance divides by Σw − 1.
    In evaluation the running mean and variance take the place of the batch's. With a residual or an activation the
    result is activation(y + residual), rounded once.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; None gives every batch the same weight.
        affine: whether to learn weight (starts at 1) and bias (starts at 0).
        track_running_stats: False keeps none, and evaluation normalizes with the batch's statistics too.
        device, dtype: of the parameters. Running statistics are float32 at least.
        bias: False leaves out the bias.
        activation: "relu", "silu" or "gelu" (the exact one), applied in the same pass; None for none.

    Shape:
        input [N, C] or [N, C, L] -> output of the same shape. forward takes a residual of the input's shape and dtype,
        too: y = activation(norm(input) + residual), in the same pass. It also takes ``mask=``, a bool tensor of the
        input's shape without C, True where valid; ``weights=``, numbers of the same shape, which say how often a
        position counts (2 is as good as having it twice); ``lengths=``, one a sample, of the valid part of the last
        axis. Output and gradients are those of the valid positions by themselves. Padding, and what has weight 0, is
        0 in both, and may hold anything. A PackedSequence, or a jagged nested tensor [N, C, j], needs none of them.

    Dtypes:
        float32, float64, bfloat16, float16. 16-bit input is computed in float32 and rounded once; parameters
        may be float32. Parameter gradients accumulate in float32 at least. ``.half()`` and ``.bfloat16()``
        leave the running statistics in float32.

    Raises:
        ShapeError: another rank or number of channels; one value per channel when training; a mask of another shape.
        ArgumentError: eps is negative, or 0 when training; momentum is not a number; another activation; weights
            that are negative, NaN or infinite, or add up to no more than 1; lengths beyond the input; nothing but
            padding. In a compiled graph and under torch.func the values are not looked at: a batch of padding
            gives 0 and leaves the running mean and variance alone.
        DtypeError: the input is an integer or complex tensor, or its dtype does not fit the parameters'; a mask that
            is not bool.
        A call that raises leaves the running statistics as they were.

    Example:
        >>> layer = BatchNorm1d(1)
        >>> layer(torch.tensor([[1.0], [3.0]])).detach().flatten()
        tensor([-1.0000,  1.0000])
        >>> layer.running_mean, layer.running_var
        (tensor([0.2000]), tensor([1.1000]))

    Differs from torch:
        Running statistics of a 16-bit module are float32. Under torch.func transforms, statistics that are
        inputs of the transform (through torch.func.functional_call) are replaced by new ones, and statistics
        that are not are left alone; torch raises. A batch without elements leaves the statistics alone, as
        torch's does. Accuracy and derivatives as LayerNorm.

    Source:
        Ioffe, Szegedy, "Batch Normalization", 2015, algorithms 1 and 2; https://arxiv.org/abs/1502.03167
    """

    activation: Activation | None = None  # also of what was built as a torch layer

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        check_arguments("BatchNorm1d", num_features, eps, momentum)
        _checks.activation("BatchNorm1d", activation)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        padding = padding_of(mask, weights, lengths)
        if is_ragged(input):
            ragged: Tensor = through_rows(type(self).__name__, self, input, residual, padding)  # ragged as the input
            return ragged
        return _forward(self, input, residual, ("N, C", "N, C, L"), padding)

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm1d:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


class BatchNorm2d(torch.nn.BatchNorm2d):
    """Normalizes each channel of a feature map over the batch and all positions.

    As :class:`BatchNorm1d`, for input [N, C, H, W]; channels_last input gives channels_last output.

    Example:
        >>> BatchNorm2d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)).detach().flatten()
        tensor([-1.0000,  1.0000])
    """

    activation: Activation | None = None  # also of what was built as a torch layer

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        check_arguments("BatchNorm2d", num_features, eps, momentum)
        _checks.activation("BatchNorm2d", activation)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        return _forward(self, input, residual, ("N, C, H, W",), padding_of(mask, weights, lengths))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm2d:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


class BatchNorm3d(torch.nn.BatchNorm3d):
    """Normalizes each channel of a volume over the batch and all positions.

    As :class:`BatchNorm1d`, for input [N, C, D, H, W]; channels_last_3d input gives channels_last_3d output.

    Example:
        >>> BatchNorm3d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2)).detach().flatten()
        tensor([-1.0000,  1.0000])
    """

    activation: Activation | None = None  # also of what was built as a torch layer

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        check_arguments("BatchNorm3d", num_features, eps, momentum)
        _checks.activation("BatchNorm3d", activation)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        return _forward(self, input, residual, ("N, C, D, H, W",), padding_of(mask, weights, lengths))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm3d:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


def _forward(
    layer: BatchNorm1d | BatchNorm2d | BatchNorm3d,
    x: Tensor,
    residual: Tensor | None,
    layouts: tuple[str, ...],
    padding: Padding | None,
) -> Tensor:
    mean, var = layer.running_mean, layer.running_var
    needs_channels = layer.num_features if layer.affine or mean is not None else None
    if layer.training and not layer.track_running_stats:  # then they are neither used nor changed
        mean = var = None
    if layer.training and mean is not None and var is not None and under_functorch():
        check_input(type(layer).__name__, x, layouts, needs_channels)
        return _train_in_transform(layer, x, residual, mean, var, padding)
    tracked, momentum = layer.num_batches_tracked, layer.momentum
    return checked_batch_norm(
        type(layer).__name__,
        layouts,
        x,
        needs_channels,
        mean,
        var,
        tracked if layer.track_running_stats else None,
        layer.weight,
        layer.bias,
        layer.training,
        momentum,
        layer.eps,
        layer.activation,
        residual,
        padding,
    )


def checked_batch_norm(
    call: str,
    layouts: tuple[str, ...],
    x: Tensor,
    num_features: int | None,
    mean: Tensor | None,
    var: Tensor | None,
    tracked: Tensor | None,
    w: Tensor | None,
    b: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
    padding: Padding | None = None,
) -> Tensor:
    """One step of the layer. torch.fx records it as one call, as it records torch's own layer."""
    check_input(call, x, layouts, num_features)
    own_statistics = training or (mean is None and var is None)
    weight_of_batch = averaging_weight(momentum, tracked, training)
    y = _checks.as_call(
        call, batch_norm, x, mean, var, w, b, own_statistics, weight_of_batch, eps,
        activation=activation, residual=residual, **keywords(padding),
    )  # fmt: skip
    if training and tracked is not None:
        tracked.add_(1)
    return y


torch.fx.wrap("checked_batch_norm")


def averaging_weight(momentum: float | None, tracked: Tensor | None, training: bool = True) -> float | Tensor:
    """momentum, or 1/k for the k-th batch where it is None: as a tensor, so that compiled graphs stay whole."""
    if momentum is not None:
        return momentum
    if tracked is None or not training:
        return 0.0
    return 1.0 / (tracked + 1).to(torch.float32)


def check_input(call: str, x: Tensor, layouts: tuple[str, ...], num_features: int | None) -> None:
    _checks.tensor(call, "input", x)
    _checks.rank(call, x, layouts)
    if num_features is not None:
        _checks.channels(call, x, num_features)


def _train_in_transform(
    layer: BatchNorm1d | BatchNorm2d | BatchNorm3d,
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    padding: Padding | None,
) -> Tensor:
    """A training step inside torch.func: statistics that the transform was given are replaced, never written to.

    torch.func.functional_call hands the replaced buffers back in its dictionary and restores the layer's own.
    A buffer that is not an input of the transform cannot take a value from inside it, and stays as it is.
    """
    tracked = layer.num_batches_tracked
    momentum = averaging_weight(layer.momentum, tracked)
    call = type(layer).__name__
    y, new_mean, new_var = _checks.as_call(
        call, batch_norm_with_statistics, x, mean, var, layer.weight, layer.bias, momentum, layer.eps,
        activation=layer.activation, residual=residual, padding=padding,
    )  # fmt: skip
    if torch._C._functorch.is_functorch_wrapped_tensor(mean):
        layer.running_mean, layer.running_var = new_mean, new_var
        if tracked is not None:
            layer.num_batches_tracked = tracked + 1
    return y
