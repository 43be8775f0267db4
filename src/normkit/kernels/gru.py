"""The time loop of a GRU, as ``recurrent`` asks for it. Names are those of csrc/core/recurrent.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normkit.kernels import cpu
from normkit.kernels.recurrent import (
    FIRST_OF_NORMS,
    Arguments,
    Kernel,
    Loop,
    Outputs,
    common,
    empty_gradient,
    empty_stats,
    gradient_of_w_hh,
)


class _Kept(NamedTuple):
    """What the backward reads again beside arguments and y."""

    p_stats_rz: Tensor | None = None
    p_stats_n: Tensor | None = None
    z_rz: Tensor | None = None
    z_n: Tensor | None = None
    q_n: Tensor | None = None
    stats_rz: Tensor | None = None
    stats_n: Tensor | None = None


def _forward(loop: Loop, a: Arguments, keep: bool) -> tuple[Outputs, _Kept]:
    n_rows, n_hidden = a.p.shape[0], a.h0.shape[1]
    y, h_last = a.p.new_empty(n_rows, n_hidden), torch.empty_like(a.h0)
    kept = _Kept()
    if keep:
        kept = _Kept(
            p_stats_rz=empty_stats(loop, a, there=a.norm_p_w is not None),
            p_stats_n=empty_stats(loop, a, there=a.norm_p_w is not None),
            z_rz=a.p.new_empty(n_rows, 2 * n_hidden),
            z_n=torch.empty_like(y),
            q_n=torch.empty_like(y) if loop.place == "sum" else None,
            stats_rz=empty_stats(loop, a, there=loop.place != "none"),
            stats_n=empty_stats(loop, a, there=loop.place != "none"),
        )
    cpu.LIBRARY.gru_forward(*common(loop, a), *map(cpu.address, (y, *kept, h_last)))
    return (y, h_last), kept


def _backward(
    loop: Loop, a: Arguments, kept: Sequence[Tensor | None], y: Tensor, gradients: Sequence[Tensor], wanted: Arguments
) -> list[Tensor | None]:
    dp, dq, dh0 = torch.empty_like(a.p), torch.empty_like(a.p), torch.empty_like(a.h0)
    n_hidden = a.h0.shape[1]
    db = a.p.new_empty(4 * n_hidden) if wanted.b_ih is not None or wanted.b_hh is not None else None
    of_norms = list(map(empty_gradient, wanted[FIRST_OF_NORMS:]))
    cpu.LIBRARY.gru_backward(
        *common(loop, a), *map(cpu.address, (*kept, y, *gradients, dp, dq, dh0, db, *of_norms[:4]))
    )
    db_ih = db_hh = None
    if db is not None:
        of_both, of_ih, of_hh = torch.split(db, [2 * n_hidden, n_hidden, n_hidden])
        db_ih = torch.cat([of_both, of_ih]) if wanted.b_ih is not None else None
        db_hh = torch.cat([of_both, of_hh]) if wanted.b_hh is not None else None
    dw_hh = gradient_of_w_hh(y, a.h0, loop.sizes, dq) if wanted.w_hh is not None else None
    return [dp, dh0, None, dw_hh, None, db_ih, db_hh, *of_norms]


KERNEL = Kernel(_forward, _backward)
