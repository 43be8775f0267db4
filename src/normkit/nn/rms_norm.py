"""RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import _checks
from normkit.errors import NormkitError
from normkit.functional import rms_norm

# torch.fx records one call, as it does for torch's own layers.
torch.fx.wrap("rms_norm")


class RMSNorm(torch.nn.RMSNorm):
    """Divides each sample, or each token, by the root of its mean square over the last axes.

    y = x / sqrt(mean(x²) + eps) · weight, with the mean over the last ``len(normalized_shape)`` axes and eps
    inside the root.

    Args:
        normalized_shape: the sizes of the axes to normalize over; an integer stands for the last axis.
        eps: added to the mean square; None takes the machine epsilon of the type that is computed in: float64's
            for float64 input, float32's for all others.
        elementwise_affine: whether to learn weight (starts at 1).
        device, dtype: of the parameter.

    Shape:
        input [*, *normalized_shape] -> output of the same shape; channels_last input stays so.

    Dtypes:
        float32, float64, bfloat16, float16. 16-bit input is computed in float32 and rounded once. The weight
        may have any of these dtypes; the output has the input's.

    Raises:
        ShapeError: the last axes of the input are not normalized_shape.
        DtypeError: the input is an integer or complex tensor.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> RMSNorm(2)(torch.tensor([3.0, 4.0])).detach()
        tensor([0.8485, 1.1314])

    Differs from torch:
        Complex input is an error rather than the square of a complex number. Values up to the largest finite
        float32 are normalized.

    Source:
        Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4; https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        shape = _checks.normalized_shape("RMSNorm", normalized_shape)
        if eps is not None:
            _checks.eps("RMSNorm", eps)
        super().__init__(list(shape), eps, elementwise_affine, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        try:
            return rms_norm(x, self.normalized_shape, self.weight, self.eps)
        except NormkitError as error:
            raise _checks.of_call(type(self).__name__, error) from None
