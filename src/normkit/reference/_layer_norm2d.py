"""LayerNorm over the channels at each position of an NCHW map."""

import numpy.typing as npt

from normkit.errors import ShapeError
from normkit.reference._arguments import (
    Array,
    as_float64,
    bias_or_zeros,
    check_eps,
    like,
    per_channel,
    weight_or_ones,
)
from normkit.reference._standardize import NormCache, standardize, standardize_backward, sum_over


def layer_norm2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-6,
) -> tuple[Array, NormCache]:
    """Normalize over the channels, at each sample, row and column by itself.

        mean = (1/C) sum_c x_c        var = (1/C) sum_c (x_c - mean)^2        (population: divided by C)
        x_hat = (x - mean) / sqrt(var + eps)                                  (eps inside the root)
        y = x_hat * w + b

    Args:
        x: the input.
        weight: w, or None for ones.
        bias: b, or None for zeros.
        eps: added to the variance.

    Shape:
        x and y [N, C, H, W]; weight and bias [C]; the cache's mean, var and rstd [N, 1, H, W].

    Dtypes:
        float64 throughout.

    Raises:
        ShapeError: x is not four-dimensional, or weight or bias is not [C].
        ArgumentError: eps is negative or not finite.

    Example:
        >>> y, cache = layer_norm2d([[[[1.0]], [[3.0]]]], eps=0.01)
        >>> y[0, :, 0, 0].round(3)
        array([-0.995,  0.995])

    Differs from torch:
        torch has no such function: it is layer_norm over the last axis of x.permute(0, 2, 3, 1), permuted back.
        Not GroupNorm with one group, which takes one mean over all channels *and* positions of a sample.

    Source:
        Ba, Kiros, Hinton, 2016, equation 3, https://arxiv.org/abs/1607.06450, at each position as in
        Liu et al., "A ConvNet for the 2020s", 2022, section 2.6, https://arxiv.org/abs/2201.03545
    """
    x = as_float64(x)
    check_eps("layer_norm2d", eps)
    if x.ndim != 4:
        raise ShapeError(
            f"layer_norm2d: expected x of 4 dimensions [N, C, H, W], got shape {x.shape}; "
            "use layer_norm to normalize over the last dimensions."
        )
    channels = x.shape[1:2]
    w = weight_or_ones("layer_norm2d", "weight", weight, channels)
    b = bias_or_zeros("layer_norm2d", "bias", bias, channels)

    x_hat, mean, var, rstd = standardize(x, (1,), eps)
    y = x_hat * per_channel(w, 4) + per_channel(b, 4)
    return y, NormCache(x_hat, mean, var, rstd, w)


def layer_norm2d_backward(dy: npt.ArrayLike, cache: NormCache) -> tuple[Array, Array, Array]:
    """Gradients of `layer_norm2d`, derived in docs/derivations/layer_norm2d.md.

        dx_hat = dy * w
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))    (means over the channels)
        dw = sum(dy * x_hat)        db = sum(dy)                              (sums over N, H and W)

    Args:
        dy: the loss's gradient with respect to y.
        cache: what `layer_norm2d` returned.

    Shape:
        dy and dx [N, C, H, W]; dw and db [C].

    Returns:
        dx, dw, db; dw and db also where weight or bias was None, as for ones and zeros.
    """
    x_hat, w = cache.x_hat, cache.weight
    dy = like("layer_norm2d_backward", "dy", dy, x_hat.shape)

    dx = standardize_backward(dy * per_channel(w, 4), x_hat, cache.rstd, (1,))
    dw = sum_over(dy * x_hat, (0, 2, 3)).reshape(w.shape)
    db = sum_over(dy, (0, 2, 3)).reshape(w.shape)
    return dx, dw, db
