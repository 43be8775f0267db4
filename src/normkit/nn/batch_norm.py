"""BatchNorm for vectors and sequences, images, and volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from normkit import _checks
from normkit.composite import Activation, under_functorch
from normkit.functional import batch_norm, batch_norm_with_statistics
from normkit.nn import _policies
from normkit.nn._policies import TORCH, Nonfinite, SingleValue, StatisticsPolicy
from normkit.nn._statistics import (
    apply_keeping_float32,
    check_arguments,
    keep_in_float32,
    share_of_next,
    with_activation,
)
from normkit.nn._updates import step_of
from normkit.pooling import Variance

if TYPE_CHECKING:
    from normkit.nn.sync_batch_norm import SyncBatchNorm

    Layer: TypeAlias = "BatchNorm1d | BatchNorm2d | BatchNorm3d | SyncBatchNorm"


class BatchNorm1d(torch.nn.BatchNorm1d):
    """Normalizes each channel over the batch, and over the positions where there are any.

    In training: y = (x − mean) / sqrt(var + eps) · weight[c] + bias[c], with the mean and the population
    variance of channel c over all samples and positions of the batch, eps inside the root; and
    running = (1 − momentum) · running + momentum · batch, where the batch's variance is the unbiased one.
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
        single_value: what a training batch of one value per channel is. "raise" makes it an error; "running"
            normalizes it with the running statistics; "skip" with itself, which leaves the bias. The latter two
            leave the statistics alone.
        nonfinite: what NaN, infinity or overflow in a channel of a training batch does. "propagate" lets it enter
            the running statistics; "skip" keeps those of the channel as they were, and counts no batch without a
            finite channel; "raise" makes it an error. Outputs are what they are.
        running_variance: "unbiased" or "biased", the variance of the batch that enters the running one.
        virtual_batch_size: normalize in virtual batches of at most so many samples, as equal as can be, which
            enter the running statistics one after another; no smaller tail is left. None takes the whole batch.

    Shape:
        input [N, C] or [N, C, L] -> output of the same shape. forward takes a residual of the input's shape and dtype,
        too: y = activation(norm(input) + residual), in the same pass.

    Dtypes:
        float32, float64, bfloat16, float16. 16-bit input is computed in float32 and rounded once; parameters
        may be float32. Parameter gradients accumulate in float32 at least. ``.half()`` and ``.bfloat16()``
        leave the running statistics in float32.

    Raises:
        ShapeError: another rank or number of channels; one value per channel when training.
        ArgumentError: eps is negative, or 0 when training; momentum is not a number; another activation.
        DtypeError: the input is an integer or complex tensor, or its dtype does not fit the parameters'.
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
    frozen_statistics = False
    policy = TORCH

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
        single_value: SingleValue = "raise",
        nonfinite: Nonfinite = "propagate",
        running_variance: Variance = "unbiased",
        virtual_batch_size: int | None = None,
    ) -> None:
        check_arguments("BatchNorm1d", num_features, eps, momentum)
        _checks.activation("BatchNorm1d", activation)
        policy = StatisticsPolicy(single_value, nonfinite, running_variance, virtual_batch_size).check(
            "BatchNorm1d", tracks=track_running_stats
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation
        if policy != TORCH:
            self.policy = policy

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return batch_norm_step(self, input, residual, ("N, C", "N, C, L"))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation) + str(self.policy)  # type: ignore[no-untyped-call]

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
    frozen_statistics = False
    policy = TORCH

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
        single_value: SingleValue = "raise",
        nonfinite: Nonfinite = "propagate",
        running_variance: Variance = "unbiased",
        virtual_batch_size: int | None = None,
    ) -> None:
        check_arguments("BatchNorm2d", num_features, eps, momentum)
        _checks.activation("BatchNorm2d", activation)
        policy = StatisticsPolicy(single_value, nonfinite, running_variance, virtual_batch_size).check(
            "BatchNorm2d", tracks=track_running_stats
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation
        if policy != TORCH:
            self.policy = policy

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return batch_norm_step(self, input, residual, ("N, C, H, W",))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation) + str(self.policy)  # type: ignore[no-untyped-call]

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
    frozen_statistics = False
    policy = TORCH

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
        single_value: SingleValue = "raise",
        nonfinite: Nonfinite = "propagate",
        running_variance: Variance = "unbiased",
        virtual_batch_size: int | None = None,
    ) -> None:
        check_arguments("BatchNorm3d", num_features, eps, momentum)
        _checks.activation("BatchNorm3d", activation)
        policy = StatisticsPolicy(single_value, nonfinite, running_variance, virtual_batch_size).check(
            "BatchNorm3d", tracks=track_running_stats
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation
        if policy != TORCH:
            self.policy = policy

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return batch_norm_step(self, input, residual, ("N, C, D, H, W",))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation) + str(self.policy)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm3d:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


def batch_norm_step(layer: Layer, x: Tensor, residual: Tensor | None, layouts: tuple[str, ...]) -> Tensor:
    """What the layers do with an input that has one of the layouts."""
    mean, var = layer.running_mean, layer.running_var
    needs_channels = layer.num_features if layer.affine or mean is not None else None
    step = step_of(layer)
    if step == "observe" or (step == "update" and not layer.track_running_stats):  # they are neither used nor changed
        mean = var = None
    policy = getattr(layer, "policy", TORCH)
    if step != "evaluate" and policy is not TORCH and x.numel() > 0:
        check_input(type(layer).__name__, x, layouts, needs_channels)
        if residual is not None:
            _checks.residual(type(layer).__name__, x, residual)
        return _policies.step(layer, policy, x, _normalize(layer, residual), update=step == "update")
    if step == "update" and mean is not None and var is not None and under_functorch():
        check_input(type(layer).__name__, x, layouts, needs_channels)
        return _train_in_transform(layer, x, residual, mean, var)
    tracked, momentum = layer.num_batches_tracked, layer.momentum
    return checked_batch_norm(
        type(layer).__name__,
        layouts,
        x,
        needs_channels,
        mean,
        var,
        tracked if step == "update" and layer.track_running_stats else None,
        layer.weight,
        layer.bias,
        step != "evaluate",
        momentum,
        layer.eps,
        layer.activation,
        residual,
    )


def _normalize(layer: Layer, residual: Tensor | None) -> _policies.Normalize:
    """How the layer normalizes some rows of its input."""
    call, w, b, eps, activation = type(layer).__name__, layer.weight, layer.bias, layer.eps, layer.activation

    def own(x: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = x.new_zeros(x.shape[1], dtype=dtype), x.new_ones(x.shape[1], dtype=dtype)
        part = None if residual is None else residual[rows]
        if under_functorch():
            return _checks.as_call(
                call, batch_norm_with_statistics, x, mean, var, w, b, 1.0, eps, activation=activation, residual=part
            )
        y = _checks.as_call(call, batch_norm, x, mean, var, w, b, True, 1.0, eps, activation=activation, residual=part)
        return y, mean, var

    def given(x: Tensor, rows: slice, mean: Tensor, var: Tensor) -> Tensor:
        part = None if residual is None else residual[rows]
        return _checks.as_call(
            call, batch_norm, x, mean, var, w, b, False, 0.0, eps, activation=activation, residual=part
        )

    return _policies.Normalize(own, given)


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
) -> Tensor:
    """One step of the layer. torch.fx records it as one call, as it records torch's own layer."""
    check_input(call, x, layouts, num_features)
    own_statistics = training or (mean is None and var is None)
    weight_of_batch = averaging_weight(momentum, tracked, training)
    y = _checks.as_call(
        call, batch_norm, x, mean, var, w, b, own_statistics, weight_of_batch, eps,
        activation=activation, residual=residual,
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
    return share_of_next(tracked)


def check_input(call: str, x: Tensor, layouts: tuple[str, ...], num_features: int | None) -> None:
    _checks.tensor(call, "input", x)
    _checks.rank(call, x, layouts)
    if num_features is not None:
        _checks.channels(call, x, num_features)


def _train_in_transform(layer: Layer, x: Tensor, residual: Tensor | None, mean: Tensor, var: Tensor) -> Tensor:
    """A training step inside torch.func: statistics that the transform was given are replaced, never written to.

    torch.func.functional_call hands the replaced buffers back in its dictionary and restores the layer's own.
    A buffer that is not an input of the transform cannot take a value from inside it, and stays as it is.
    """
    tracked = layer.num_batches_tracked
    momentum = averaging_weight(layer.momentum, tracked)
    call = type(layer).__name__
    y, new_mean, new_var = _checks.as_call(
        call, batch_norm_with_statistics, x, mean, var, layer.weight, layer.bias, momentum, layer.eps,
        activation=layer.activation, residual=residual,
    )  # fmt: skip
    if torch._C._functorch.is_functorch_wrapped_tensor(mean):
        layer.running_mean, layer.running_var = new_mean, new_var
        if tracked is not None:
            layer.num_batches_tracked = tracked + 1
    return y
