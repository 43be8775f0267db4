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
from normkit.kernels import channels, choose, cpu, derivatives, eager, ops
from normkit.kernels.cpu import Norm


def by_any(norm: Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Normalize over the last n_axes axes, whatever the arguments are: by kernel, operator or composite."""
    path = choose.path_of(x, w, b)
    if path == "composite":
        return _by_composite(norm, x, n_axes, w, b, eps)
    if path == "operator":
        y = ops.row_norm(norm, x, n_axes, w, b, eps)
    else:
        w, b = cpu.contiguous(w, b)
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
        w, b = cpu.contiguous(w, b)
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
    done: Tensor | None
    if norm == "layer_norm":
        done = eager.LIBRARY.layer_norm(x, x.shape[x.dim() - n_axes :], w, b, eps)
    else:
        done = eager.LIBRARY.rms_norm(x, x.shape[x.dim() - n_axes :], w, eps)
    if done is not None:
        return done
    if torch.is_grad_enabled() and (x.requires_grad or _requires_grad(w) or _requires_grad(b)):
        y: Tensor = _RowNorm.apply(x, None, w, b, norm, n_axes, eps, 0.0, 0)
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
    shape = x.shape[x.dim() - n_axes :]
    both: tuple[Tensor, Tensor] | None
    if norm == "layer_norm":
        both = eager.LIBRARY.add_layer_norm(x, residual, shape, w, b, eps, dropout_p, seed)
    else:
        both = eager.LIBRARY.add_rms_norm(x, residual, shape, w, eps, dropout_p, seed)
    if both is not None:
        return both
    if torch.is_grad_enabled() and any(map(_requires_grad, (x, residual, w, b))):
        y, z = _RowNorm.apply(x, residual, w, b, norm, n_axes, eps, dropout_p, seed)
    else:
        y, z, _ = cpu.add_row_norm(norm, x, residual, _n_cols(x, n_axes), w, b, eps, dropout_p, seed)
    return y, z


class _Call(NamedTuple):
    """What of a call is no tensor; the codes are those of ``cpu``, as ``normkit._eager`` gives them."""

    norm: int
    n_axes: int
    eps: float
    b_dtype: int | None  # b itself enters no gradient
    dropout_p: float
    seed: int


class _RowNorm(derivatives.KernelFunction):
    """Alone, or after a residual add: then it returns the sum, too."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        w: Tensor | None,
        b: Tensor | None,
        norm: Norm,
        n_axes: int,
        eps: float,
        dropout_p: float,
        seed: int,
    ) -> Tensor | tuple[Tensor, Tensor]:
        n_cols = _n_cols(x, n_axes)
        b_dtype = None if b is None else cpu.DTYPE_CODES[b.dtype]
        ctx.call = _Call(cpu.NORM_CODES[norm], n_axes, eps, b_dtype, dropout_p, seed)
        ctx.norm = norm
        ctx.set_materialize_grads(False)
        if residual is None:
            y, stats = cpu.row_norm(norm, x, n_cols, w, b, eps, True)
            derivatives.save(ctx, x, w, stats)
            return y
        y, z, stats = cpu.add_row_norm(norm, x, residual, n_cols, w, b, eps, dropout_p, seed)
        derivatives.save(ctx, z, w, stats)
        if not any(ctx.needs_input_grad[:2]):
            ctx.mark_non_differentiable(z)
        return y, z

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, d_sum: Tensor | None = None) -> tuple[Any, ...]:
        call: _Call = ctx.call
        needed = ctx.needs_input_grad[:4]
        need_dx, need_dr, need_dw, need_db = needed
        unused = (None,) * 5
        if dy is None and d_sum is None:
            return None, None, None, None, *unused
        tensors, readable = derivatives.saved(ctx)
        composite_backward = any(d is not None and choose.wants_composite_backward(d) for d in (dy, d_sum))
        if dy is None or not readable or composite_backward:
            z, w, stats = tensors
            return *hand_over(call, (z, w, None, stats, None), (dy, d_sum), needed), *unused
        z, w, stats = cpu.contiguous(*tensors)
        assert z is not None
        assert stats is not None
        dz, dw, db, dropped = cpu.row_norm_backward(
            ctx.norm, dy.contiguous(), z, stats, _n_cols(z, call.n_axes), w, call.eps,
            need_dx or need_dr, need_dw, cpu.DTYPES[call.b_dtype] if need_db and call.b_dtype is not None else None,
            None if d_sum is None else d_sum.contiguous(), call.dropout_p, call.seed,
        )  # fmt: skip
        if db is not None and call.n_axes > 1:
            db = db.view(z.shape[z.dim() - call.n_axes :])
        return (dropped if call.dropout_p > 0 else dz), dz if need_dr else None, dw, db, *unused


def hand_over(
    call: tuple[Any, ...],
    kept: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of x, residual, w and b as differentiable functions of what was kept and of dy and d_sum.

    ``normkit._eager`` and ``_RowNorm`` call it where a kernel will not do.
    """
    norm_code, n_axes, eps, b_code, dropout_p, seed = call
    norm = cpu.NORMS[norm_code]
    z, w = kept[:2]
    assert z is not None
    dy, d_sum = gradients if len(gradients) > 1 else (gradients[0], None)
    need_dx, need_dr, need_dw, need_db = needed
    dz = dw = db = None
    if dy is not None:
        b = None if b_code is None else torch.zeros(z.shape[z.dim() - n_axes :], dtype=cpu.DTYPES[b_code])
        dz, dw, db = derivatives.through(
            lambda z, w, b: _by_composite(norm, z, n_axes, w, b, eps),
            (z, w, b), (dy,), (need_dx or need_dr, need_dw, need_db),
        )  # fmt: skip
    if need_dx or need_dr:
        dz = d_sum if dz is None else dz if d_sum is None else dz + d_sum
    dx = dz
    if need_dx and dz is not None and dropout_p > 0:
        dx = dz * _dropout_factors(norm, z, n_axes, dropout_p, seed)
    return dx if need_dx else None, dz if need_dr else None, dw, db


def _dropout_factors(norm: Norm, z: Tensor, n_axes: int, dropout_p: float, seed: int) -> Tensor:
    """What each element of the dropped-out input was multiplied by: the kernel's own, read off ones + zeros."""
    ones = torch.ones(z.shape, dtype=z.dtype)
    zeros = torch.zeros_like(ones)
    return cpu.add_row_norm(norm, ones, zeros, _n_cols(z, n_axes), None, None, 1.0, dropout_p, seed)[1]


def _n_cols(x: Tensor, n_axes: int) -> int:
    return x.shape[-1] if n_axes == 1 else math.prod(x.shape[x.dim() - n_axes :])


def _requires_grad(t: Tensor | None) -> bool:
    return t is not None and t.requires_grad
