"""The residual sum and its normalization as one layer, the step between two blocks of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import _checks
from normkit.errors import NormkitError
from normkit.functional import add_layer_norm, add_rms_norm

# torch.fx records one call, as it does for torch's own layers.
torch.fx.wrap("add_layer_norm")
torch.fx.wrap("add_rms_norm")


class AddLayerNorm(torch.nn.LayerNorm):
    """sum = dropout(x) + residual, and LayerNorm of the sum; returns both.

    Args:
        normalized_shape, eps, elementwise_affine, bias, device, dtype: as LayerNorm.
        dropout_p: probability of dropping an element of x in training; what is kept is divided by 1 − p.

    Shape:
        x and residual [*, *normalized_shape] -> (normalized, sum), each of the same shape.

    Dtypes:
        As LayerNorm; the sum is rounded to the input's dtype and it is the rounded sum that is normalized, so
        that the layer equals ``h = dropout(x) + residual; LayerNorm(h), h``.

    Raises:
        ShapeError, DtypeError: residual differs from x in shape or dtype; as LayerNorm.
        ArgumentError: dropout_p is not a probability; as LayerNorm.

    Example:
        >>> normalized, total = AddLayerNorm(2)(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
        >>> normalized.detach(), total
        (tensor([-1.0000,  1.0000]), tensor([1., 3.]))

    Differs from torch:
        torch has no such layer.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.1; https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dropout_p: float = 0.0,
    ) -> None:
        shape = _checks.normalized_shape("AddLayerNorm", normalized_shape)
        _checks.eps("AddLayerNorm", eps)
        _checks.probability("AddLayerNorm", "dropout_p", dropout_p)
        super().__init__(list(shape), eps, elementwise_affine, bias, device, dtype)
        self.dropout_p = dropout_p

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        try:
            return add_layer_norm(
                x, residual, self.normalized_shape, self.weight, self.bias, self.eps, self.dropout_p, self.training
            )
        except NormkitError as error:
            raise _checks.of_call(type(self).__name__, error) from None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout_p={self.dropout_p}"


class AddRMSNorm(torch.nn.RMSNorm):
    """sum = dropout(x) + residual, and RMSNorm of the sum; returns both.

    Args:
        normalized_shape, eps, elementwise_affine, device, dtype: as RMSNorm.
        dropout_p: probability of dropping an element of x in training; what is kept is divided by 1 − p.

    Shape:
        x and residual [*, *normalized_shape] -> (normalized, sum), each of the same shape.

    Dtypes:
        As RMSNorm; it is the sum rounded to the input's dtype that is normalized.

    Raises:
        ShapeError, DtypeError: residual differs from x in shape or dtype; as RMSNorm.
        ArgumentError: dropout_p is not a probability; as RMSNorm.

    Example:
        >>> normalized, total = AddRMSNorm(2)(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0]))
        >>> normalized.detach(), total
        (tensor([0.8485, 1.1314]), tensor([3., 4.]))

    Differs from torch:
        torch has no such layer.

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
        *,
        dropout_p: float = 0.0,
    ) -> None:
        shape = _checks.normalized_shape("AddRMSNorm", normalized_shape)
        if eps is not None:
            _checks.eps("AddRMSNorm", eps)
        _checks.probability("AddRMSNorm", "dropout_p", dropout_p)
        super().__init__(list(shape), eps, elementwise_affine, device, dtype)
        self.dropout_p = dropout_p

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        try:
            return add_rms_norm(
                x, residual, self.normalized_shape, self.weight, self.eps, self.dropout_p, self.training
            )
        except NormkitError as error:
            raise _checks.of_call(type(self).__name__, error) from None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout_p={self.dropout_p}"
