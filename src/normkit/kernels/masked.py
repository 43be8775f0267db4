"""BatchNorm under a mask on the compiled kernels, which pass over what does not count.

As in ``channels``, the first derivative is a kernel, and higher ones are those of ``composite``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normkit import composite
from normkit.composite import Activation
from normkit.kernels import channels, choose, cpu, derivatives
from normkit.kernels.channels import MeanAndVar


def batch_norm(
    x: Tensor,
    mask: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
    running: MeanAndVar | None,
    momentum: float,
) -> Tensor:
    """Normalize where mask [N, 1, *], which somewhere is True, and be 0 elsewhere; ``choose.path_of`` says "kernel".

    ``running`` statistics are updated in place. A residual goes with the activations None and relu.
    """
    x = channels.dense(x)
    if residual is not None:
        residual = residual.contiguous(memory_format=channels.memory_format(x))
    w, b = (None if p is None else p.contiguous() for p in (w, b))
    mask = mask.contiguous()
    into = None if running is None else (running[0].contiguous(), running[1].contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, b, residual)):
        y: Tensor = _MaskedBatchNorm.apply(x, w, b, residual, mask, eps, activation, into, momentum)
    else:
        y, _ = cpu.channel_norm(
            x, 0, w, b, eps, activation, residual=residual, running=into, momentum=momentum, mask=mask
        )
    if running is not None and into is not None:
        channels.write_back(running, into)
    return y


class _MaskedBatchNorm(derivatives.KernelFunction):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor | None,
        b: Tensor | None,
        residual: Tensor | None,
        mask: Tensor,
        eps: float,
        activation: Activation | None,
        running: MeanAndVar | None,
        momentum: float,
    ) -> Tensor:
        y, stats = cpu.channel_norm(
            x, 0, w, b, eps, activation, residual=residual, running=running, momentum=momentum, mask=mask
        )
        # After a residual add the sign of y tells what relu passed on; without it, x does.
        ctx.through_relu = residual is not None and activation == "relu"
        ctx.activation = None if residual is not None else activation
        ctx.save_for_backward(x, w, b, stats, y if ctx.through_relu else None, mask)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, w, b, stats, y, mask = ctx.saved_tensors
        need_dx, need_dw, need_db, need_residual = ctx.needs_input_grad[:4]
        if ctx.through_relu:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)
        rest = (torch.where(mask, dy, 0) if need_residual else None, *(None,) * 5)
        if not (need_dx or need_dw or need_db):
            return None, None, None, *rest
        if choose.wants_composite_backward(dy):
            weights = mask.to(stats.dtype)

            def compute(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
                z, _ = composite.batch_norm(x, w, b, ctx.eps, ctx.activation, weights=weights)
                return torch.where(mask, z, 0)

            return *derivatives.through(compute, (x, w, b), (dy,), (need_dx, need_dw, need_db)), *rest
        dw = torch.empty_like(w) if need_dw else None
        db = torch.empty_like(b) if need_db else None
        dx = cpu.channel_norm_backward(
            dy.contiguous(memory_format=channels.memory_format(x)), x, stats, 0, w, b, ctx.eps, ctx.activation,
            constant_stats=False, need_dx=need_dx, dw=dw, db=db, mask=mask,
        )  # fmt: skip
        return dx, dw, db, *rest
