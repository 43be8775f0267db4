"""Batch normalization: every channel is standardized by its mean and variance over the batch."""

import numpy as np
import numpy.typing as npt

from normkit.reference._arguments import (
    Array,
    as_float64,
    bias_or_zeros,
    check_eps,
    check_rank,
    like,
    per_channel,
    weight_or_ones,
)
from normkit.reference._standardize import NormCache, standardize, standardize_backward, sum_over


def batch_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, NormCache]:
    """Normalize each channel by the statistics of this batch, as in training.

        mean = (1/n) sum_i x_i        var = (1/n) sum_i (x_i - mean)^2        (population: divided by n)
        x_hat = (x - mean) / sqrt(var + eps)                                  (eps inside the root)
        y = x_hat * w + b

    with the sums over all axes but axis 1, n = N * prod(spatial) elements for each channel.

    Args:
        x: the input.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance.

    Shape:
        x and y [N, C, *spatial]; weight and bias [C]; the cache's mean, var and rstd [C].

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: x has fewer than two dimensions, or weight or bias is not [C].
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = batch_norm([[1.0, 10.0], [3.0, 10.0]], eps=0.01)
        >>> y.round(3)
        array([[-0.995,  0.   ],
               [ 0.995,  0.   ]])

    Differs from torch:
        Never touches running statistics: `batch_norm_running_update` does. One value a channel gives the bias
        here, since the formula does; torch refuses it in training, where it has no sample variance.

    Source:
        Ioffe, Szegedy, "Batch Normalization", 2015, algorithm 1, https://arxiv.org/abs/1502.03167
    """
    x = as_float64(x)
    check_eps("batch_norm", eps)
    check_rank("batch_norm", x, 2, "[N, C, *spatial]")
    channels = x.shape[1:2]
    w = weight_or_ones("batch_norm", "weight", weight, channels)
    b = bias_or_zeros("batch_norm", "bias", bias, channels)

    x_hat, mean, var, rstd = standardize(x, _all_but_channels(x), eps)
    y = x_hat * per_channel(w, x.ndim) + per_channel(b, x.ndim)
    return y, NormCache(x_hat, mean.reshape(channels), var.reshape(channels), rstd.reshape(channels), w)


def batch_norm_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `batch_norm`, derived in docs/derivations/batch_norm.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))
        dw = sum(dy * x_hat)        db = sum(dy)

    with means and sums over all axes but axis 1. mean and rstd depend on x, and the two means account for it.

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `batch_norm` returned.

    Shape:
        dy and dx as x; dw and db [C].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("batch_norm_backward", "dy", dy, x_hat.shape)
    axes = _all_but_channels(x_hat)

    dx_hat = dy * per_channel(w, dy.ndim)
    dx = standardize_backward(dx_hat, x_hat, per_channel(cache.rstd, dy.ndim), axes)
    dw = sum_over(dy * x_hat, axes).reshape(w.shape)
    db = sum_over(dy, axes).reshape(w.shape)
    return dx, dw, db


def batch_norm_inference(
    x: npt.ArrayLike,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, NormCache]:
    """Normalize each channel by statistics given from outside, as in evaluation.

        x_hat = (x - running_mean) / sqrt(running_var + eps)        y = x_hat * w + b

    Args:
        x: the input.
        running_mean: subtracted from each channel.
        running_var: the variance each channel is divided by.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance, inside the root.

    Shape:
        x and y [N, C, *spatial]; all else [C].

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: x has fewer than two dimensions, or another argument is not [C].
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = batch_norm_inference([[7.0]], running_mean=[1.0], running_var=[4.0], eps=0.0)
        >>> y
        array([[3.]])

    Differs from torch:
        Also returns the cache for `batch_norm_inference_backward`.

    Source:
        Ioffe, Szegedy, 2015, algorithm 2, step 11, https://arxiv.org/abs/1502.03167
    """
    x = as_float64(x)
    call = "batch_norm_inference"
    check_eps(call, eps)
    check_rank(call, x, 2, "[N, C, *spatial]")
    channels = x.shape[1:2]
    mean = like(call, "running_mean", running_mean, channels)
    var = like(call, "running_var", running_var, channels)
    w = weight_or_ones(call, "weight", weight, channels)
    b = bias_or_zeros(call, "bias", bias, channels)

    with np.errstate(divide="ignore", invalid="ignore"):  # NaN and inf in x are data
        rstd = 1 / np.sqrt(var + eps)
        x_hat = (x - per_channel(mean, x.ndim)) * per_channel(rstd, x.ndim)
    y = x_hat * per_channel(w, x.ndim) + per_channel(b, x.ndim)
    return y, NormCache(x_hat, mean, var, rstd, w)


def batch_norm_inference_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `batch_norm_inference`, derived in docs/derivations/batch_norm.md.

        dx = dy * w * rstd        dw = sum(dy * x_hat)        db = sum(dy)

    The statistics are constants here, so the two means of `batch_norm_backward` are absent.

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `batch_norm_inference` returned.

    Shape:
        dy and dx as x; dw and db [C].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("batch_norm_inference_backward", "dy", dy, x_hat.shape)
    axes = _all_but_channels(x_hat)

    dx = dy * per_channel(w * cache.rstd, dy.ndim)
    dw = sum_over(dy * x_hat, axes).reshape(w.shape)
    db = sum_over(dy, axes).reshape(w.shape)
    return dx, dw, db


def _all_but_channels(x: Array) -> tuple[int, ...]:
    """Axis 0 and the spatial axes: what one channel's statistics are taken over."""
    return (0, *range(2, x.ndim))
