"""Derivatives of every order and mode, measured against finite differences, for ours and for torch's layer.

One scalar function per layer: g(t) = <r, layer(z + t·v)>, where z holds the input and every parameter, v is a
random direction for all of them, and r a random cotangent. Its k-th derivative at 0 is what every mode of order
k must give, contracted with v k times: so the mixed derivatives between input, weight and bias are in it.

Everything is float64. The finite difference is the derivative of the polynomial through 13 equidistant values
of g around 0, with exact rational weights. Its error has two parts, and the step balances them:

* truncation. g is analytic while the variance along z + t·v has no root; with directions of length 1/3 beside
  input of variance 1 that is a radius of about 1 around 0, while the points reach 6h = 0.3. The error of the
  interpolation, about (0.3)**13 = 2e-7 of g at the outermost points, is felt far less at 0, in the middle.
* rounding. Each value errs by about 1e-15 of g, |g| is about 10, and the weights of order 4 add up to
  about 70/h**4 = 1e7: 1e-7 at the worst, and less for lower orders.

The derivatives are of the size of g, so TOLERANCE is 1e-5 of max(1, |derivative|): ten to a hundred times that
error, and a hundredth of the smallest that is wrong in torch's layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from conformance.layers import LayerCase, outputs

TOLERANCE = 1e-5
POINTS, STEP = 6, 0.05  # on either side of 0

Function = Callable[[Tensor], Tensor]


@functools.cache
def weights(order: int) -> tuple[float, ...]:
    """w with sum_i w_i f(i·h) = h**order · f⁽ᵒʳᵈᵉʳ⁾(0) for every polynomial f of degree up to 2·POINTS."""
    nodes = range(-POINTS, POINTS + 1)
    result = []
    for i in nodes:
        # The Lagrange polynomial of node i: its coefficients, by multiplying out one factor at a time.
        coefficients = [Fraction(1)]
        for j in nodes:
            if j != i:
                shifted = [Fraction(0), *coefficients]
                scaled = [c * -j for c in coefficients] + [Fraction(0)]
                coefficients = [(a + b) / (i - j) for a, b in zip(shifted, scaled, strict=True)]
        result.append(float(coefficients[order] * math.factorial(order)))
    return tuple(result)


@dataclass(frozen=True)
class Problem:
    """g of the inputs and the parameters, and as a function of all of them in one vector, at z along v.

    ``samples`` are three points that differ in the inputs and share the parameters.
    """

    of_parts: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]
    shapes: tuple[torch.Size, ...]
    n_inputs: int
    z: Tensor
    v: Tensor
    samples: Tensor

    def g(self, flat: Tensor) -> Tensor:
        parts = self.split(flat)
        return self.of_parts(parts[: self.n_inputs], parts[self.n_inputs :])

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """The parts of a vector, or of each row of a matrix."""
        pieces = flat.split([shape.numel() for shape in self.shapes], dim=-1)
        return tuple(p.reshape(*flat.shape[:-1], *shape) for p, shape in zip(pieces, self.shapes, strict=True))

    def finite_difference(self, order: int, at: Tensor) -> float:
        with torch.no_grad():
            values = [self.g(at + i * STEP * self.v).item() for i in range(-POINTS, POINTS + 1)]
        return math.fsum(w * y for w, y in zip(weights(order), values, strict=True)) / STEP**order


# Small, so that whole Jacobians are cheap; every statistic has at least five values.
SHAPES = {
    "LayerNorm": (6, (3, 6)),
    "RMSNorm": (6, (3, 6)),
    "GroupNorm": (6, (2, 6, 2)),
    "BatchNorm1d": (6, (5, 6)),
    "BatchNorm2d": (6, (2, 6, 2, 2)),
    "BatchNorm3d": (6, (2, 6, 2, 2, 1)),
    "SyncBatchNorm": (6, (5, 6)),
    "InstanceNorm1d": (6, (1, 6, 5)),
    "InstanceNorm2d": (6, (1, 6, 3, 2)),
    "InstanceNorm3d": (6, (1, 6, 3, 2, 1)),
    "LayerNorm2d": (6, (1, 6, 2, 2)),
    "AddLayerNorm": (6, (3, 6)),
    "AddRMSNorm": (6, (3, 6)),
}


def build(case: LayerCase, whose: str, device: str) -> torch.nn.Module:
    """The layer in float64. Training without statistics: torch.func refuses torch's with them."""
    options = {"track_running_stats": False} if "BatchNorm" in case.layer.__name__ else {}
    ours = case.build(SHAPES[case.layer.__name__][0], torch.float64, device, **options)
    return ours if whose == "normkit" else case.build_torch(ours, SHAPES[case.layer.__name__][0], **options)


@functools.cache
def problem(case: LayerCase, whose: str, device: str) -> Problem:
    torch.manual_seed(0)
    layer = build(case, whose, device)
    shape = SHAPES[case.layer.__name__][1]
    inputs = case.inputs(dtype=torch.float64, device=device, shape=shape, offset=0.5)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    cotangents = [torch.randn_like(y) for y in outputs(layer(*inputs))]

    def of_parts(inputs: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> Tensor:
        y = outputs(functional_call(layer, dict(zip(parameters, given, strict=True)), inputs))
        return torch.stack([(t * r).sum() for t, r in zip(y, cotangents, strict=True)]).sum()

    parts = (*inputs, *parameters.values())
    z = torch.cat([p.flatten() for p in parts])
    elsewhere = torch.randn(3, sum(x.numel() for x in inputs), dtype=z.dtype, device=device) / 2
    samples = z + torch.nn.functional.pad(elsewhere, (0, z.numel() - elsewhere.shape[1]))
    return Problem(of_parts, tuple(p.shape for p in parts), len(inputs), z, torch.randn_like(z) / 3, samples)


def reverse(p: Problem, order: int) -> Tensor:
    z = p.z.clone().requires_grad_()
    value = p.g(z)
    for _ in range(order):
        (gradient,) = torch.autograd.grad(value, z, create_graph=True)
        value = gradient @ p.v
    return value.detach()


def forward(p: Problem, order: int) -> Tensor:
    def derived(f: Function) -> Function:
        return lambda z: jvp(f, (z,), (p.v,))[1]

    f = p.g
    for _ in range(order):
        f = derived(f)
    return f(p.z)


def hessian(outer: Callable[[Function], Function], inner: Callable[[Function], Function]) -> Callable[..., Tensor]:
    def of(p: Problem, order: int) -> Tensor:
        return p.v @ outer(inner(p.g))(p.z) @ p.v

    return of


def forward_over_reverse(p: Problem, order: int) -> Tensor:
    """Hessian-vector products, the cheap way to curvature."""
    return p.v @ jvp(grad(p.g), (p.z,), (p.v,))[1]


def third_of_hessians(p: Problem, order: int) -> Tensor:
    """Along the direction forward, of a Hessian that is itself mixed."""
    return p.v @ jvp(jacfwd(jacrev(p.g)), (p.z,), (p.v,))[1] @ p.v


def ensemble(p: Problem, order: int) -> Tensor:
    """A gradient for each of three inputs, each with its own copy of the parameters."""
    return vmap(grad(p.g))(p.samples) @ p.v


def per_sample(p: Problem, order: int) -> Tensor:
    """A gradient for each of three inputs, with the parameters shared."""
    inputs, parameters = p.split(p.samples)[: p.n_inputs], p.split(p.z)[p.n_inputs :]
    of_input, of_parameters = vmap(grad(p.of_parts, argnums=(0, 1)), in_dims=(0, None))(inputs, parameters)
    return torch.cat([g.flatten(1) for g in (*of_input, *of_parameters)], dim=1) @ p.v


def jvp_under_vmap(p: Problem, order: int) -> Tensor:
    return vmap(lambda z: jvp(p.g, (z,), (p.v,))[1])(p.samples)


@dataclass(frozen=True)
class Mode:
    """A way to a derivative along v: at z, or at each of the samples."""

    name: str
    order: int
    derivative: Callable[[Problem, int], Tensor]
    of_samples: bool = False


MODES = (
    Mode("reverse", 1, reverse),
    Mode("reverse", 2, reverse),
    Mode("reverse", 3, reverse),
    Mode("reverse", 4, reverse),
    Mode("jvp", 1, forward),
    Mode("jvp∘jvp", 2, forward),
    Mode("jvp∘jvp∘jvp", 3, forward),
    Mode("jvp∘grad", 2, forward_over_reverse),
    Mode("jacfwd∘jacrev", 2, hessian(jacfwd, jacrev)),
    Mode("jacrev∘jacfwd", 2, hessian(jacrev, jacfwd)),
    Mode("jacfwd∘jacfwd", 2, hessian(jacfwd, jacfwd)),
    Mode("jacrev∘jacrev", 2, hessian(jacrev, jacrev)),
    Mode("jvp∘jacfwd∘jacrev", 3, third_of_hessians),
    Mode("vmap∘grad, one model a sample", 1, ensemble, of_samples=True),
    Mode("vmap∘grad, one model", 1, per_sample, of_samples=True),
    Mode("vmap∘jvp", 1, jvp_under_vmap, of_samples=True),
)


@functools.cache
def finite_differences(case: LayerCase, whose: str, order: int, of_samples: bool, device: str) -> list[float]:
    p = problem(case, whose, device)
    return [p.finite_difference(order, at) for at in (p.samples if of_samples else [p.z])]


@functools.cache
def error(case: LayerCase, mode: Mode, whose: str, device: str) -> float:
    """The largest |derivative − finite difference| / max(1, |finite difference|); inf for NaN or an exception."""
    p = problem(case, whose, device)
    expected = finite_differences(case, whose, mode.order, mode.of_samples, device)
    try:
        got = mode.derivative(p, mode.order).reshape(-1).tolist()
    except RuntimeError:
        return math.inf
    errors = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(got, expected, strict=True)]
    return math.inf if any(math.isnan(e) for e in errors) else max(errors)
