"""What a norm computes, for the oracle: the reference's functions, and which elements share what.

The reference speaks of axes; here every element of the input is labelled with the statistic and with the
parameter it meets, so that the suite can treat all norms alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normkit import reference

Array = np.ndarray


class Norm(ABC):
    """The definition of one norm: ``forward(x, w, b, layer) -> (y, cache)`` and ``backward(dy, cache)``."""

    @abstractmethod
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]: ...

    @abstractmethod
    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        """dx, dw and, where the norm has a bias, db."""

    @abstractmethod
    def slices(self, shape: tuple[int, ...]) -> Array:
        """For each element, the number of the statistic it enters."""

    def rstd(self, cache: Any, shape: tuple[int, ...]) -> Array:
        """For each element, the rstd it is multiplied by."""
        return cache.rstd.ravel()[self.slices(shape)]

    def parameters(self, shape: tuple[int, ...]) -> Array:
        """For each element, the number of the weight it is multiplied by: its channel, if nothing else is said."""
        return channels(shape)


def channels(shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2)), shape)


def eps_of(layer: torch.nn.Module) -> float:
    """The layer's eps; None stands for float32's or float64's machine epsilon (torch.nn.RMSNorm's documentation)."""
    if layer.eps is not None:
        return layer.eps
    weight = getattr(layer, "weight", None)
    return torch.finfo(torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32).eps


@dataclass(frozen=True)
class Rows(Norm):
    """Norms over the last ``n_axes`` axes."""

    n_axes: int

    def slices(self, shape: tuple[int, ...]) -> Array:
        split = len(shape) - self.n_axes
        rows = np.arange(math.prod(shape[:split])).reshape(*shape[:split], *[1] * self.n_axes)
        return np.broadcast_to(rows, shape)

    def parameters(self, shape: tuple[int, ...]) -> Array:
        normalized = shape[len(shape) - self.n_axes :]
        return np.broadcast_to(np.arange(math.prod(normalized)).reshape(normalized), shape)


class LayerNorm(Rows):
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.layer_norm(x, w.shape, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.layer_norm_backward(dy, cache)


class RMSNorm(Rows):
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.rms_norm(x, w.shape, w, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.rms_norm_backward(dy, cache)


@dataclass(frozen=True)
class GroupNorm(Norm):
    num_groups: int

    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.group_norm(x, self.num_groups, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.group_norm_backward(dy, cache)

    def slices(self, shape: tuple[int, ...]) -> Array:
        group = channels(shape) // (shape[1] // self.num_groups)
        return samples(shape) * self.num_groups + group


def samples(shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)


class BatchNorm(Norm):
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.batch_norm(x, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.batch_norm_backward(dy, cache)

    def slices(self, shape: tuple[int, ...]) -> Array:
        return channels(shape)


class GivenStatistics(Norm):
    """BatchNorm and InstanceNorm in evaluation: each element by itself."""

    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        mean, var = (s.double().cpu().numpy() for s in (layer.running_mean, layer.running_var))
        return reference.batch_norm_inference(x, mean, var, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.batch_norm_inference_backward(dy, cache)

    def slices(self, shape: tuple[int, ...]) -> Array:
        return np.arange(math.prod(shape)).reshape(shape)

    def rstd(self, cache: Any, shape: tuple[int, ...]) -> Array:
        return cache.rstd[channels(shape)]


class InstanceNorm(Norm):
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.instance_norm(x, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.instance_norm_backward(dy, cache)

    def slices(self, shape: tuple[int, ...]) -> Array:
        return samples(shape) * shape[1] + channels(shape)


class LayerNorm2d(Norm):
    def forward(self, x: Array, w: Array, b: Array | None, layer: torch.nn.Module) -> tuple[Array, Any]:
        return reference.layer_norm2d(x, w, b, eps_of(layer))

    def backward(self, dy: Array, cache: Any) -> tuple[Array, ...]:
        return reference.layer_norm2d_backward(dy, cache)

    def slices(self, shape: tuple[int, ...]) -> Array:
        n, _, h, w = shape
        return np.broadcast_to(np.arange(n * h * w).reshape(n, 1, h, w), shape)
