"""The heart of every norm here: take off the mean, divide by the standard deviation; and the way back.

The norms differ only in *which* elements share a mean, and that is the argument ``axes`` of these functions.

How exact this is
-----------------
Input of any format of at most 32 bits is exact in float64. With u = 2**-53, and sigma the standard deviation
of the n elements that share a mean:

* Sums are pairwise, so a mean is off by at most about (16 + log2 n) u times the mean of |x|.
* That is small beside |mean|, but not beside sigma when |mean| >> sigma. So the mean is taken off *twice*:
  ``x - mean`` is exact, or nearly so (Sterbenz: exact where x and mean are within a factor of 2), and what
  the first mean missed is the mean of the differences, which have no offset any more. At an offset of 1e6
  sigma one subtraction leaves about 1e-10 sigma, two leave about 1e-16 sigma; a float32 ulp is 1.2e-7.
* The variance is the mean of the centred squares. Never E[x^2] - E[x]^2: at an offset of 1e6 sigma its two
  terms agree in 12 of float64's 16 digits, and the difference keeps four.
* A constant row gives x_hat = 0 exactly: what the first mean missed is the same few units in the last place
  for each element, a sum of n equal small integers is exact, and the second mean takes it off whole.
* The largest float32 is 3.4e38, its square 1.2e77, and float64 reaches 1.8e308: nothing is rescaled.
  (float64 input beyond about 1e150 overflows, and NumPy warns.)

The tests hold these to exact rational arithmetic.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from normkit.reference._arguments import Array


class Standardized(NamedTuple):
    """x_hat has the shape of x; mean, var and rstd have length 1 along the axes they are taken over."""

    x_hat: Array
    mean: Array
    var: Array
    rstd: Array


@dataclass(frozen=True, eq=False)
class NormCache:
    """What the forward of a centring norm keeps for its backward.

    ``x_hat`` has the shape of x and ``weight`` the shape of the norm's weight (ones if it was None).
    ``mean``, ``var`` (population variance, without eps) and ``rstd`` = 1/sqrt(var + eps) have the shape that
    each norm's docstring gives.
    """

    x_hat: Array
    mean: Array
    var: Array
    rstd: Array
    weight: Array


def sum_over(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over ``axes``, kept with length 1: np.sum, but pairwise wherever the axes lie.

    np.sum adds pairwise only along the fastest axis, so the axes are first moved there, as one.
    """
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(
        *(x.shape[axis] for axis in kept), math.prod(x.shape[axis] for axis in axes)
    )
    total: Array = np.ascontiguousarray(rows).sum(axis=-1)
    return np.expand_dims(total, axes)


def mean_over(x: Array, axes: tuple[int, ...]) -> Array:
    """Mean over ``axes``, kept with length 1; the mean of no elements is NaN, without a warning."""
    n = math.prod(x.shape[axis] for axis in axes)
    with np.errstate(invalid="ignore"):
        mean: Array = sum_over(x, axes) / n
    return mean


def standardize(x: Array, axes: tuple[int, ...], eps: float) -> Standardized:
    """x_hat = (x - mean) * rstd with rstd = 1/sqrt(var + eps), each mean over ``axes``.

    NaN and inf in x are data: they make NaN among the elements they share a mean with, without a warning.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        first_mean = mean_over(x, axes)
        centred = x - first_mean
        missed = mean_over(centred, axes)
        centred = centred - missed
        var = mean_over(centred * centred, axes)
        rstd = 1 / np.sqrt(var + eps)
        return Standardized(centred * rstd, first_mean + missed, var, rstd)


def standardize_backward(dx_hat: Array, x_hat: Array, rstd: Array, axes: tuple[int, ...]) -> Array:
    """dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)), each mean over ``axes``.

    Both means are of quantities without an offset, so nothing is lost however far x lies from zero.
    """
    with np.errstate(invalid="ignore"):
        return rstd * (dx_hat - mean_over(dx_hat, axes) - x_hat * mean_over(dx_hat * x_hat, axes))
