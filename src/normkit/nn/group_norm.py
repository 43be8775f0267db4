"""GroupNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import _checks
from normkit._padding import Padding, keywords, padding_of
from normkit.composite import Activation
from normkit.functional import group_norm
from normkit.nn._ragged import is_ragged, through_padding
from normkit.nn._statistics import with_activation


class GroupNorm(torch.nn.GroupNorm):
    """Normalizes each group of channels of each sample.

    y = (x − mean) / sqrt(var + eps) · weight[c] + bias[c], with the mean and the population variance over the
    channels of the group and all positions of one sample, and eps inside the root. num_groups=1 is LayerNorm
    over (C, *), num_groups=num_channels is InstanceNorm.

    Args:
        num_groups: how many groups the channels are divided into; divides num_channels.
        num_channels: C.
        eps: added to the variance.
        affine: whether to learn weight (starts at 1) and bias (starts at 0), one a channel.
        device, dtype: of the parameters.
        bias: False leaves out the bias.
        activation: "relu", "silu" or "gelu" (the exact one), applied to y in the same pass and rounded once with it;
            None for none.

    Shape:
        input [N, C, *] -> output of the same shape and memory format. forward takes ``mask=``, ``weights=`` and
        ``lengths=`` as BatchNorm1d's, and ragged input as that does.

    Dtypes:
        As LayerNorm.

    Raises:
        ShapeError: num_groups does not divide num_channels; the input has another number of channels, or one
            value a group.
        ArgumentError: eps is negative or not finite; another activation.
        DtypeError: as LayerNorm.

    Example:
        >>> GroupNorm(2, 4)(torch.tensor([[1.0, 3.0, 5.0, 9.0]])).detach()
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])

    Differs from torch:
        A group of a single value is an error in any batch, since its output would be the bias whatever the
        input; torch raises only where the batch has one sample too. Otherwise as LayerNorm.

    Source:
        Wu, He, "Group Normalization", 2018, eq. 1 and 7; https://arxiv.org/abs/1803.08494
    """

    activation: Activation | None = None  # also of what was built as a torch layer

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        _checks.size("GroupNorm", "num_channels", num_channels)
        _checks.groups("GroupNorm", num_groups, num_channels)
        _checks.eps("GroupNorm", eps)
        _checks.activation("GroupNorm", activation)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype, bias=bias)
        self.activation = activation

    def forward(
        self,
        input: Tensor,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        call, padding = type(self).__name__, padding_of(mask, weights, lengths)
        if is_ragged(input):
            ragged: Tensor = through_padding(call, self.forward, input, padding)  # ragged as the input
            return ragged
        return checked_group_norm(
            call, input, self.num_groups, self.num_channels, self.weight, self.bias, self.eps, self.activation, padding
        )

    def extra_repr(self) -> str:
        return with_activation(super().extra_repr(), self.activation)


def checked_group_norm(
    call: str,
    x: Tensor,
    num_groups: int,
    num_channels: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None,
    padding: Padding | None = None,
) -> Tensor:
    """One call of the layer, as torch.fx records it. Without parameters it takes any number of channels."""
    _checks.tensor(call, "input", x)
    _checks.at_least_2d(call, x)
    if w is not None or b is not None:
        _checks.channels(call, x, num_channels)
    return _checks.as_call(call, group_norm, x, num_groups, w, b, eps, activation=activation, **keywords(padding))


# torch.fx records one call, as it does for torch's own layers.
torch.fx.wrap("checked_group_norm")
