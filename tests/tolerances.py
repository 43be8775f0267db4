"""How far a result may lie from the exact one, and why: every bound of the tests, derived.

Notation: u is half the distance from 1 to the next number of the dtype that is computed in (2**-24 for float32,
which 16-bit input is computed in too; 2**-53 for float64), and ulp(a) the distance between neighbouring numbers
at a. Everything here is NumPy in float64, and every bound is an array to compare elementwise; the exact values
come from ``normkit.reference``, which sees the same rounded input, so rounding the input is no part of the error.

The oracle computes in float64 too. For input of up to 32 bits its own error is far below every bound; a float64
layer is as exact as its oracle, so there the bounds are granted twice, once for each of the two.
"""

import numpy as np
import torch

Array = np.ndarray

# Sums of n terms may err by this many u times the sum of the terms' magnitudes. A chain of 128 additions that is
# merged pairwise, or a pairwise sum with blocks of 16 to 128, stays well below for any n up to 2**31.
SUM_UNITS = 32


def unit_roundoff(dtype: torch.dtype) -> float:
    """u of the dtype in which input of ``dtype`` is computed."""
    return 2.0**-53 if dtype == torch.float64 else 2.0**-24


def oracle_too(dtype: torch.dtype) -> int:
    """2 where the oracle is no more exact than the layer, else 1."""
    return 2 if dtype == torch.float64 else 1


def ulp(a: Array, dtype: torch.dtype) -> Array:
    """The distance between neighbouring numbers of ``dtype`` at |a|, down to the smallest subnormal."""
    info = torch.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(a), info.tiny)))
    return info.eps * 2.0**exponent


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalized(y: Array, x_hat: Array, w: Array, b: Array, dtype: torch.dtype) -> Array:
    """y = x̂·w + b: 4 ulp of max(|y|, |w|(1 + |x̂|), |b|) before rounding to the output dtype.

    The centred value (x − m0) − dm errs by u|x − m0| + u|dm| and what dm itself errs; with σ as the unit that is
    about u(1 + |x̂|), which is where the 1 comes from: beside the mean, x̂ = 0 keeps an absolute error. rstd errs
    by 2 u relative (one mean of squares, one root, one division), the products with rstd and w by u each, the
    sum with b by u|y|. Together below 8 u = 4 ulp of the largest of the three, whatever the offset of x.

    Where the output has 16 bits, its rounding is added: half an ulp of the output. So that "0.51 ulp" is
    promised wherever y is not the difference of much larger numbers, the float32 part is granted 0.01 ulp at
    least.
    """
    scale = np.maximum(np.abs(y), np.maximum(np.abs(w) * (1 + np.abs(x_hat)), np.abs(b)))
    return rounded_to(dtype, y, 4 * oracle_too(dtype) * ulp(scale, working_dtype(dtype)))


def input_gradient(
    dx: Array, dx_hat: Array, x_hat: Array, rstd: Array, mean: "MeanOver", dtype: torch.dtype, *, roundings: int = 1
) -> Array:
    """dx = rstd·(g − mean(g) − x̂·mean(g·x̂)) with g = dy·w.

    g errs by u|g|; the two means by SUM_UNITS·u times the means of the magnitudes; x̂ by 8u(1 + |x̂|), which
    enters the product x̂·mean(g·x̂) once itself and once inside the mean; rstd by 4 u relative, and each of the
    four operations by u of its result. With A = mean|g| and B = mean|g·x̂| that is at most
    u·rstd·(8|g| + (SUM_UNITS + 8)·A + (SUM_UNITS + 16)(1 + |x̂|)(B + A)), rounded up to one factor.

    ``roundings`` counts how often the result is rounded to its dtype; a gradient that is the sum of two rounded
    ones is rounded twice.
    """
    a, b = mean(np.abs(dx_hat)), mean(np.abs(dx_hat * x_hat))
    terms = np.abs(dx_hat) + a + (1 + np.abs(x_hat)) * (a + b)
    tiny = torch.finfo(working_dtype(dtype)).smallest_normal * unit_roundoff(dtype)  # results may be subnormal
    error = (SUM_UNITS + 16) * unit_roundoff(dtype) * np.abs(rstd) * terms + tiny
    for _ in range(roundings):
        error = rounded_to(dtype, dx, error)
    return error


def parameter_gradient(exact: Array, sum_of_magnitudes: Array, dtype: torch.dtype, parameter: torch.dtype) -> Array:
    """dw = sum(dy·x̂), db = sum(dy): SUM_UNITS·u of the sum of magnitudes, then rounded once to the parameter.

    ``sum_of_magnitudes`` counts 1 + |x̂| for a term of dw: an x̂ near 0 has an absolute error (see `normalized`).
    """
    return rounded_to(parameter, exact, SUM_UNITS * unit_roundoff(dtype) * sum_of_magnitudes)


def statistic(exact: Array, magnitude: Array, dtype: torch.dtype) -> Array:
    """A running statistic after one step: 8 ulp of the largest number that went into it.

    Batch mean and variance err by 2 ulp each relative to max|x| and to themselves; (1 − m)·old + m·new adds two
    products, a sum and the rounding of 1 − m.
    """
    return 8 * ulp(np.maximum(np.abs(exact), magnitude), working_dtype(dtype))


def rounded_to(dtype: torch.dtype, exact: Array, error: Array) -> Array:
    """``error`` and, for a 16-bit dtype, one correct rounding: half an ulp and at least 0.01 ulp for the rest."""
    if dtype == working_dtype(dtype):
        return error
    spacing = ulp(exact, dtype)
    return 0.5 * spacing + np.maximum(0.01 * spacing, error)


class MeanOver:
    """The mean over the elements that share a statistic, given back to each element."""

    def __init__(self, slices: Array) -> None:
        self.slices = slices.ravel()
        self.shape = slices.shape
        self.counts = np.maximum(np.bincount(self.slices), 1)

    def __call__(self, a: Array) -> Array:
        sums = np.bincount(self.slices, weights=a.ravel())
        return (sums / self.counts)[self.slices].reshape(self.shape)
