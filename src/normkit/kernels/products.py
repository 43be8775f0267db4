"""Products of all rows of a call with a matrix, by torch or by the compiled kernels.

``torch.mm`` asks MKL, which keeps its AVX-512 code for Intel's processors. Where that leaves half of a processor
unused, the product of matrices that the time loops have takes its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normkit.composite import without_autocast
from normkit.kernels import choose, cpu
from normkit.kernels.derivatives import KernelFunction, save, saved, through

MKL_LEAVES_AVX512: bool = (
    cpu.LIBRARY is not None
    and cpu.LIBRARY.is_amd_with_avx512()
    and cpu.LIBRARY.isa().startswith("avx512")  # and not another one that the user has named
    and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
)
# Fewer multiplications than this take no longer than what surrounds them, and fewer rows no longer than laying out
# the matrix.
LEAST_PRODUCTS = 1 << 20
LEAST_ROWS = 8


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of x [R, K] and w [N, K]."""
    if (
        torch.compiler.is_compiling()
        or x.dim() != 2
        or w.dim() != 2
        or x.shape[1] != w.shape[1]
        or not _is_faster(x, w, x.numel() * w.shape[0])
        or choose.path_of(x, w, b) != "kernel"
    ):
        return F.linear(x, w, b)
    if not torch.is_grad_enabled():
        y = _product(x, w.T)
        return y if b is None else y.add_(b)
    y = _Linear.apply(x, w) if x.requires_grad or w.requires_grad else _product(x, w.T)
    return y if b is None else y + b


def sum_of_outer_products(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b of a [R, N] and b [R, K], in their dtype: the gradient of a weight, outside autograd."""
    if _is_faster(b, a, b.numel() * a.shape[1]):
        return _product(a.T, b)
    with without_autocast(a):
        return a.T @ b


class _Linear(KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        save(ctx, x, w)
        return _product(x, w.T)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), readable = saved(ctx)
        if not readable or choose.wants_composite_backward(dy):
            with without_autocast(dy):
                return tuple(through(F.linear, (x, w), (dy,), ctx.needs_input_grad))
        assert x is not None
        assert w is not None
        wants_dx, wants_dw = ctx.needs_input_grad
        return _product(dy, w) if wants_dx else None, _product(dy.T, x) if wants_dw else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A float32 product of two matrices of any strides."""
    out = a.new_empty(a.shape[0], b.shape[1])
    cpu.LIBRARY.multiply(
        a.shape[0], a.shape[1], b.shape[1], a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), out.data_ptr()
    )
    return out


def _is_faster(rows: Tensor, other: Tensor, n_products: int) -> bool:
    """Whether a kernel is for a product of rows, of so many numbers."""
    return (
        MKL_LEAVES_AVX512
        and n_products >= LEAST_PRODUCTS
        and rows.shape[0] >= LEAST_ROWS
        and rows.dtype == other.dtype == torch.float32
    )
