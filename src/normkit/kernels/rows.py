"""LayerNorm and RMSNorm over the last axes on the compiled kernels, alone or after a residual add.

The first derivative is a kernel, too. Where more is asked of a backward (``create_graph=True``, forward AD,
``vmap`` over gradients) it is done again in the differentiable operations of ``composite``, so that every
derivative is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import composite
from normkit.kernels import choose, cpu, ops
from normkit.kernels.cpu import Norm


def by_any(norm: Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Normalize over the last n_axes axes, whatever the arguments are: by kernel, operator or composite."""
    path = choose.path_of(x, w, b)
    if path == "composite":
        return _by_composite(norm, x, n_axes, w, b, eps)
    if path == "operator":
        y = ops.row_norm(norm, x, n_axes, w, b, eps)
    else:
        w, b = (None if p is None else p.contiguous() for p in (w, b))
        y = _by_kernel(norm, x.contiguous(), n_axes, w, b, eps)
    return composite.in_layout_of(x, y) if norm == "rms_norm" else y


def by_kernel(
    norm: Norm, x: Tensor, shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float
) -> Tensor:
    """Normalize over the last axes where ``choose.accepts_row_norm`` has said yes."""
    return _by_kernel(norm, x, 1 if isinstance(shape, int) else len(shape), w, b, eps)


def add_by_any(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    n_axes: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """The norm of z = residual + dropout(x), and z, whatever the arguments are."""
    path = choose.path_of(x, residual, w, b)
    if path == "kernel":
        w, b = (None if p is None else p.contiguous() for p in (w, b))
        return _add_by_kernel(norm, x.contiguous(), residual.contiguous(), n_axes, w, b, eps, dropout_p)
    dropped = torch.nn.functional.dropout(x, dropout_p)
    if path == "operator":
        return ops.add_row_norm(norm, dropped, residual, n_axes, w, b, eps)
    z = dropped + residual
    return _by_composite(norm, z, n_axes, w, b, eps), z


def _by_composite(norm: Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    if norm == "layer_norm":
        return composite.layer_norm(x, n_axes, w, b, eps)
    return composite.rms_norm(x, n_axes, w, eps)


def _by_kernel(norm: Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or _requires_grad(w) or _requires_grad(b)):
        y: Tensor = _RowNorm.apply(x, w, b, norm, n_axes, eps)  # type: ignore[no-untyped-call]
        return y
    return cpu.row_norm(norm, x, _n_cols(x, n_axes), w, b, eps, keep_stats=False)[0]


def _add_by_kernel(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    n_axes: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout_p > 0 else 0
    y: Tensor
    z: Tensor
    if torch.is_grad_enabled() and any(map(_requires_grad, (x, residual, w, b))):
        y, z = _AddRowNorm.apply(  # type: ignore[no-untyped-call]
            x, residual, w, b, norm, n_axes, eps, dropout_p, seed
        )
    else:
        n_cols = _n_cols(x, n_axes)
        y, z, _ = cpu.add_row_norm(norm, x, residual, n_cols, w, b, eps, dropout_p=dropout_p, seed=seed)
    return y, z


class _RowNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, norm: Norm, n_axes: int, eps: float) -> Tensor:
        y, stats = cpu.row_norm(norm, x, _n_cols(x, n_axes), w, b, eps, keep_stats=True)
        ctx.save_for_backward(x, w, stats)
        ctx.norm, ctx.n_axes, ctx.eps = norm, n_axes, eps
        ctx.b_dtype = None if b is None else b.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, w, stats = ctx.saved_tensors
        need_dx, need_dw, need_db = ctx.needs_input_grad[:3]
        if choose.wants_composite_backward(dy):
            return *_differentiable_gradients(ctx, x, w, dy, (need_dx, need_dw, need_db)), None, None, None
        dw = torch.empty_like(w) if need_dw else None
        db = _empty_bias(x, ctx) if need_db else None
        dx, _ = cpu.row_norm_backward(
            ctx.norm, dy.contiguous(), x, stats, _n_cols(x, ctx.n_axes), w, ctx.eps, need_dx=need_dx, dw=dw, db=db
        )
        return dx, dw, db, None, None, None


class _AddRowNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        w: Tensor | None,
        b: Tensor | None,
        norm: Norm,
        n_axes: int,
        eps: float,
        dropout_p: float,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        n_cols = _n_cols(x, n_axes)
        y, z, stats = cpu.add_row_norm(norm, x, residual, n_cols, w, b, eps, dropout_p=dropout_p, seed=seed)
        ctx.save_for_backward(z, w, stats)
        ctx.norm, ctx.n_axes, ctx.eps, ctx.dropout_p, ctx.seed = norm, n_axes, eps, dropout_p, seed
        ctx.b_dtype = None if b is None else b.dtype
        ctx.set_materialize_grads(False)
        return y, z

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, d_sum: Tensor | None) -> tuple[Any, ...]:
        z, w, stats = ctx.saved_tensors
        need_dx, need_dr, need_dw, need_db = ctx.needs_input_grad[:4]
        unused = (None,) * 5
        if dy is None and d_sum is None:
            return None, None, None, None, *unused
        if dy is None or choose.wants_composite_backward(dy, d_sum):
            dz, dw, db = (
                (None, None, None)
                if dy is None
                else _differentiable_gradients(ctx, z, w, dy, (need_dx or need_dr, need_dw, need_db))
            )
            if need_dx or need_dr:
                dz = d_sum if dz is None else dz if d_sum is None else dz + d_sum
            dx = dz * _dropout_factors(ctx, z) if need_dx and dz is not None and ctx.dropout_p > 0 else dz
            return dx, dz, dw, db, *unused
        dw = torch.empty_like(w) if need_dw else None
        db = _empty_bias(z, ctx) if need_db else None
        dz, dropped = cpu.row_norm_backward(
            ctx.norm, dy.contiguous(), z, stats, _n_cols(z, ctx.n_axes), w, ctx.eps,
            need_dx=need_dx or need_dr, dw=dw, db=db,
            dz=None if d_sum is None else d_sum.contiguous(), dropout_p=ctx.dropout_p, seed=ctx.seed,
        )  # fmt: skip
        return (dropped if ctx.dropout_p > 0 else dz), dz, dw, db, *unused


def _differentiable_gradients(
    ctx: Any, x: Tensor, w: Tensor | None, dy: Tensor, needed: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """The gradients of x, w and b as differentiable functions of x, w and dy."""
    with torch.enable_grad():
        # Views, so that one tensor given twice keeps two gradients. b's value enters none of them.
        inputs: list[Tensor | None] = [x.view_as(x), None if w is None else w.view_as(w), None]
        if ctx.b_dtype is not None:
            inputs[2] = torch.zeros(x.shape[x.dim() - ctx.n_axes :], dtype=ctx.b_dtype, requires_grad=True)
        xi, wi, bi = inputs
        assert xi is not None
        if not xi.requires_grad:
            xi.requires_grad_()
        y = _by_composite(ctx.norm, xi, ctx.n_axes, wi, bi, ctx.eps)
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return [next(found) if need and t is not None else None for t, need in zip(inputs, needed, strict=True)]


def _dropout_factors(ctx: Any, z: Tensor) -> Tensor:
    """What each element of the dropped-out input was multiplied by: the kernel's own, read off ones + zeros."""
    ones = torch.ones(z.shape, dtype=z.dtype)
    seed: int = ctx.seed
    return cpu.add_row_norm(
        ctx.norm, ones, torch.zeros_like(ones), _n_cols(z, ctx.n_axes), None, None, 1.0,
        dropout_p=ctx.dropout_p, seed=seed,
    )[1]  # fmt: skip


def _n_cols(x: Tensor, n_axes: int) -> int:
    return x.shape[-1] if n_axes == 1 else math.prod(x.shape[x.dim() - n_axes :])


def _requires_grad(t: Tensor | None) -> bool:
    return t is not None and t.requires_grad


def _empty_bias(x: Tensor, ctx: Any) -> Tensor:
    return torch.empty(x.shape[x.dim() - ctx.n_axes :], dtype=ctx.b_dtype)
