"""The recurrent layers written out in NumPy and float64 on the reference's norms: every cell, every placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from normkit import reference

Array = np.ndarray
Parameters = Mapping[str, Array]
Noise = Callable[..., Array]  # of values, and what their errors are in proportion to where that is not 1 + |a|


def sigmoid(a: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-a)))


def no_noise(a: Array, size: Array | None = None) -> Array:
    return a


class Definition:
    """One layer in one direction.

    ``noise`` may change the values that enter sigmoid and tanh, which is where rounding errors of a step are felt.
    """

    def __init__(self, norm: str, p: Parameters, eps: float, noise: Noise = no_noise, suffix: str = "_l0") -> None:
        self.rms = norm.startswith("rms_")
        self.p = {name.removesuffix(suffix): value for name, value in p.items() if name.endswith(suffix)}
        self.eps, self.noise = eps, noise

    def norm(self, place: str, x: Array, first: int = 0) -> Array:
        """x, whose values are those of the place from ``first`` on, normalized if the place has a norm."""
        if f"norm_weight_{place}" not in self.p:
            return x
        at = slice(first, first + x.shape[1])
        w = self.p[f"norm_weight_{place}"][at]
        if self.rms:
            return reference.rms_norm(x, x.shape[1:], w, self.eps)[0]
        b = self.p[f"norm_bias_{place}"][at] if f"norm_bias_{place}" in self.p else None
        return reference.layer_norm(x, x.shape[1:], w, b, self.eps)[0]

    def product(self, place: str, x: Array) -> Array:
        return self.norm(place, x @ self.p[f"weight_{place}"].T) + self.p.get(f"bias_{place}", 0.0)

    def lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        a = self.norm("sum", self.product("ih", x) + self.product("hh", h))
        i, f, g, o = np.split(self.noise(a), 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(self.noise(self.norm("c", c)))
        return h @ self.p["weight_hr"].T if "weight_hr" in self.p else h, c

    def gru(self, x: Array, h: Array) -> tuple[Array]:
        size = h.shape[1]

        def product(place: str, v: Array) -> tuple[Array, Array]:
            rows = v @ self.p[f"weight_{place}"].T
            bias = self.p.get(f"bias_{place}", np.zeros(3 * size))
            rz = self.norm(place, rows[:, : 2 * size]) + bias[: 2 * size]
            return rz, self.norm(place, rows[:, 2 * size :], 2 * size) + bias[2 * size :]

        (p_rz, p_n), (q_rz, q_n) = product("ih", x), product("hh", h)
        r, z = np.split(sigmoid(self.noise(self.norm("sum", p_rz + q_rz))), 2, axis=1)
        n = np.tanh(self.noise(self.norm("sum", p_n + r * q_n, 2 * size)))
        return ((1 - z) * n + z * h,)

    def rnn(self, x: Array, h: Array) -> tuple[Array]:
        return (np.tanh(self.noise(self.norm("sum", self.product("ih", x) + self.product("hh", h)))),)


class BatchDefinition(Definition):
    """The LSTM with BatchNorm: over the batch at each step, or by the statistics of the step in ``running``.

    ``noise`` may also change the products, whose errors a norm of few sequences that are close makes larger.
    """

    def __init__(
        self, p: Parameters, eps: float, noise: Noise = no_noise, running: Mapping[str, Array] | None = None
    ) -> None:
        super().__init__("batch", p, eps, noise)
        self.running = running
        self.entered: dict[str, list[Array]] = {}  # what each norm was given at each step

    def norm(self, place: str, x: Array, first: int = 0) -> Array:
        if f"norm_weight_{place}" not in self.p:
            return x
        w, b = self.p[f"norm_weight_{place}"], self.p.get(f"norm_bias_{place}")
        before = self.entered.setdefault(place, [])
        step = len(before)
        before.append(x)
        if self.running is None:
            return reference.batch_norm(x, w, b, self.eps)[0]
        mean, var = (self.running[f"statistics_{place}_l0.running_{kind}"] for kind in ("mean", "var"))
        at = min(step, len(mean) - 1)
        return reference.batch_norm_inference(x, mean[at], var[at], w, b, self.eps)[0]

    def product(self, place: str, x: Array) -> Array:
        w = self.p[f"weight_{place}"].T
        return self.norm(place, self.noise(x @ w, np.abs(x) @ np.abs(w))) + self.p.get(f"bias_{place}", 0.0)


def run(step: Callable[..., tuple[Array, ...]], x: Array, *state: Array) -> tuple[Array, ...]:
    """h after every step of x [T, N, I], and the last state."""
    outputs = []
    for rows in x:
        state = step(rows, *state)
        outputs.append(state[0])
    return np.stack(outputs), *state
