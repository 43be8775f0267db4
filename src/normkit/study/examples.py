"""The small numbers that the page computes with: tensors to look at, and one real feature."""

from __future__ import annotations

import numpy as np

from normkit.lab.extras import require

# Shape of the tensor -> sizes as (examples, positions, channels), as in norms.js.
SIZES = {"nc": (4, 1, 6), "ntc": (3, 4, 6), "nchw": (3, 6, 4)}
PIXEL = 20  # of 64: row 2, column 4 of the digits, where ink varies most evenly


def tensors() -> dict[str, list[float]]:
    """For each shape numbers of one decimal, whose channels differ in level and spread, as activations do."""
    rng = np.random.default_rng(7)
    made = {}
    for shape, (n, p, c) in SIZES.items():
        level, spread = rng.uniform(-2, 4, c), rng.uniform(0.5, 2.5, c)
        made[shape] = np.round(level + spread * rng.standard_normal((n, p, c)), 1).ravel().tolist()
    return made


def feature() -> list[int]:
    """One pixel of every digit that scikit-learn ships: whole numbers from 0 to 16."""
    digits = require("sklearn.datasets", extra="lab", call="study").load_digits()
    return [int(value) for value in digits.data[:, PIXEL]]
