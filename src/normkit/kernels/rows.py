"""LayerNorm and RMSNorm over the last axes on the compiled kernels, alone or after a residual add.

The first derivative is a kernel, too. Where more is asked of a backward (``create_graph=True``, forward AD,
``vmap`` over gradients) it is done again in the differentiable operations of ``composite``, so that every
derivative is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normkit import composite
from normkit.kernels import channels, choose, cpu, derivatives, ops
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
    # torch's RMSNorm keeps channels_last, torch's LayerNorm does not.
    return y.contiguous(memory_format=channels.memory_format(x)) if norm == "rms_norm" else y


def by_kernel(
    norm: Norm, x: Tensor, shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float
) -> Tensor:
    """Normalize over the last axes where ``choose.accepts_row_norm`` has said yes."""
    return _by_kernel(norm, x, 1 if isinstance(shape, int) else len(shape), w, b, eps)


def write(
    norm: Norm, x: Tensor, shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float, out: Tensor
) -> Tensor:
    """As ``by_kernel`` without a gradient, into a contiguous out, which may be x."""
    return cpu.row_norm(norm, x, _n_cols(x, 1 if isinstance(shape, int) else len(shape)), w, b, eps, False, out)[0]


def add_by_kernel(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    shape: int | Sequence[int],
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The norm of z = residual + x, and z, where ``choose.accepts_row_norm`` and ``accepts_sum`` have said yes."""
    return _add_by_kernel(norm, x, residual, 1 if isinstance(shape, int) else len(shape), w, b, eps, 0.0)


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
    dropped = torch.nn.functional.dropout(x, dropout_p) if dropout_p > 0 else x
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
        y: Tensor = _RowNorm.apply(x, w, b, norm, n_axes, eps)
        return y
    return cpu.row_norm(norm, x, _n_cols(x, n_axes), w, b, eps, False)[0]


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
        y, z = _AddRowNorm.apply(x, residual, w, b, norm, n_axes, eps, dropout_p, seed)
    else:
        n_cols = _n_cols(x, n_axes)
        y, z, _ = cpu.add_row_norm(norm, x, residual, n_cols, w, b, eps, dropout_p, seed)
    return y, z


class _Call(NamedTuple):
    """What of a call is no tensor."""

    norm: Norm
    n_axes: int
    n_cols: int
    eps: float
    b_dtype: torch.dtype | None  # b itself enters no gradient
    dropout_p: float = 0.0
    seed: int = 0


class _RowNorm(derivatives.KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, norm: Norm, n_axes: int, eps: float) -> Tensor:
        n_cols = _n_cols(x, n_axes)
        y, stats = cpu.row_norm(norm, x, n_cols, w, b, eps, True)
        ctx.save_for_backward(x, w, stats)
        ctx.call = _Call(norm, n_axes, n_cols, eps, None if b is None else b.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, w, stats = ctx.saved_tensors
        call: _Call = ctx.call
        need_dx, need_dw, need_db, _, _, _ = ctx.needs_input_grad
        if choose.wants_composite_backward(dy):
            return *_differentiable_gradients(call, x, w, dy, (need_dx, need_dw, need_db)), None, None, None
        dx, dw, db, _ = cpu.row_norm_backward(
            call.norm, dy.contiguous(), x, stats, call.n_cols, w, call.eps,
            need_dx, need_dw, call.b_dtype if need_db else None,
        )  # fmt: skip
        return dx, dw, _in_shape_of_row(db, x, call), None, None, None


class _AddRowNorm(derivatives.KernelFunction):
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
        y, z, stats = cpu.add_row_norm(norm, x, residual, n_cols, w, b, eps, dropout_p, seed)
        ctx.save_for_backward(z, w, stats)
        ctx.call = _Call(norm, n_axes, n_cols, eps, None if b is None else b.dtype, dropout_p, seed)
        ctx.set_materialize_grads(False)
        if not any(ctx.needs_input_grad[:2]):
            ctx.mark_non_differentiable(z)
        return y, z

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, d_sum: Tensor | None) -> tuple[Any, ...]:
        z, w, stats = ctx.saved_tensors
        call: _Call = ctx.call
        need_dx, need_dr, need_dw, need_db = ctx.needs_input_grad[:4]
        unused = (None,) * 5
        if dy is None and d_sum is None:
            return None, None, None, None, *unused
        if (
            dy is None
            or choose.wants_composite_backward(dy)
            or (d_sum is not None and choose.wants_composite_backward(d_sum))
        ):
            dz, dw, db = (
                (None, None, None)
                if dy is None
                else _differentiable_gradients(call, z, w, dy, (need_dx or need_dr, need_dw, need_db))
            )
            if need_dx or need_dr:
                dz = d_sum if dz is None else dz if d_sum is None else dz + d_sum
            dx = dz * _dropout_factors(call, z) if need_dx and dz is not None and call.dropout_p > 0 else dz
            return dx, dz, dw, db, *unused
        dz, dw, db, dropped = cpu.row_norm_backward(
            call.norm, dy.contiguous(), z, stats, call.n_cols, w, call.eps,
            need_dx or need_dr, need_dw, call.b_dtype if need_db else None,
            None if d_sum is None else d_sum.contiguous(), call.dropout_p, call.seed,
        )  # fmt: skip
        return (dropped if call.dropout_p > 0 else dz), dz, dw, _in_shape_of_row(db, z, call), *unused


def _differentiable_gradients(
    call: _Call, x: Tensor, w: Tensor | None, dy: Tensor, needed: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """The gradients of x, w and b as differentiable functions of x, w and dy."""
    b = None if call.b_dtype is None else torch.zeros(x.shape[x.dim() - call.n_axes :], dtype=call.b_dtype)
    return derivatives.through(
        lambda x, w, b: _by_composite(call.norm, x, call.n_axes, w, b, call.eps), (x, w, b), (dy,), needed
    )


def _dropout_factors(call: _Call, z: Tensor) -> Tensor:
    """What each element of the dropped-out input was multiplied by: the kernel's own, read off ones + zeros."""
    ones = torch.ones(z.shape, dtype=z.dtype)
    return cpu.add_row_norm(
        call.norm, ones, torch.zeros_like(ones), call.n_cols, None, None, 1.0,
        call.dropout_p, call.seed,
    )[1]  # fmt: skip


def _in_shape_of_row(db: Tensor | None, x: Tensor, call: _Call) -> Tensor | None:
    return db if db is None or call.n_axes == 1 else db.view(x.shape[x.dim() - call.n_axes :])


def _n_cols(x: Tensor, n_axes: int) -> int:
    return x.shape[-1] if n_axes == 1 else math.prod(x.shape[x.dim() - n_axes :])


def _requires_grad(t: Tensor | None) -> bool:
    return t is not None and t.requires_grad
