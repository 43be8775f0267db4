"""What every function here does to its arguments first: make them float64, and say clearly what does not fit."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from normkit.errors import ArgumentError, ShapeError

Array = npt.NDArray[np.float64]


def as_float64(x: npt.ArrayLike) -> Array:
    """The one conversion: exact for every float16, bfloat16 (widened by the caller) and float32 number."""
    return np.asarray(x, dtype=np.float64)


def check_eps(call: str, eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ArgumentError(f"{call}: expected a finite eps >= 0, got {eps}; use 1e-5, say.")


def check_rank(call: str, x: Array, at_least: int, layout: str) -> None:
    if x.ndim < at_least:
        raise ShapeError(
            f"{call}: expected x of at least {at_least} dimensions {layout}, got shape {x.shape}; "
            "add the missing dimension with x[None] or reshape."
        )


def like(call: str, name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """``value`` as float64, which must have exactly ``shape``: nothing is broadcast silently."""
    array = as_float64(value)
    if array.shape != shape:
        raise ShapeError(f"{call}: expected {name} of shape {shape}, got {array.shape}; pass an array of that shape.")
    return array


def weight_or_ones(call: str, name: str, value: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    return np.ones(shape) if value is None else like(call, name, value, shape)


def bias_or_zeros(call: str, name: str, value: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape) if value is None else like(call, name, value, shape)


def trailing_shape(call: str, x: Array, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """``normalized_shape`` as a tuple, which must be how x's shape ends."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{call}: expected normalized_shape to be the last dimensions of x, got {shape} for x of shape "
            f"{x.shape}; pass the sizes of the last dimensions, x.shape[-1:] for one."
        )
    return shape


def per_channel(parameter: Array, ndim: int) -> Array:
    """[C] -> [1, C, 1, ...] with ``ndim`` dimensions, so that it meets axis 1 of x."""
    return parameter.reshape(1, -1, *(1,) * (ndim - 2))
