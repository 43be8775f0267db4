"""The exact outputs and gradients of a layer for its inputs, with the bounds on what the layer may return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import tolerances
from conformance.layers import LayerCase

Array = np.ndarray


@dataclass(frozen=True)
class Exact:
    """A value in float64 and how far from it a result may lie."""

    value: Array
    bound: Array

    def check(self, got: Tensor | Array, what: str) -> None:
        """Raises unless got lies within the bound everywhere; NaN does not."""
        array = as_float64(got) if isinstance(got, Tensor) else got
        assert array.shape == self.value.shape, f"{what}: shape {array.shape} for {self.value.shape}"
        inside = np.abs(array - self.value) <= self.bound
        if not inside.all():
            worst = np.nanargmax(np.where(inside, -1.0, np.nan_to_num(self.excess(array), nan=np.inf)))
            index = np.unravel_index(worst, inside.shape)
            raise AssertionError(
                f"{what}: {(~inside).sum()} of {inside.size} elements off; worst at {tuple(map(int, index))}: got "
                f"{array[index]!r} for {self.value[index]!r}, {self.excess(array)[index]:.3g} times the bound"
            )

    def excess(self, got: Tensor | Array) -> Array:
        """The error in units of the bound."""
        array = as_float64(got) if isinstance(got, Tensor) else got
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(array - self.value) / self.bound
        return np.where(array == self.value, 0.0, ratio)


@dataclass(frozen=True)
class Oracle:
    """Outputs, and for given dy the gradients; ``dw`` and ``db`` only where the layer has the parameter."""

    ys: tuple[Exact, ...]
    dxs: tuple[Exact, ...] = ()
    parameters: tuple[tuple[str, Exact], ...] = ()


def exact(case: LayerCase, layer: torch.nn.Module, inputs: tuple[Tensor, ...], dys: tuple[Tensor, ...] = ()) -> Oracle:
    """What the layer has to return for batched inputs, from the reference in float64."""
    total = inputs[0] + inputs[1] if case.adds_residual else inputs[0]  # one rounding, as the layer's own sum
    dtype = total.dtype
    x = as_float64(total)
    w, b = full_affine(case, layer, x.shape)
    y, cache = case.norm.forward(x, w, b, layer)
    of_element = case.norm.parameters(x.shape)
    w_, b_ = w.ravel()[of_element], b.ravel()[of_element]
    ys = [Exact(y, tolerances.normalized(y, cache.x_hat, w_, b_, dtype))]
    if case.adds_residual:
        ys.append(Exact(x, np.zeros(x.shape)))
    if not dys:
        return Oracle(tuple(ys))

    dy = as_float64(dys[0])
    dx, *dwb = case.norm.backward(dy, cache)
    if case.adds_residual:
        dx = dx + as_float64(dys[1])
    bound = tolerances.input_gradient(
        dx,
        dy * w_,
        cache.x_hat,
        case.norm.rstd(cache, x.shape),
        tolerances.MeanOver(case.norm.slices(x.shape)),
        dtype,
        roundings=2 if case.adds_residual else 1,
    )
    if case.adds_residual:
        bound = bound + tolerances.ulp(dx, tolerances.working_dtype(dtype))
        if dtype != tolerances.working_dtype(dtype):  # the norm's own gradient may be larger than the sum of both
            bound = bound + tolerances.ulp(np.abs(dx) + np.abs(as_float64(dys[1])), dtype) * 0.51
    magnitudes = (np.abs(dy) * (1 + np.abs(cache.x_hat)), np.abs(dy))
    parameters = []
    for name, d, terms in zip(("weight", "bias"), dwb, magnitudes, strict=False):
        parameter = getattr(layer, name, None)
        if parameter is not None:
            sums = np.bincount(of_element.ravel(), weights=terms.ravel(), minlength=d.size).reshape(d.shape)
            limits = tolerances.parameter_gradient(d, sums, dtype, parameter.dtype)
            parameters.append((name, Exact(d, limits)))
    return Oracle(tuple(ys), tuple(Exact(dx, bound) for _ in inputs), tuple(parameters))


def full_affine(case: LayerCase, layer: torch.nn.Module, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """weight and bias as float64, ones and zeros where the layer has none."""
    size = int(case.norm.parameters(shape).max(initial=-1)) + 1
    parameter_shape = tuple(getattr(layer, "normalized_shape", (size,)))
    w, b = np.ones(parameter_shape), np.zeros(parameter_shape)
    if layer.weight is not None:
        w = as_float64(layer.weight)
    if getattr(layer, "bias", None) is not None:
        b = as_float64(layer.bias)
    return w, b


def as_float64(t: Tensor) -> Array:
    return t.detach().double().cpu().numpy()
