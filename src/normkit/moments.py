"""The one statistics core: mean and variance of a tensor over some axes, exact at any offset and any scale.

The arithmetic is the corrected two-pass. With s a power of two and m0 any number near the mean of s·x:

    d  = s·x − m0             exact by Sterbenz' lemma where the offset is large
    dm = mean(d)              what m0 missed
    c  = d − dm               the centred values
    v  = mean(c²)             population variance of s·x

s brings the largest magnitude of a slice into [1, 2), so that no square overflows or vanishes for any finite
input; multiplying by a power of two is exact. m0 is held inside the range of its slice, so a constant slice
has c = 0 exactly. Neither s nor m0 changes the value of c·rstd as a function of x, so both are constants to
differentiation: every derivative, of any order and mode, is that of the definition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Statistics over some axes, kept with size 1. The mean is (shift + correction) / scale."""

    scale: Tensor  # s
    shift: Tensor  # m0, of the scaled values
    correction: Tensor  # dm
    variance: Tensor  # v, of the scaled values

    def mean(self) -> Tensor:
        return (self.shift + self.correction) / self.scale

    def population_variance(self) -> Tensor:
        return self.variance / self.scale / self.scale

    def rstd(self, eps: float) -> Tensor:
        """1 / sqrt(variance + eps), of the scaled values: it multiplies the centred values as they are."""
        return 1 / torch.sqrt(self.variance + self.scaled_eps(eps))

    def scaled_eps(self, eps: float) -> Tensor:
        return scaled_eps(self.scale, eps)


def scaled_eps(scale: Tensor, eps: float) -> Tensor:
    """eps·s², through its root: eps itself may lie below the normal numbers of the dtype, as s² may above.

    An eps that vanishes even so is held at the smallest normal number, so that a constant slice, whose variance
    is 0, is not divided by 0. Beside any other variance of scaled values that is nothing.
    """
    scaled: Tensor = (eps**0.5 * scale) ** 2
    return scaled.clamp(min=torch.finfo(scale.dtype).tiny) if eps > 0 else scaled


def power_of_two_scale(magnitude: Tensor, eps: float) -> Tensor:
    """The power of two that brings max(magnitude, sqrt(eps)) into [1, 2).

    With eps in the maximum the scale stays small enough that eps·s² cannot overflow: values far below
    sqrt(eps) do not matter beside it. Both the scale and its reciprocal are normal numbers.
    """
    tiny = torch.finfo(magnitude.dtype).tiny
    largest = magnitude.clamp(min=max(eps**0.5, tiny))
    return torch.exp2(-torch.floor(torch.log2(largest))).clamp(tiny, 1 / tiny)


def centre(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Moments]:
    """The centred, scaled values c and the moments of x over the axes.

    x is float32 or float64 and has at least one element in each slice.
    """
    constant = x.detach()
    low = constant.amin(axes, keepdim=True)
    high = constant.amax(axes, keepdim=True)
    scale = power_of_two_scale(torch.maximum(low.abs(), high.abs()), eps)
    # A constant slice has c = 0 at any scale, and at scale 1 eps keeps its weight beside a variance of 0.
    scale = torch.where(low == high, 1, scale)
    scaled = x * scale
    shift = scaled.detach().mean(axes, keepdim=True)
    shift = torch.minimum(torch.maximum(shift, low * scale), high * scale)
    deviation = scaled - shift
    correction = deviation.mean(axes, keepdim=True)
    centred = deviation - correction
    variance = (centred * centred).mean(axes, keepdim=True)
    return centred, Moments(scale, shift, correction, variance)
