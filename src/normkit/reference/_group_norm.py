"""Group normalization: each sample's channels are standardized group by group."""

import math

import numpy.typing as npt

from normkit.errors import ArgumentError
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


def group_norm(
    x: npt.ArrayLike,
    num_groups: int,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, NormCache]:
    """Normalize each sample's channels in num_groups groups of C / num_groups neighbours.

        mean = (1/n) sum_i x_i        var = (1/n) sum_i (x_i - mean)^2        (population: divided by n)
        x_hat = (x - mean) / sqrt(var + eps)                                  (eps inside the root)
        y = x_hat * w + b                                                     (w and b by channel, not by group)

    with the sums over the n = C / num_groups * prod(spatial) elements of one sample's group.

    Args:
        x: the input.
        num_groups: how many groups; it must divide C. With 1 every sample is one group (a LayerNorm over
            [C, *spatial] with a weight by channel), with C it is `instance_norm`.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance.

    Shape:
        x and y [N, C, *spatial]; weight and bias [C]; the cache's mean, var and rstd [N, num_groups].

    Dtypes:
        float64 throughout.

    Raises:
        ArgumentError: num_groups does not divide C, or eps is negative or not finite.
        ShapeError: x has fewer than two dimensions, or weight or bias is not [C].

    Example:
        >>> y, cache = group_norm([[1.0, 3.0, 50.0, 50.0]], 2, eps=0.01)
        >>> y.round(3)
        array([[-0.995,  0.995,  0.   ,  0.   ]])

    Differs from torch:
        A group of one element gives its bias, since the formula does; torch refuses it.

    Source:
        Wu, He, "Group Normalization", 2018, equations 1, 2, 6 and 7, https://arxiv.org/abs/1803.08494
    """
    x = as_float64(x)
    check_eps("group_norm", eps)
    check_rank("group_norm", x, 2, "[N, C, *spatial]")
    channels = x.shape[1:2]
    if num_groups < 1 or channels[0] % num_groups:
        raise ArgumentError(
            f"group_norm: expected num_groups that divides the {channels[0]} channels of x, got {num_groups}; "
            f"use one of {_divisors(channels[0])}."
        )
    w = weight_or_ones("group_norm", "weight", weight, channels)
    b = bias_or_zeros("group_norm", "bias", bias, channels)

    grouped = _by_group(x, num_groups)
    x_hat, mean, var, rstd = standardize(grouped, (2,), eps)
    x_hat = x_hat.reshape(x.shape)
    y = x_hat * per_channel(w, x.ndim) + per_channel(b, x.ndim)
    return y, NormCache(x_hat, mean[..., 0], var[..., 0], rstd[..., 0], w)


def group_norm_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `group_norm`, derived in docs/derivations/group_norm.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))    (means over a sample's group)
        dw = sum(dy * x_hat)        db = sum(dy)                              (sums over all axes but axis 1)

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `group_norm` returned.

    Shape:
        dy and dx as x; dw and db [C].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("group_norm_backward", "dy", dy, x_hat.shape)
    num_groups = cache.rstd.shape[1]
    parameter_axes = (0, *range(2, dy.ndim))

    dx_hat = dy * per_channel(w, dy.ndim)
    dx = standardize_backward(
        _by_group(dx_hat, num_groups), _by_group(x_hat, num_groups), cache.rstd[..., None], (2,)
    ).reshape(x_hat.shape)
    dw = sum_over(dy * x_hat, parameter_axes).reshape(w.shape)
    db = sum_over(dy, parameter_axes).reshape(w.shape)
    return dx, dw, db


def _by_group(x: Array, num_groups: int) -> Array:
    """[N, C, *spatial] -> [N, num_groups, n]: a group's channels are neighbours, so this is a reshape."""
    return x.reshape(x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
