"""Instance normalization: each channel of each sample is standardized by itself."""

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


def instance_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, NormCache]:
    """Normalize each channel of each sample over its spatial axes.

        mean = (1/n) sum_i x_i        var = (1/n) sum_i (x_i - mean)^2        (population: divided by n)
        x_hat = (x - mean) / sqrt(var + eps)                                  (eps inside the root)
        y = x_hat * w + b

    with the sums over the n = prod(spatial) elements of one sample's channel.

    A layer that tracks running statistics updates them with `batch_norm_running_update`, given the average over
    the samples, cache.mean.mean(0) and cache.var.mean(0), and count = n; in inference it is
    `batch_norm_inference`.

    Args:
        x: the input.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance.

    Shape:
        x and y [N, C, *spatial], at least one spatial axis; weight and bias [C]; the cache's mean, var and
        rstd [N, C].

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: x has fewer than three dimensions, or weight or bias is not [C].
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = instance_norm([[[1.0, 3.0], [50.0, 50.0]]], eps=0.01)
        >>> y.round(3)
        array([[[-0.995,  0.995],
                [ 0.   ,  0.   ]]])

    Differs from torch:
        One spatial element gives the bias, since the formula does; torch refuses it.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016, section 2,
        https://arxiv.org/abs/1607.08022
    """
    x = as_float64(x)
    check_eps("instance_norm", eps)
    check_rank("instance_norm", x, 3, "[N, C, *spatial]")
    channels = x.shape[1:2]
    w = weight_or_ones("instance_norm", "weight", weight, channels)
    b = bias_or_zeros("instance_norm", "bias", bias, channels)

    x_hat, mean, var, rstd = standardize(x, tuple(range(2, x.ndim)), eps)
    y = x_hat * per_channel(w, x.ndim) + per_channel(b, x.ndim)
    statistics = x.shape[:2]
    return y, NormCache(x_hat, mean.reshape(statistics), var.reshape(statistics), rstd.reshape(statistics), w)


def instance_norm_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `instance_norm`, derived in docs/derivations/group_norm.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))    (means over the spatial axes)
        dw = sum(dy * x_hat)        db = sum(dy)                              (sums over all axes but axis 1)

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `instance_norm` returned.

    Shape:
        dy and dx as x; dw and db [C].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("instance_norm_backward", "dy", dy, x_hat.shape)
    spatial_axes = tuple(range(2, dy.ndim))
    rstd = cache.rstd.reshape(*cache.rstd.shape, *(1,) * len(spatial_axes))

    dx = standardize_backward(dy * per_channel(w, dy.ndim), x_hat, rstd, spatial_axes)
    dw = sum_over(dy * x_hat, (0, *spatial_axes)).reshape(w.shape)
    db = sum_over(dy, (0, *spatial_axes)).reshape(w.shape)
    return dx, dw, db
