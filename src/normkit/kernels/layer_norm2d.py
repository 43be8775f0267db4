"""LayerNorm2d over contiguous images on the compiled kernel: derivatives as in ``channels``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import composite
from normkit.kernels import choose, cpu, derivatives, eager


def layer_norm2d(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Normalize each position of a contiguous (N, C, H, W) over its channels; w and b are contiguous."""
    done: Tensor | None = eager.LIBRARY.layer_norm2d(x, w, b, eps)
    if done is not None:
        return done
    if torch.is_grad_enabled() and (
        x.requires_grad or (w is not None and w.requires_grad) or (b is not None and b.requires_grad)
    ):
        y: Tensor = _LayerNorm2d.apply(x, w, b, eps)
        return y
    return cpu.layer_norm2d(x, w, b, eps, False)[0]


def write(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, out: Tensor) -> Tensor:
    """As ``layer_norm2d`` without a gradient, into a contiguous out, which may be x."""
    return cpu.layer_norm2d(x, w, b, eps, False, out)[0]


class _LayerNorm2d(derivatives.KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
        y, stats = cpu.layer_norm2d(x, w, b, eps, True)
        derivatives.save(ctx, x, w, stats)
        ctx.eps = eps
        ctx.b_dtype = None if b is None else b.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        tensors, readable = derivatives.saved(ctx)
        need_dx, need_dw, need_db, _ = ctx.needs_input_grad
        if not readable or choose.wants_composite_backward(dy):
            b_code = None if ctx.b_dtype is None else cpu.DTYPE_CODES[ctx.b_dtype]
            return *hand_over((ctx.eps, b_code), tensors, (dy,), (need_dx, need_dw, need_db)), None
        x, w, stats = cpu.contiguous(*tensors)
        assert x is not None
        assert stats is not None
        dw = torch.empty_like(w) if need_dw and w is not None else None
        db = torch.empty(x.shape[1], dtype=ctx.b_dtype) if need_db else None
        dx = cpu.layer_norm2d_backward(dy.contiguous(), x, stats, w, ctx.eps, need_dx=need_dx, dw=dw, db=db)
        return dx, dw, db, None


def hand_over(
    call: tuple[Any, ...], kept: Sequence[Tensor | None], gradients: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of x, w and b as differentiable functions of what was kept and of dy.

    ``normkit._eager`` and ``_LayerNorm2d`` call it where a kernel will not do.
    """
    eps, b_code = call
    x, w = kept[:2]
    assert x is not None
    b = None if b_code is None else torch.zeros(x.shape[1], dtype=cpu.DTYPES[b_code])
    return tuple(
        derivatives.through(lambda x, w, b: composite.layer_norm2d(x, w, b, eps), (x, w, b), gradients, needed)
    )
