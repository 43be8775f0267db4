"""The time loop of a GRU on the compiled kernels, as ``recurrent`` has it for the LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normkit.kernels import choose, cpu
from normkit.kernels.derivatives import KernelFunction, through
from normkit.kernels.recurrent import (
    Composite,
    Loop,
    Outputs,
    common,
    gradient_of_w_hh,
    of_parameters,
)

# p, with all biases but b_hh; h0; w_hh; b_hh; the norms' weights [3H] and biases
Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
_N_ARGUMENTS = 6


def run(loop: Loop, arguments: Arguments, composite: Composite) -> Outputs:
    """All steps, where ``recurrent.accepts`` has said yes: y and h_last, as ``composite`` of the same tensors."""
    dense = tuple(None if t is None else t.contiguous() for t in arguments)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense):
        outputs: Outputs = _Loop.apply(loop, composite, *dense)
        return outputs
    return _forward(loop, dense, keep=False)[0]  # type: ignore[arg-type]


def _forward(loop: Loop, arguments: Arguments, keep: bool) -> tuple[Outputs, tuple[Tensor | None, ...]]:
    """The outputs; and for the backward in_rz, in_n, q_n and the statistics, as csrc/core/recurrent.h names them."""
    p, h0, w_hh, b_hh, norm_w, norm_b = arguments
    n_rows, n_hidden = p.shape[0], h0.shape[1]
    y, h_last = p.new_empty(n_rows, n_hidden), torch.empty_like(h0)
    kept: tuple[Tensor | None, ...] = (None,) * 5
    if keep:
        n_stats = n_rows * cpu.STATS_PER_ROW[loop.norm]
        normed = loop.place != "none"
        kept = (
            p.new_empty(n_rows, 2 * n_hidden),
            torch.empty_like(y),
            torch.empty_like(y) if loop.place == "sum" else None,
            p.new_empty(n_stats) if normed else None,
            p.new_empty(n_stats) if normed else None,
        )
    cpu.LIBRARY.gru_forward(
        *common(loop, p, h0, None, w_hh, None, norm_w, norm_b, None, None), *map(cpu.address, (b_hh, y, *kept, h_last))
    )
    return (y, h_last), kept


class _Loop(KernelFunction):
    @staticmethod
    def forward(ctx: Any, loop: Loop, composite: Composite, *arguments: Tensor | None) -> Outputs:
        outputs, kept = _forward(loop, arguments, keep=True)  # type: ignore[arg-type]
        ctx.save_for_backward(*arguments, *kept, outputs[0])
        ctx.loop, ctx.composite = loop, composite
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        arguments, kept, y = saved[:_N_ARGUMENTS], saved[_N_ARGUMENTS:-1], saved[-1]
        needed = ctx.needs_input_grad[2:]
        if any(choose.wants_composite_backward(g) for g in gradients):
            return None, None, *through(ctx.composite, arguments, gradients, needed)
        dy, dh_last = (g.contiguous() for g in gradients)
        return None, None, *_backward(ctx.loop, arguments, kept, y, dy, dh_last, needed)


def _backward(
    loop: Loop,
    arguments: Arguments,
    kept: Sequence[Tensor | None],
    y: Tensor,
    dy: Tensor,
    dh_last: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    p, h0, w_hh, b_hh, norm_w, norm_b = arguments
    in_rz, in_n, _, stats_rz, stats_n = kept
    assert in_rz is not None
    assert in_n is not None
    dp, dh0 = torch.empty_like(p), torch.empty_like(h0)
    dout = (torch.empty_like(in_rz), torch.empty_like(in_n))
    dq = dout if loop.place == "none" else (torch.empty_like(in_rz), torch.empty_like(in_n))
    cpu.LIBRARY.gru_backward(
        *common(loop, p, h0, None, w_hh, None, norm_w, norm_b, None, None),
        *map(cpu.address, (b_hh, *kept, y, dy, dh_last, dp, *dout, *dq, dh0)),
    )
    dw_hh = torch.cat([gradient_of_w_hh(y, h0, loop.sizes, d) for d in dq]) if needed[2] else None
    # b_hh stands behind the norms of the product, and before those of the sum.
    db_hh = torch.cat([d.sum(0) for d in (dout if loop.place == "product" else dq)]) if needed[3] else None
    dnorm_w = dnorm_b = None
    if stats_rz is not None and stats_n is not None and (needed[4] or needed[5]):
        parts = [
            of_parameters(loop, d, x, stats, _part(norm_w, k), _part(norm_b, k))
            for k, (d, x, stats) in enumerate(zip(dout, (in_rz, in_n), (stats_rz, stats_n), strict=True))
        ]
        dnorm_w, dnorm_b = (_joined(found) for found in zip(*parts, strict=True))
    return [dp, dh0, dw_hh, db_hh, dnorm_w, dnorm_b]


def _part(parameter: Tensor | None, k: int) -> Tensor | None:
    """The stretch of r and z, or that of n."""
    if parameter is None:
        return None
    n_hidden = parameter.shape[0] // 3
    return parameter[: 2 * n_hidden] if k == 0 else parameter[2 * n_hidden :]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None
