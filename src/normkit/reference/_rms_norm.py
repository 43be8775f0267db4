"""Root mean square normalization: LayerNorm without the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normkit.reference._arguments import (
    Array,
    as_float64,
    check_eps,
    like,
    trailing_shape,
    weight_or_ones,
)
from normkit.reference._standardize import mean_over, sum_over


@dataclass(frozen=True, eq=False)
class RMSNormCache:
    """What `rms_norm` keeps for its backward: x_hat = x * rstd, shaped as x, rstd and the weight."""

    x_hat: Array
    rstd: Array
    weight: Array


def rms_norm(
    x: npt.ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: npt.ArrayLike | None,
    eps: float,
) -> tuple[Array, RMSNormCache]:
    """Divide each row by its root mean square; nothing is subtracted.

        rstd = 1 / sqrt((1/n) sum_i x_i^2 + eps)        (eps inside the root; the mean of squares, not var)
        x_hat = x * rstd        y = x_hat * w

    Args:
        x: the input; a row is one index into the leading axes, of n = prod(normalized_shape) elements.
        normalized_shape: the sizes of the trailing axes that share a root mean square.
        weight: w, or None for ones. There is no bias.
        eps: added to the mean of squares.

    Shape:
        x and y [*rows, *normalized_shape]; weight [*normalized_shape]; the cache's rstd [*rows, 1, ...].

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: normalized_shape does not end x's shape, or weight has another shape.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = rms_norm([[3.0, 4.0]], 2, None, eps=0.0)
        >>> y.round(3)
        array([[0.849, 1.131]])

    Differs from torch:
        eps has no default: torch's, None, means the machine epsilon of x's dtype, and x has no such dtype here.

    Source:
        Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4,
        https://arxiv.org/abs/1910.07467
    """
    x = as_float64(x)
    check_eps("rms_norm", eps)
    shape = trailing_shape("rms_norm", x, normalized_shape)
    w = weight_or_ones("rms_norm", "weight", weight, shape)

    normalized_axes = tuple(range(x.ndim - len(shape), x.ndim))
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN and inf in x are data
        rstd = 1 / np.sqrt(mean_over(x * x, normalized_axes) + eps)
        x_hat = x * rstd
    return x_hat * w, RMSNormCache(x_hat, rstd, w)


def rms_norm_backward(dy: npt.ArrayLike, cache: RMSNormCache) -> tuple[Array, Array]:
    """Gradients of `rms_norm`, derived in docs/derivations/rms_norm.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - x_hat * mean(dx_hat * x_hat))    (mean over a row)
        dw = sum(dy * x_hat)                                   (sum over the rows)

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `rms_norm` returned.

    Shape:
        dy and dx as x; dw [*normalized_shape].

    Returns:
        dx, dw; dw also where weight was None, as for ones.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("rms_norm_backward", "dy", dy, x_hat.shape)
    n_row_axes = x_hat.ndim - w.ndim
    row_axes = tuple(range(n_row_axes))
    normalized_axes = tuple(range(n_row_axes, x_hat.ndim))

    dx_hat = dy * w
    dx = cache.rstd * (dx_hat - x_hat * mean_over(dx_hat * x_hat, normalized_axes))
    dw = sum_over(dy * x_hat, row_axes).reshape(w.shape)
    return dx, dw
