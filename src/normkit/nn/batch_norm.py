"""BatchNorm for vectors and sequences, images, and volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from normkit import _checks
from normkit._padding import padding_of
from normkit.composite import Activation
from normkit.nn._batch_norm_step import batch_norm_step
from normkit.nn._policies import TORCH, Nonfinite, SingleValue, StatisticsPolicy
from normkit.nn._ragged import is_ragged, through_rows
from normkit.nn._statistics import apply_keeping_float32, check_arguments, keep_in_float32, with_activation
from normkit.pooling import Variance


class _BatchNormLayer(torch.nn.modules.batchnorm._BatchNorm):
    """What the layers have in common; the classes below differ in the layouts that they take."""

    layouts: ClassVar[tuple[str, ...]]
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
        check_arguments(type(self).__name__, num_features, eps, momentum)
        _checks.activation(type(self).__name__, activation)
        policy = StatisticsPolicy(single_value, nonfinite, running_variance, virtual_batch_size).check(
            type(self).__name__, tracks=track_running_stats
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        keep_in_float32(self)
        self.activation = activation
        if policy != TORCH:
            self.policy = policy

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        return batch_norm_step(self, input, residual, self.layouts, padding_of(mask, weights, lengths))

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation) + str(self.policy)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _BatchNormLayer:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


class BatchNorm1d(_BatchNormLayer, torch.nn.BatchNorm1d):
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
            padding when training. In a compiled graph and under torch.func the values are not looked at: a batch of
            padding gives 0 and leaves the running mean and variance alone.
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

    layouts = ("N, C", "N, C, L")

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
            ragged: Tensor = through_rows(
                type(self).__name__, self.forward, input, residual, padding
            )  # ragged as the input
            return ragged
        return batch_norm_step(self, input, residual, self.layouts, padding)


class BatchNorm2d(_BatchNormLayer, torch.nn.BatchNorm2d):
    """Normalizes each channel of a feature map over the batch and all positions.

    As :class:`BatchNorm1d`, for input [N, C, H, W]; channels_last input gives channels_last output.

    Example:
        >>> BatchNorm2d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)).detach().flatten()
        tensor([-1.0000,  1.0000])
    """

    layouts = ("N, C, H, W",)


class BatchNorm3d(_BatchNormLayer, torch.nn.BatchNorm3d):
    """Normalizes each channel of a volume over the batch and all positions.

    As :class:`BatchNorm1d`, for input [N, C, D, H, W]; channels_last_3d input gives channels_last_3d output.

    Example:
        >>> BatchNorm3d(1)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2)).detach().flatten()
        tensor([-1.0000,  1.0000])
    """

    layouts = ("N, C, D, H, W",)
