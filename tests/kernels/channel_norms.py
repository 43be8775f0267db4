"""The kernels of the channel norms on plain tensors, and what they should have returned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import tolerances
from normkit import composite, reference
from normkit.kernels import channels, cpu

# Tiny, odd, around one vector of 16, of a whole vector, of many blocks; sequences, images and volumes.
SHAPES = (
    (2, 3),
    (64, 5),
    (33, 130),
    (3, 4, 1),
    (2, 3, 5),
    (5, 4, 7, 7),
    (2, 6, 4, 4),
    (3, 8, 5, 3),
    (1, 2, 33, 65),
    (2, 2, 2, 3, 5),
    (2, 4, 130, 130),
    (1, 1, 3, 3),
)


@dataclass
class ChannelCase:
    """Input of one call: x and dy of (N, C, *), weight and bias of (C). n_groups is 0 for BatchNorm."""

    x: Tensor
    n_groups: int
    w: Tensor | None
    b: Tensor | None
    dy: Tensor
    eps: float = 1e-5
    given: tuple[Tensor, Tensor] | None = None
    activation: composite.Activation | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        return cpu.channel_norm(self.x, self.n_groups, self.w, self.b, self.eps, self.activation, given=self.given)

    def backward(self, stats: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        dw, db = (None if p is None else torch.empty_like(p) for p in (self.w, self.b))
        dx = cpu.channel_norm_backward(
            self.dy, self.x, stats, self.n_groups, self.w, self.b, self.eps, self.activation,
            constant_stats=self.given is not None, need_dx=True, dw=dw, db=db,
        )  # fmt: skip
        assert dx is not None
        return dx, dw, db

    def results(self) -> list[Tensor]:
        y, stats = self.forward()
        return [t for t in (y, stats, *self.backward(stats)) if t is not None]


def channel_case(
    shape: tuple[int, ...],
    n_groups: int,
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    offset: float = 0.0,
    scale: float = 1.0,
    parameters: torch.dtype | None = None,
    affine: bool = True,
    given: bool = False,
    eps: float = 1e-5,
) -> ChannelCase:
    """Random input with standard deviation ``scale`` around ``offset`` standard deviations."""
    x = ((torch.randn(shape, dtype=torch.float64) + offset) * scale).to(dtype)
    dy = torch.randn(shape).to(dtype)
    if channels_last:
        x, dy = in_channels_last(x), in_channels_last(dy)
    w, b = (torch.randn(shape[1]).to(parameters or dtype) if affine else None for _ in range(2))
    statistics = cpu.STATS_DTYPES[x.dtype]
    pair = (torch.randn(shape[1], dtype=statistics), torch.rand(shape[1], dtype=statistics) + 0.1) if given else None
    return ChannelCase(x, n_groups, w, b, dy, eps, pair)


def in_channels_last(x: Tensor) -> Tensor:
    """x in the channels_last format that its number of axes has, if any."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def groupings(shape: tuple[int, ...]) -> list[int]:
    """BatchNorm, one group, pairs of channels, and one channel each, as far as the shape has values for them."""
    n, c = shape[:2]
    positions = int(np.prod(shape[2:]))
    found = [0] if n * positions > 1 else []
    return found + [g for g in dict.fromkeys((1, c // 2, c)) if g and c % g == 0 and c // g * positions > 1]


def check_against_reference(case: ChannelCase) -> None:
    """Every result within the bounds of ``tolerances``, which NaN is not."""
    dtype, shape = case.x.dtype, case.x.shape
    x, dy = case.x.double().numpy(), case.dy.double().numpy()
    w = np.ones(shape[1]) if case.w is None else case.w.double().numpy()
    b = np.zeros(shape[1]) if case.b is None else case.b.double().numpy()
    y, cache, (dx, dw, db) = _exact(case, x, dy, w, b)
    per_channel = (slice(None), *[None] * (len(shape) - 2))
    wide_w, wide_b = (np.broadcast_to(p[per_channel], shape) for p in (w, b))
    slabs = slabs_of(shape, case.n_groups)
    rstd = cache.rstd.ravel()[slabs]
    x_hat = cache.x_hat
    got_y, stats = case.forward()
    got_dx, got_dw, got_db = case.backward(stats)
    check_within("y", got_y, y, tolerances.normalized(y, x_hat, wide_w, wide_b, dtype))
    mean_over = tolerances.MeanOver(slabs)
    check_within("dx", got_dx, dx, tolerances.input_gradient(dx, dy * wide_w, x_hat, rstd, mean_over, dtype))
    axes = (0, *range(2, len(shape)))
    for name, got, exact, terms in (
        ("dw", got_dw, dw, np.abs(dy) * (1 + np.abs(x_hat))),
        ("db", got_db, db, np.abs(dy)),
    ):
        if got is not None:
            check_within(name, got, exact, tolerances.parameter_gradient(exact, terms.sum(axes), dtype, got.dtype))
    assert channels.memory_format(got_y) is channels.memory_format(got_dx) is channels.memory_format(case.x)


def _exact(
    case: ChannelCase, x: np.ndarray, dy: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, reference.NormCache, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    if case.given is not None:
        mean, var = (t.double().numpy() for t in case.given)
        y, cache = reference.batch_norm_inference(x, mean, var, w, b, case.eps)
        return y, cache, reference.batch_norm_inference_backward(dy, cache)
    if case.n_groups == 0:
        y, cache = reference.batch_norm(x, w, b, case.eps)
        return y, cache, reference.batch_norm_backward(dy, cache)
    y, cache = reference.group_norm(x, case.n_groups, w, b, case.eps)
    return y, cache, reference.group_norm_backward(dy, cache)


def slabs_of(shape: tuple[int, ...], n_groups: int) -> np.ndarray:
    """For each element the number of the slab it belongs to."""
    n, c = shape[:2]
    numbers = np.arange(c)[None] + np.zeros((n, 1), int)
    if n_groups:
        numbers = np.arange(n)[:, None] * n_groups + numbers // (c // n_groups)
    return np.broadcast_to(numbers.reshape(n, c, *[1] * (len(shape) - 2)), shape)


def check_within(name: str, got: Tensor, exact: np.ndarray, bound: np.ndarray) -> None:
    """The result lies within its bound, which NaN does not."""
    error = np.abs(got.double().numpy() - exact)
    worst = np.max(np.where(error == 0, 0.0, error / np.maximum(bound, 1e-300)))
    assert (error <= bound).all(), f"{name}: {worst:.3g} times the bound"
