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

With weights each mean is Σ(w·value) / Σw. A value of weight 0 is not there: the smallest that is takes its place, so
that nothing it is multiplied by can overflow, and no gradient reaches it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Statistics over some axes, kept with size 1. The mean is (shift + correction) / scale."""

    scale: Tensor  # s
    shift: Tensor  # m0, of the scaled values
    correction: Tensor  # dm
    variance: Tensor  # v, of the scaled values

    def detached(self) -> Moments:
        """The same numbers without a graph: what is computed from them saves nothing for a backward pass."""
        return Moments(*(t.detach() for t in self))

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


def mean_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over the axes, kept with size 1, one run of axes at a time.

    torch adds in blocks along a run of axes that lie side by side in memory, but chains one run after another:
    over 65,536 samples of two positions, channels between them, its mean is off by some hundred ulp.
    """
    for run in _runs(x, axes):
        x = x.mean(run, keepdim=True)
    return x


def spread(t: Tensor, like: Tensor) -> Tensor:
    """t, to be broadcast against ``like``, expanded one axis at a time, so that its gradient is summed so.

    The gradient may lie in memory in another order than ``like``, so no two axes are taken together.
    """
    if like.is_nested:
        return t
    t = t[(None,) * (like.dim() - t.dim())]
    missing = [axis for axis in range(like.dim()) if t.shape[axis] != like.shape[axis]]
    for axis in missing[:-1]:  # broadcasting does the last
        t = t.expand(*t.shape[:axis], like.shape[axis], *t.shape[axis + 1 :])
    return t


def _runs(x: Tensor, axes: tuple[int, ...]) -> list[list[int]]:
    """The axes in runs that lie side by side in memory; each by itself while compiling, which lays out anew."""
    if len(axes) == 1 or torch.compiler.is_compiling():
        return [[axis] for axis in axes]
    strides = x.stride()
    runs: list[list[int]] = []
    for axis in sorted((axis % x.dim() for axis in axes), key=lambda axis: -strides[axis]):
        if runs and strides[runs[-1][-1]] == x.shape[axis] * strides[axis]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs


def centre(x: Tensor, axes: tuple[int, ...], eps: float, weights: Tensor | None = None) -> tuple[Tensor, Moments]:
    """The centred, scaled values c and the moments of x over the axes.

    x is float32 or float64 and has at least one element in each slice. The weights have its dtype and broadcast to
    it; a slice without any has mean and variance 0.
    """
    if weights is None:
        low = x.detach().amin(axes, keepdim=True)
    else:
        x, low = _without_padding(x, axes, weights > 0)
    constant = x.detach()
    high = constant.amax(axes, keepdim=True)
    scale = power_of_two_scale(torch.maximum(low.abs(), high.abs()), eps)
    # A constant slice has c = 0 at any scale, and at scale 1 eps keeps its weight beside a variance of 0.
    scale = torch.where(low == high, 1, scale)
    scaled = x * scale
    shift = _mean(scaled.detach(), axes, None if weights is None else weights.detach())
    shift = torch.minimum(torch.maximum(shift, low * scale), high * scale)
    deviation = scaled - shift
    correction = _mean(deviation, axes, weights)
    centred = deviation - spread(correction, deviation)
    variance = _mean(centred * centred, axes, weights)
    return centred, Moments(scale, shift, correction, variance)


def _mean(values: Tensor, axes: tuple[int, ...], weights: Tensor | None) -> Tensor:
    if weights is None:
        return mean_over(values, axes)
    share = mean_over(weights, axes)
    return mean_over(values * weights, axes) / torch.where(share > 0, share, 1)


def _without_padding(x: Tensor, axes: tuple[int, ...], kept: Tensor) -> tuple[Tensor, Tensor]:
    """x with the least of the kept values of a slice in place of those that are not, and that value."""
    low = torch.where(kept, x.detach(), math.inf).amin(axes, keepdim=True)
    low = torch.where(low == math.inf, 0, low)  # nothing is kept
    return torch.where(kept, x, low), low
