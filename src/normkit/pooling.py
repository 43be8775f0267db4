"""Statistics of many batches as if they were one: count, mean and squared deviations of each channel, merged exactly.

With n values of mean m and squared deviations S = Σ(x − m)² on each of two sides, together

    n = n₁ + n₂,   m = m₁ + (m₂ − m₁)·n₂/n,   S = S₁ + S₂ + (m₂ − m₁)²·n₁·n₂/n

in float64, whatever the number of values on each side (Chan, Golub, LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979). Everything here is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from normkit.composite import widen
from normkit.moments import centre

Variance = Literal["unbiased", "biased"]


_TINY = torch.finfo(torch.float64).tiny  # what divides nothing, in place of 0


class Pooled(NamedTuple):
    """What is known of the values of each channel. Each has a count, as weights or masks may make them differ."""

    n: Tensor  # [C], float64, as the others
    mean: Tensor
    squares: Tensor  # Σ(x − mean)²

    def merge(self, other: Pooled) -> Pooled:
        n = self.n + other.n
        share = other.n / n.clamp(min=_TINY)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart * apart * self.n * share
        return Pooled(n, self.mean + apart * share, squares)

    def variance(self, convention: Variance) -> Tensor:
        """The mean square deviation, or what estimates it without bias from a sample; 0 for want of values."""
        degrees = self.n - 1 if convention == "unbiased" else self.n
        return self.squares / degrees.clamp(min=_TINY)


def nothing(num_channels: int, device: torch.device | None = None) -> Pooled:
    """The pool that no value has entered."""
    zero = torch.zeros(num_channels, dtype=torch.float64, device=device)
    return Pooled(zero, zero, zero)


def merge_all(pools: Sequence[Pooled]) -> Pooled:
    """In the order given, so that everybody who merges the same pools gets the same bits."""
    return reduce(Pooled.merge, pools)


def pool(x: Tensor, weights: Tensor | None = None) -> Pooled:
    """The values of each channel (axis 1) of x, each as often as the weights [N, 1, *] say."""
    return centred(x, weights)[1]


def centred(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Pooled]:
    """x − mean, channel by channel, in float32 at least, and what is known of the values."""
    axes = (0, *range(2, x.dim()))
    wide = widen(x)
    if x.numel() == 0:
        # Zeros that depend on x, so that a rank without data takes part in a backward pass.
        zero = wide.double().sum(axes)
        return wide, Pooled(zero.detach(), zero, zero)
    scaled, moments = centre(wide, axes, 0.0, None if weights is None else weights.to(wide.dtype))
    n = x.numel() // x.shape[1] if weights is None else weights.double().sum()
    scale = moments.scale.double()
    mean = (moments.shift.double() + moments.correction.double()) / scale
    squares = moments.variance.double() / scale / scale * n
    count = (torch.zeros_like(scale) + n).flatten()
    return scaled / moments.scale, Pooled(count, mean.flatten(), squares.flatten())
