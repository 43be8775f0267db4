"""Add and normalize: a residual connection and the norm behind it, in one call."""

from collections.abc import Sequence

import numpy.typing as npt

from normkit.reference._arguments import Array, as_float64, like
from normkit.reference._layer_norm import layer_norm, layer_norm_backward
from normkit.reference._rms_norm import RMSNormCache, rms_norm, rms_norm_backward
from normkit.reference._standardize import NormCache


def add_layer_norm(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, NormCache]:
    """`layer_norm` of a sum, and the sum itself.

        s = x + residual        y = layer_norm(s)

    A post-norm transformer goes on with y alone; a pre-norm one feeds y to the next sublayer and adds s to
    what comes back.

    Args:
        x: one term, a sublayer's output.
        residual: the other, of the same shape: what went past the sublayer.
        normalized_shape: as in `layer_norm`, and so are weight, bias and eps.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance, inside the root.

    Shape:
        x, residual, y and s [*rows, *normalized_shape]; weight and bias [*normalized_shape].

    Dtypes:
        float64 throughout.

    Returns:
        y, s, cache.

    Raises:
        ShapeError: residual has another shape than x; else as `layer_norm`.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, s, cache = add_layer_norm([[1.0, 1.0]], [[0.0, 2.0]], 2, eps=0.01)
        >>> y.round(3), s
        (array([[-0.995,  0.995]]), array([[1., 3.]]))

    Differs from torch:
        torch has no such function.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.1, https://arxiv.org/abs/1706.03762 (y
        alone); Xiong et al., 2020, https://arxiv.org/abs/2002.04745, figure 1, for both orders.
    """
    x = as_float64(x)
    s = x + like("add_layer_norm", "residual", residual, x.shape)
    y, cache = layer_norm(s, normalized_shape, weight, bias, eps)
    return y, s, cache


def add_layer_norm_backward(
    dy: npt.ArrayLike, ds: npt.ArrayLike, cache: NormCache
) -> tuple[Array, Array, Array, Array]:
    """Gradients of `add_layer_norm`, derived in docs/derivations/add_norm.md.

        dx = dresidual = layer_norm_backward(dy).dx + ds

    Args:
        dy: the loss's gradient with respect to the normalized output.
        ds: its gradient with respect to the sum; zeros where the sum is not used further.
        cache: what `add_layer_norm` returned.

    Shape:
        dy, ds, dx and dresidual as x; dw and db [*normalized_shape].

    Returns:
        dx, dresidual, dw, db; the first two are equal.
    """
    ds = like("add_layer_norm_backward", "ds", ds, cache.x_hat.shape)
    through_norm, dw, db = layer_norm_backward(dy, cache)
    dx = through_norm + ds
    return dx, dx.copy(), dw, db


def add_rms_norm(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: npt.ArrayLike | None,
    eps: float,
) -> tuple[Array, Array, RMSNormCache]:
    """`rms_norm` of a sum, and the sum itself.

        s = x + residual        y = rms_norm(s)

    Args:
        x: one term, a sublayer's output.
        residual: the other, of the same shape: what went past the sublayer.
        normalized_shape: as in `rms_norm`, and so are weight and eps.
        weight: w, or None for ones.
        eps: added to the mean of squares, inside the root.

    Shape:
        x, residual, y and s [*rows, *normalized_shape]; weight [*normalized_shape].

    Dtypes:
        float64 throughout.

    Returns:
        y, s, cache.

    Raises:
        ShapeError: residual has another shape than x; else as `rms_norm`.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, s, cache = add_rms_norm([[1.0, 1.0]], [[2.0, 3.0]], 2, None, eps=0.0)
        >>> y.round(3), s
        (array([[0.849, 1.131]]), array([[3., 4.]]))

    Differs from torch:
        torch has no such function.

    Source:
        As `add_layer_norm`, with the norm of Zhang, Sennrich, 2019, https://arxiv.org/abs/1910.07467
    """
    x = as_float64(x)
    s = x + like("add_rms_norm", "residual", residual, x.shape)
    y, cache = rms_norm(s, normalized_shape, weight, eps)
    return y, s, cache


def add_rms_norm_backward(dy: npt.ArrayLike, ds: npt.ArrayLike, cache: RMSNormCache) -> tuple[Array, Array, Array]:
    """Gradients of `add_rms_norm`, derived in docs/derivations/add_norm.md.

        dx = dresidual = rms_norm_backward(dy).dx + ds

    Args:
        dy: the loss's gradient with respect to the normalized output.
        ds: its gradient with respect to the sum; zeros where the sum is not used further.
        cache: what `add_rms_norm` returned.

    Shape:
        dy, ds, dx and dresidual as x; dw [*normalized_shape].

    Returns:
        dx, dresidual, dw; the first two are equal.
    """
    ds = like("add_rms_norm_backward", "ds", ds, cache.x_hat.shape)
    through_norm, dw = rms_norm_backward(dy, cache)
    dx = through_norm + ds
    return dx, dx.copy(), dw
