"""Each norm defined a second time, element by element at 60 digits, with nothing shared with the reference.

A definition is only *who shares statistics*: a function from an element's index to the name of its group. The
gradient is the definition of a derivative, a difference quotient, which at 60 digits is exact to 1e-30.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

Index = tuple[int, ...]
DIGITS = 60


@dataclass(frozen=True)
class Definition:
    group_of: Callable[[Index], Any]
    parameter_of: Callable[[Index], Any]
    centres: bool = True


def layer_norm(n_leading: int) -> Definition:
    return Definition(lambda at: at[:n_leading], lambda at: at[n_leading:])


def rms_norm(n_leading: int) -> Definition:
    return Definition(lambda at: at[:n_leading], lambda at: at[n_leading:], centres=False)


def group_norm(channels_in_group: int) -> Definition:
    return Definition(lambda at: (at[0], at[1] // channels_in_group), lambda at: at[1])


batch_norm = Definition(lambda at: at[1], lambda at: at[1])
instance_norm = Definition(lambda at: at[:2], lambda at: at[1])
layer_norm2d = Definition(lambda at: (at[0], *at[2:]), lambda at: at[1])


def to_mp(x: np.ndarray) -> np.ndarray:
    """Each float64 as the same number with 60 digits."""
    return np.vectorize(mpmath.mpf, otypes=[object])(x)


def forward(definition: Definition, x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float) -> np.ndarray:
    """y as an array of 60-digit numbers."""
    with mpmath.workdps(DIGITS):
        x, w, b = to_mp(x), to_mp(w), to_mp(b)
        members: dict[Any, list[Index]] = defaultdict(list)
        for at in np.ndindex(x.shape):
            members[definition.group_of(at)].append(at)
        y = np.empty(x.shape, dtype=object)
        for group in members.values():
            mean = mpmath.fsum(x[at] for at in group) / len(group) if definition.centres else 0
            square = mpmath.fsum((x[at] - mean) ** 2 for at in group) / len(group)
            for at in group:
                p = definition.parameter_of(at)
                y[at] = (x[at] - mean) / mpmath.sqrt(square + mpmath.mpf(eps)) * w[p] + b[p]
        return y


def gradients(
    definition: Definition, dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float
) -> list[np.ndarray]:
    """d sum(dy * y) / d(x, w, b), rounded to float64."""
    with mpmath.workdps(DIGITS):
        inputs = [to_mp(x), to_mp(w), to_mp(b)]
        dy = to_mp(dy)
        step = mpmath.mpf(10) ** -18

        def quotient(which: int, at: Index) -> float:
            losses = []
            for sign in (1, -1):
                moved = [array.copy() for array in inputs]
                moved[which][at] += sign * step
                losses.append(mpmath.fsum((dy * forward(definition, *moved, eps)).ravel()))
            return float((losses[0] - losses[1]) / (2 * step))

        return [
            np.array([quotient(which, at) for at in np.ndindex(array.shape)]).reshape(array.shape)
            for which, array in enumerate(inputs)
        ]
