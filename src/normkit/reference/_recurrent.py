"""What the three recurrent cells share: the checks of a step's inputs, and the sigmoid."""

import numpy as np
import numpy.typing as npt

from normkit.errors import ShapeError
from normkit.reference._arguments import Array, as_float64, like


def step_inputs(
    call: str,
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    weight_ih: npt.ArrayLike,
    weight_hh: npt.ArrayLike,
    gates: int,
) -> tuple[Array, Array, Array, Array]:
    """x [N, I], h [N, H], weight_ih [gates * H, I] and weight_hh [gates * H, H] as float64, checked."""
    x, h = as_float64(x), as_float64(h)
    if x.ndim != 2 or h.ndim != 2 or x.shape[0] != h.shape[0]:
        raise ShapeError(
            f"{call}: expected x of shape [N, I] and h of shape [N, H], got {x.shape} and {h.shape}; "
            "pass one time step of a batch, x[None] for a single sample."
        )
    n_hidden = h.shape[1]
    w_ih = like(call, "weight_ih", weight_ih, (gates * n_hidden, x.shape[1]))
    w_hh = like(call, "weight_hh", weight_hh, (gates * n_hidden, n_hidden))
    return x, h, w_ih, w_hh


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), by an exponential that cannot overflow and without cancellation at either end."""
    shrink = np.exp(-np.abs(a))
    value: Array = np.where(a >= 0, 1, shrink) / (1 + shrink)
    return value
