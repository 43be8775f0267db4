"""BatchNorm, GroupNorm and InstanceNorm on the compiled kernels.

One function for the three: statistics are those of a group of channels of a sample, or with ``n_groups=0`` those of a
channel of the whole batch. Derivatives of the first order are a kernel, higher ones those of ``composite``, as in
``rows``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit import composite
from normkit.composite import Activation
from normkit.kernels import choose, cpu, derivatives, eager

MeanAndVar = tuple[Tensor, Tensor]


def channel_norm(
    x: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    *,
    residual: Tensor | None = None,
    given: MeanAndVar | None = None,
    running: MeanAndVar | None = None,
    momentum: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalize; ``choose.path_of`` has said "kernel", and x has elements.

    ``given`` statistics normalize in place of x's own; ``running`` ones are updated in place. A residual goes with the
    activations None and relu. What a mask [N, 1, *] leaves out takes no part, and is 0.
    """
    x = dense(x)
    if mask is not None:
        mask = mask.contiguous()
    if residual is not None:
        residual = residual.contiguous(memory_format=memory_format(x))
    w, b = cpu.contiguous(w, b)
    into = None if running is None else (running[0].contiguous(), running[1].contiguous())
    done: Tensor | None
    mean, var = _dense_pair(given) or into or (None, None)
    places = None if mask is None else mask.squeeze(1)
    if n_groups == 0:
        done = eager.LIBRARY.batch_norm(x, mean, var, w, b, given is None, momentum, eps, activation, residual, places)
    elif into is not None:
        done = eager.LIBRARY.instance_norm(x, mean, var, w, b, True, momentum, eps, places)
    else:
        done = eager.LIBRARY.group_norm(x, n_groups, w, b, eps, activation, places)
    y: Tensor
    if done is not None:
        y = done
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, b, residual)):
        y = _ChannelNorm.apply(x, w, b, residual, n_groups, eps, activation, given, into, momentum, mask)
    else:
        y, _ = cpu.channel_norm(
            x, n_groups, w, b, eps, activation,
            residual=residual, given=_dense_pair(given), running=into, momentum=momentum, mask=mask,
        )  # fmt: skip
    if running is not None and into is not None:
        _write_back(running, into)
    return y


def by_kernel(
    x: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    given: MeanAndVar | None = None,
) -> Tensor:
    """Normalize where ``choose.accepts_channel_norm`` has said yes."""
    if torch.is_grad_enabled() and (
        x.requires_grad or (w is not None and w.requires_grad) or (b is not None and b.requires_grad)
    ):
        y: Tensor = _ChannelNorm.apply(x, w, b, None, n_groups, eps, activation, given, None, 0.0, None)
        return y
    return cpu.channel_norm(x, n_groups, w, b, eps, activation, given=given)[0]


def write(
    x: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None,
    given: MeanAndVar | None,
    out: Tensor,
) -> Tensor:
    """As ``by_kernel`` without a gradient, into a contiguous out, which may be x."""
    if out.data_ptr() == x.data_ptr() and x.shape[2:].numel() == 1:  # over pixels the kernel reads some of x twice
        return out.copy_(by_kernel(x, n_groups, w, b, eps, activation, given))
    return cpu.channel_norm(x, n_groups, w, b, eps, activation, given=given, out=out)[0]


def dense(x: Tensor) -> Tensor:
    """x, contiguous or in a channels_last format."""
    return x if x.is_contiguous() or memory_format(x) is not torch.contiguous_format else x.contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format that x is in, contiguous unless it is plainly one of the channels_last formats."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return torch.contiguous_format


def _dense_pair(given: MeanAndVar | None) -> MeanAndVar | None:
    return None if given is None else (given[0].contiguous(), given[1].contiguous())


def _write_back(running: MeanAndVar, updated: MeanAndVar) -> None:
    """Make autograd, and strided buffers, see what the kernel wrote."""
    for old, new in zip(running, updated, strict=True):
        if new is old:
            torch.autograd.graph.increment_version(old)
        else:
            old.copy_(new)


class _ChannelNorm(derivatives.KernelFunction):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor | None,
        b: Tensor | None,
        residual: Tensor | None,
        n_groups: int,
        eps: float,
        activation: Activation | None,
        given: MeanAndVar | None,
        running: MeanAndVar | None,
        momentum: float,
        mask: Tensor | None,
    ) -> Tensor:
        y, stats = cpu.channel_norm(
            x, n_groups, w, b, eps, activation,
            residual=residual, given=_dense_pair(given), running=running, momentum=momentum, mask=mask,
        )  # fmt: skip
        ctx.b_dtype = None if b is None else b.dtype
        # After a residual add the sign of y tells what relu passed on; without it, x does.
        ctx.by_sign = residual is not None and activation == "relu"
        ctx.activation = None if residual is not None else activation
        b = None if ctx.activation is None else b
        derivatives.save(ctx, x, w, b, stats, y if ctx.by_sign else None, mask)
        ctx.n_groups, ctx.eps, ctx.constant_stats = n_groups, eps, given is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        tensors, readable = derivatives.saved(ctx)
        x, w, b, stats, y, mask = tensors
        need_dx, need_dw, need_db, need_residual = ctx.needs_input_grad[:4]
        rest = (None,) * 7
        if not readable or choose.wants_composite_backward(dy):
            b_code = None if ctx.b_dtype is None else cpu.DTYPE_CODES[ctx.b_dtype]
            activation = cpu.ACTIVATION_CODES[ctx.activation]
            call = (ctx.n_groups, ctx.eps, activation, ctx.by_sign, ctx.constant_stats, b_code)
            of_x, of_residual, of_w, of_b = hand_over(
                call, (x, w, b, stats, y, mask), (dy,), (need_dx, need_residual, need_dw, need_db)
            )
            return of_x, of_w, of_b, of_residual, *rest
        dy, d_residual = _past_the_residual(dy, y if ctx.by_sign else None, mask, need_residual)
        if not (need_dx or need_dw or need_db):
            return None, None, None, d_residual, *rest
        assert x is not None
        x = dense(x)
        w, b, stats, mask = cpu.contiguous(w, b, stats, mask)
        assert stats is not None
        dw = torch.empty_like(w) if need_dw and w is not None else None
        db = torch.empty(x.shape[1], dtype=ctx.b_dtype) if need_db else None
        dx = cpu.channel_norm_backward(
            dy.contiguous(memory_format=memory_format(x)), x, stats, ctx.n_groups, w, b, ctx.eps, ctx.activation,
            constant_stats=ctx.constant_stats, need_dx=need_dx, dw=dw, db=db, mask=mask,
        )  # fmt: skip
        return dx, dw, db, d_residual, *rest


def hand_over(
    call: tuple[Any, ...],
    kept: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of x, residual, w and b as differentiable functions of what was kept and of dy.

    ``normkit._eager`` and ``_ChannelNorm`` call it where a kernel will not do.
    """
    n_groups, eps, activation_code, by_sign, constant_stats, b_code = call
    activation = cpu.ACTIVATIONS[activation_code]
    x, w, b, stats, y, mask = kept
    (dy,) = gradients
    assert x is not None
    assert stats is not None
    need_dx, need_residual, need_dw, need_db = needed
    if dy is None:
        return None, None, None, None
    if mask is not None:
        mask = mask.view(x.shape[0], 1, *x.shape[2:])
    dy, d_residual = _past_the_residual(dy, y if by_sign else None, mask, need_residual)
    if not (need_dx or need_dw or need_db):
        return None, d_residual, None, None
    if b is None and b_code is not None:  # then its value enters no gradient
        b = torch.zeros(x.shape[1], dtype=cpu.DTYPES[b_code])

    def forward(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        weights = None if mask is None else mask.to(stats.dtype)
        if constant_stats:
            mean, var = stats[:, 0] + stats[:, 1], stats[:, 3]
            x = composite.with_mean_as_padding(x, mask, mean)
            y = composite.apply_statistics(x, mean, var, w, b, eps, activation)
        elif n_groups == 0:
            y = composite.batch_norm(x, w, b, eps, activation, weights=weights)[0]
        else:
            y = composite.group_norm(x, n_groups, w, b, eps, activation, weights)
        return y if mask is None else torch.where(mask, y, 0)

    dx, dw, db = derivatives.through(forward, (x, w, b), (dy,), (need_dx, need_dw, need_db))
    return dx, d_residual, dw, db


def _past_the_residual(
    dy: Tensor, y: Tensor | None, mask: Tensor | None, need_residual: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient before the residual add, and that of the residual. With y, its sign tells what relu passed on."""
    if y is not None:
        dy = torch.ops.aten.threshold_backward(dy, y, 0)
    if not need_residual:
        return dy, None
    return dy, dy if mask is None else torch.where(mask, dy, 0)
