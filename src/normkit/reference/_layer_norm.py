"""Layer normalization: every row is standardized by its own mean and variance."""

from collections.abc import Sequence

import numpy.typing as npt

from normkit.reference._arguments import (
    Array,
    as_float64,
    bias_or_zeros,
    check_eps,
    like,
    trailing_shape,
    weight_or_ones,
)
from normkit.reference._standardize import NormCache, standardize, standardize_backward, sum_over


def layer_norm(
    x: npt.ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, NormCache]:
    """Normalize over the trailing axes, each row by itself.

        mean = (1/n) sum_i x_i        var = (1/n) sum_i (x_i - mean)^2        (population: divided by n)
        x_hat = (x - mean) / sqrt(var + eps)                                  (eps inside the root)
        y = x_hat * w + b

    Args:
        x: the input; a row is one index into the leading axes, of n = prod(normalized_shape) elements.
        normalized_shape: the sizes of the trailing axes that share a mean.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance.

    Shape:
        x and y [*rows, *normalized_shape]; weight and bias [*normalized_shape]; the cache's mean, var and rstd
        [*rows, 1, ...], with a 1 for each normalized axis.

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: normalized_shape does not end x's shape, or weight or bias has another shape.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = layer_norm([[1.0, 3.0], [5.0, 5.0]], 2, eps=0.01)
        >>> y.round(3)
        array([[-0.995,  0.995],
               [ 0.   ,  0.   ]])

    Differs from torch:
        Also returns the cache for `layer_norm_backward`. A row of one element gives its bias, as torch's does.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, equations 3 and 4, https://arxiv.org/abs/1607.06450
    """
    x = as_float64(x)
    check_eps("layer_norm", eps)
    shape = trailing_shape("layer_norm", x, normalized_shape)
    w = weight_or_ones("layer_norm", "weight", weight, shape)
    b = bias_or_zeros("layer_norm", "bias", bias, shape)

    normalized_axes = tuple(range(x.ndim - len(shape), x.ndim))
    x_hat, mean, var, rstd = standardize(x, normalized_axes, eps)
    y = x_hat * w + b
    return y, NormCache(x_hat, mean, var, rstd, w)


def layer_norm_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `layer_norm`, derived in docs/derivations/layer_norm.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))    (means over a row)
        dw = sum(dy * x_hat)        db = sum(dy)                              (sums over the rows)

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `layer_norm` returned.

    Shape:
        dy and dx as x; dw and db [*normalized_shape].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("layer_norm_backward", "dy", dy, x_hat.shape)
    n_row_axes = x_hat.ndim - w.ndim
    row_axes = tuple(range(n_row_axes))
    normalized_axes = tuple(range(n_row_axes, x_hat.ndim))

    dx = standardize_backward(dy * w, x_hat, cache.rstd, normalized_axes)
    dw = sum_over(dy * x_hat, row_axes).reshape(w.shape)
    db = sum_over(dy, row_axes).reshape(w.shape)
    return dx, dw, db
