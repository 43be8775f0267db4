"""The time loop of an LSTM or RNN, as ``recurrent`` asks for it. Names are those of csrc/core/recurrent.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normkit.kernels import cpu, products
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

    p_stats: Tensor | None = None
    z: Tensor | None = None
    z_stats: Tensor | None = None
    c: Tensor | None = None
    c_stats: Tensor | None = None


def _forward(loop: Loop, a: Arguments, keep: bool) -> tuple[Outputs, _Kept]:
    n_rows = a.p.shape[0]
    y, h_last = a.p.new_empty(n_rows, a.h0.shape[1]), torch.empty_like(a.h0)
    c_last = None if a.c0 is None else torch.empty_like(a.c0)
    kept = _Kept()
    if keep:
        kept = _Kept(
            p_stats=empty_stats(loop, a, there=a.norm_p_w is not None),
            z=torch.empty_like(a.p),
            z_stats=empty_stats(loop, a, there=loop.place != "none"),
            c=None if a.c0 is None else a.p.new_empty(n_rows, a.c0.shape[1]),
            c_stats=empty_stats(loop, a, there=a.norm_c_w is not None),
        )
    cpu.LIBRARY.recurrent_forward(*common(loop, a), *map(cpu.address, (y, *kept, h_last, c_last)))
    return (y, h_last) if c_last is None else (y, h_last, c_last), kept


def _backward(
    loop: Loop, a: Arguments, kept: Sequence[Tensor | None], y: Tensor, gradients: Sequence[Tensor], wanted: Arguments
) -> list[Tensor | None]:
    c = _Kept(*kept).c
    dp = torch.empty_like(a.p)
    # What a step adds to z = p + q then adds the same to p.
    dz = torch.empty_like(dp) if a.norm_p_w is not None or loop.place == "product" else dp
    dh, m = (None, None) if a.w_hr is None or c is None else (torch.empty_like(y), torch.empty_like(c))
    dh0, dc0 = torch.empty_like(a.h0), None if a.c0 is None else torch.empty_like(a.c0)
    db_ih, db_hh = empty_gradient(wanted.b_ih), empty_gradient(wanted.b_hh)
    db = db_hh if db_ih is None else db_ih
    of_norms = list(map(empty_gradient, wanted[FIRST_OF_NORMS:]))
    dy, dh_last, *rest = gradients
    cpu.LIBRARY.recurrent_backward(
        *common(loop, a),
        *map(cpu.address, (*kept, y, dy, dh_last, rest[0] if rest else None, dp, dz, dh, m, dh0, dc0, db, *of_norms)),
    )
    if db_ih is not None and db_hh is not None:
        db_hh.copy_(db_ih)
    dw_hh = gradient_of_w_hh(y, a.h0, loop.sizes, dz) if wanted.w_hh is not None else None
    dw_hr = (
        products.sum_of_outer_products(dh, m) if dh is not None and m is not None and wanted.w_hr is not None else None
    )
    return [dp, dh0, dc0, dw_hh, dw_hr, db_ih, db_hh, *of_norms]


KERNEL = Kernel(_forward, _backward)
