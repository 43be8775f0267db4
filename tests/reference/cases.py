"""Every function of the reference, once: how to call it, and the same mathematics as a plain torch expression.

A case's forward takes its inputs by name and returns (outputs, cache); its backward takes the outputs'
gradients and the cache and returns a gradient for each input, by the same names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normkit import reference

Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    name: str
    shapes: Mapping[str, tuple[int, ...]]
    forward: Callable[[Arrays], tuple[tuple[np.ndarray, ...], Any]]
    backward: Callable[[tuple[np.ndarray, ...], Any], Arrays]
    plain: Callable[[Tensors], tuple[torch.Tensor, ...]]

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape) for name, shape in self.shapes.items()}


EPS = 1e-3  # large enough that a backward which forgets eps is seen


def standardized(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    mean = x.mean(axes, keepdim=True)
    var = ((x - mean) ** 2).mean(axes, keepdim=True)
    return (x - mean) / (var + EPS).sqrt()


def by_channel(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return p.reshape(-1, *[1] * (x.ndim - 2))


def norm_case(
    name: str,
    x_shape: tuple[int, ...],
    parameter_shape: tuple[int, ...],
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    x_hat: Callable[[torch.Tensor], torch.Tensor],
) -> Case:
    """A norm with y = x_hat * w + b; w and b lie on the channels, or on the trailing axes for a layer_norm."""

    def plain(t: Tensors) -> tuple[torch.Tensor, ...]:
        on_trailing = name.startswith("layer_norm over")
        w, b = (t[p] if on_trailing else by_channel(t[p], t["x"]) for p in ("weight", "bias"))
        return (x_hat(t["x"]) * w + b,)

    def run(a: Arrays) -> tuple[tuple[np.ndarray, ...], Any]:
        y, cache = forward(a["x"], a["weight"], a["bias"])
        return (y,), cache

    def run_back(douts: tuple[np.ndarray, ...], cache: Any) -> Arrays:
        return dict(zip(("x", "weight", "bias"), backward(*douts, cache), strict=True))

    shapes = {"x": x_shape, "weight": parameter_shape, "bias": parameter_shape}
    return Case(name, shapes, run, run_back, plain)


def group_x_hat(num_groups: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: standardized(x.reshape(x.shape[0], num_groups, -1), (2,)).reshape(x.shape)


RUNNING_MEAN = np.array([0.5, -1.0, 2.0])
RUNNING_VAR = np.array([0.25, 1.0, 4.0])


def inference_x_hat(x: torch.Tensor) -> torch.Tensor:
    mean, var = (by_channel(torch.from_numpy(s), x) for s in (RUNNING_MEAN, RUNNING_VAR))
    return (x - mean) / (var + EPS).sqrt()


NORMS = [
    norm_case(
        "layer_norm over 1 axis",
        (3, 5),
        (5,),
        lambda x, w, b: reference.layer_norm(x, 5, w, b, EPS),
        reference.layer_norm_backward,
        lambda x: standardized(x, (1,)),
    ),
    norm_case(
        "layer_norm over 2 of 4 axes",
        (2, 2, 3, 4),
        (3, 4),
        lambda x, w, b: reference.layer_norm(x, (3, 4), w, b, EPS),
        reference.layer_norm_backward,
        lambda x: standardized(x, (2, 3)),
    ),
    norm_case(
        "layer_norm over all axes",
        (3, 4),
        (3, 4),
        lambda x, w, b: reference.layer_norm(x, (3, 4), w, b, EPS),
        reference.layer_norm_backward,
        lambda x: standardized(x, (0, 1)),
    ),
    norm_case(
        "layer_norm2d",
        (2, 5, 2, 3),
        (5,),
        lambda x, w, b: reference.layer_norm2d(x, w, b, EPS),
        reference.layer_norm2d_backward,
        lambda x: standardized(x, (1,)),
    ),
    norm_case(
        "batch_norm without space",
        (5, 3),
        (3,),
        lambda x, w, b: reference.batch_norm(x, w, b, EPS),
        reference.batch_norm_backward,
        lambda x: standardized(x, (0,)),
    ),
    norm_case(
        "batch_norm of images",
        (2, 3, 2, 2),
        (3,),
        lambda x, w, b: reference.batch_norm(x, w, b, EPS),
        reference.batch_norm_backward,
        lambda x: standardized(x, (0, 2, 3)),
    ),
    norm_case(
        "batch_norm_inference",
        (2, 3, 4),
        (3,),
        lambda x, w, b: reference.batch_norm_inference(x, RUNNING_MEAN, RUNNING_VAR, w, b, EPS),
        reference.batch_norm_inference_backward,
        inference_x_hat,
    ),
    norm_case(
        "group_norm",
        (2, 6, 2, 2),
        (6,),
        lambda x, w, b: reference.group_norm(x, 3, w, b, EPS),
        reference.group_norm_backward,
        group_x_hat(3),
    ),
    norm_case(
        "group_norm without space",
        (2, 6),
        (6,),
        lambda x, w, b: reference.group_norm(x, 2, w, b, EPS),
        reference.group_norm_backward,
        group_x_hat(2),
    ),
    norm_case(
        "instance_norm",
        (2, 3, 4),
        (3,),
        lambda x, w, b: reference.instance_norm(x, w, b, EPS),
        reference.instance_norm_backward,
        lambda x: standardized(x, (2,)),
    ),
    norm_case(
        "instance_norm of volumes",
        (2, 2, 2, 2, 3),
        (2,),
        lambda x, w, b: reference.instance_norm(x, w, b, EPS),
        reference.instance_norm_backward,
        lambda x: standardized(x, (2, 3, 4)),
    ),
]


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / ((x * x).mean(-1, keepdim=True) + EPS).sqrt()


def rms_forward(a: Arrays) -> tuple[tuple[np.ndarray, ...], Any]:
    y, cache = reference.rms_norm(a["x"], 5, a["weight"], EPS)
    return (y,), cache


def add_layer_norm_forward(a: Arrays) -> tuple[tuple[np.ndarray, ...], Any]:
    *outputs, cache = reference.add_layer_norm(a["x"], a["residual"], 5, a["weight"], a["bias"], EPS)
    return tuple(outputs), cache


def add_rms_norm_forward(a: Arrays) -> tuple[tuple[np.ndarray, ...], Any]:
    *outputs, cache = reference.add_rms_norm(a["x"], a["residual"], 5, a["weight"], EPS)
    return tuple(outputs), cache


def named(names: str, backward: Callable[..., Any]) -> Callable[[tuple[np.ndarray, ...], Any], Arrays]:
    return lambda douts, cache: dict(zip(names.split(), backward(*douts, cache), strict=True))


RMS_AND_ADD = [
    Case(
        "rms_norm",
        {"x": (3, 5), "weight": (5,)},
        rms_forward,
        named("x weight", reference.rms_norm_backward),
        lambda t: (rms(t["x"]) * t["weight"],),
    ),
    Case(
        "add_layer_norm",
        {"x": (3, 5), "residual": (3, 5), "weight": (5,), "bias": (5,)},
        add_layer_norm_forward,
        named("x residual weight bias", reference.add_layer_norm_backward),
        lambda t: (
            standardized(t["x"] + t["residual"], (1,)) * t["weight"] + t["bias"],
            t["x"] + t["residual"],
        ),
    ),
    Case(
        "add_rms_norm",
        {"x": (3, 5), "residual": (3, 5), "weight": (5,)},
        add_rms_norm_forward,
        named("x residual weight", reference.add_rms_norm_backward),
        lambda t: (rms(t["x"] + t["residual"]) * t["weight"], t["x"] + t["residual"]),
    ),
]

N, D, H = 3, 4, 5


def ln(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return standardized(x, (-1,)) * w + b


def plain_rnn(t: Tensors) -> tuple[torch.Tensor, ...]:
    a = t["x"] @ t["weight_ih"].T + t["bias_ih"] + t["h"] @ t["weight_hh"].T + t["bias_hh"]
    return (torch.tanh(ln(a, t["ln_weight"], t["ln_bias"])),)


def plain_lstm(t: Tensors) -> tuple[torch.Tensor, ...]:
    a = (
        ln(t["x"] @ t["weight_ih"].T, t["ln_ih_weight"], t["ln_ih_bias"])
        + ln(t["h"] @ t["weight_hh"].T, t["ln_hh_weight"], t["ln_hh_bias"])
        + t["bias_ih"]
        + t["bias_hh"]
    )
    i, f, g, o = a.chunk(4, dim=1)
    c = torch.sigmoid(f) * t["c"] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(ln(c, t["ln_c_weight"], t["ln_c_bias"])), c


def plain_gru(t: Tensors) -> tuple[torch.Tensor, ...]:
    def product(v: str, end: str) -> tuple[torch.Tensor, ...]:
        rows = t[v] @ t[f"weight_{end}"].T
        w, b = t[f"ln_{end}_weight"], t[f"ln_{end}_bias"]
        rz = ln(rows[:, : 2 * H], w[: 2 * H], b[: 2 * H])
        n = ln(rows[:, 2 * H :], w[2 * H :], b[2 * H :])
        return (torch.cat([rz, n], dim=1) + t[f"bias_{end}"]).chunk(3, dim=1)

    (p_r, p_z, p_n), (q_r, q_z, q_n) = product("x", "ih"), product("h", "hh")
    z = torch.sigmoid(p_z + q_z)
    n = torch.tanh(p_n + torch.sigmoid(p_r + q_r) * q_n)
    return ((1 - z) * n + z * t["h"],)


def step_case(
    name: str,
    states: tuple[str, ...],
    gates: int,
    norms: Mapping[str, int],
    plain: Callable[[Tensors], tuple[torch.Tensor, ...]],
) -> Case:
    step = getattr(reference, name)
    step_backward = getattr(reference, f"{name}_backward")
    shapes: dict[str, tuple[int, ...]] = {"x": (N, D)} | dict.fromkeys(states, (N, H))
    shapes |= {"weight_ih": (gates * H, D), "weight_hh": (gates * H, H)}
    shapes |= {"bias_ih": (gates * H,), "bias_hh": (gates * H,)}
    for norm, size in norms.items():
        shapes |= {f"{norm}_weight": (size,), f"{norm}_bias": (size,)}

    def forward(a: Arrays) -> tuple[tuple[np.ndarray, ...], Any]:
        positional = [a[key] for key in ("x", *states)]
        rest = {key: value for key, value in a.items() if key not in ("x", *states)}
        *outputs, cache = step(*positional, **rest, eps=EPS)
        return tuple(outputs), cache

    def backward(douts: tuple[np.ndarray, ...], cache: Any) -> Arrays:
        gradients = step_backward(*douts, cache)
        return {key.removeprefix("d"): value for key, value in gradients._asdict().items()}

    return Case(name, shapes, forward, backward, plain)


STEPS = [
    step_case("layer_norm_rnn_step", ("h",), 1, {"ln": H}, plain_rnn),
    step_case("layer_norm_lstm_step", ("h", "c"), 4, {"ln_ih": 4 * H, "ln_hh": 4 * H, "ln_c": H}, plain_lstm),
    step_case("layer_norm_gru_step", ("h",), 3, {"ln_ih": 3 * H, "ln_hh": 3 * H}, plain_gru),
]

ALL = NORMS + RMS_AND_ADD + STEPS
