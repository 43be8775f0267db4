"""LayerNorm, and LayerNorm over the channels of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import _checks
from normkit.errors import NormkitError
from normkit.functional import layer_norm, layer_norm2d

# torch.fx records one call, as it does for torch's own layers.
torch.fx.wrap("layer_norm")
torch.fx.wrap("checked_layer_norm2d")


class LayerNorm(torch.nn.LayerNorm):
    """Normalizes each sample, or each token, over its last axes.

    y = (x − mean) / sqrt(var + eps) · weight + bias, with the mean and the population variance of x taken over
    the last ``len(normalized_shape)`` axes and eps inside the root.

    Args:
        normalized_shape: the sizes of the axes to normalize over; an integer stands for the last axis.
        eps: added to the variance.
        elementwise_affine: whether to learn weight (starts at 1) and bias (starts at 0).
        bias: False leaves out the bias.
        device, dtype: of the parameters.

    Shape:
        input [*, *normalized_shape] -> output of the same shape, contiguous.

    Dtypes:
        float32, float64, bfloat16, float16. 16-bit input is computed in float32 and rounded once; its
        parameters may be float32. Parameter gradients accumulate in float32 at least.

    Raises:
        ShapeError: the last axes of the input are not normalized_shape.
        DtypeError: the input is an integer or complex tensor, or its dtype does not fit the parameters'.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> layer = LayerNorm(4)
        >>> layer(torch.tensor([[0.0, 1.0, 2.0, 3.0]]) + 1e6).detach()
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])

    Differs from torch:
        Nothing in the interface. The error stays below 4 units in the last place of
        max(|y|, |weight|·(1 + |x̂|), |bias|) at any offset, values up to the largest finite float32 are
        normalized, and derivatives of every order and mode are right.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, eq. 3; https://arxiv.org/abs/1607.06450
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        shape = _checks.normalized_shape("LayerNorm", normalized_shape)
        _checks.eps("LayerNorm", eps)
        super().__init__(list(shape), eps, elementwise_affine, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        try:
            return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        except NormkitError as error:
            raise _checks.of_call(type(self).__name__, error) from None


class LayerNorm2d(torch.nn.Module):
    """LayerNorm over the channels at each position of a feature map, without moving an axis.

    y[n, c, h, w] = (x − mean) / sqrt(var + eps) · weight[c] + bias[c], with the mean and the population
    variance of x[n, :, h, w] and eps inside the root.

    Args:
        num_channels: C.
        eps: added to the variance.
        elementwise_affine: whether to learn weight (starts at 1) and bias (starts at 0).
        bias: False leaves out the bias.
        device, dtype: of the parameters.

    Shape:
        input [N, C, H, W] or [C, H, W] -> output of the same shape and memory format.

    Dtypes:
        As LayerNorm.

    Raises:
        ShapeError: the input is not 3-d or 4-d, or has another number of channels.
        DtypeError, ArgumentError: as LayerNorm.

    Example:
        >>> layer = LayerNorm2d(2)
        >>> layer(torch.tensor([[1.0, 5.0], [3.0, 5.0]]).view(1, 2, 1, 2)).detach().flatten(1)
        tensor([[-1.0000,  0.0000,  1.0000,  0.0000]])

    Differs from torch:
        torch has no such layer. Permuting to channels-last, ``torch.nn.LayerNorm`` and back gives the same
        numbers, copies the map and changes the memory format of what follows.

    Source:
        Liu et al., "A ConvNet for the 2020s", 2022, section 2.6; https://arxiv.org/abs/2201.03545
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _checks.size("LayerNorm2d", "num_channels", num_channels)
        _checks.eps("LayerNorm2d", eps)
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight: torch.nn.Parameter | None
        self.bias: torch.nn.Parameter | None
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            value = torch.nn.Parameter(torch.empty(num_channels, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            torch.nn.init.ones_(self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return checked_layer_norm2d(type(self).__name__, input, self.num_channels, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


def checked_layer_norm2d(
    call: str, x: Tensor, num_channels: int, w: Tensor | None, b: Tensor | None, eps: float
) -> Tensor:
    """One call of the layer, as torch.fx records it."""
    _checks.tensor(call, "input", x)
    _checks.rank(call, x, ("N, C, H, W", "C, H, W"))
    _checks.channels(call, x, num_channels, x.dim() - 3)
    return _checks.as_call(call, layer_norm2d, x, w, b, eps)
