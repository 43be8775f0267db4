"""The time loop of an LSTM or RNN on the compiled kernels: all steps of one direction of one layer in one call.

The product with the input is done before, for all steps at once: p, [R, G·H]. Rows are packed as in ``recurrence``.
The gradients of the weights are done after: one product for all steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from normkit.kernels import choose, cpu, eager, products
from normkit.kernels.cpu import Norm
from normkit.kernels.derivatives import KernelFunction, through

Cell = Literal["lstm", "tanh", "relu", "gru"]
Place = Literal["none", "product", "sum"]
_CELLS: dict[Cell, int] = {"lstm": 0, "tanh": 1, "relu": 2, "gru": 3}
_GATES: dict[Cell, int] = {"lstm": 4, "tanh": 1, "relu": 1, "gru": 3}
_PLACES: dict[Place, int] = {"none": 0, "product": 1, "sum": 2}


class Arguments(NamedTuple):
    """The tensors of a call; names as in csrc/core/recurrent.h."""

    p: Tensor
    h0: Tensor
    c0: Tensor | None
    w_hh: Tensor
    w_hr: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    norm_p_w: Tensor | None
    norm_p_b: Tensor | None
    norm_w: Tensor | None
    norm_b: Tensor | None
    norm_c_w: Tensor | None
    norm_c_b: Tensor | None


_N_ARGUMENTS = len(Arguments._fields)
_FIRST_OF_NORMS = Arguments._fields.index("norm_p_w")
Outputs = tuple[Tensor, ...]  # y, h_last, and c_last where there is one
Composite = Callable[..., Outputs]


@dataclass(frozen=True, eq=False)
class Steps:
    """The time steps of a call."""

    sizes: Sequence[int]  # rows of each

    @cached_property
    def _in_memory(self) -> array[int]:
        return array("q", self.sizes)

    def address(self) -> int:
        """Of the sizes, while this lives."""
        return self._in_memory.buffer_info()[0]


@dataclass(frozen=True, eq=False)
class Loop(Steps):
    """What of a call enters no gradient; the names are those of csrc/core/recurrent.h."""

    cell: Cell
    place: Place
    norm: Norm
    has_norm_p: bool  # a GRU has that done before
    has_norm_c: bool
    eps: float


def accepts(eps: float, *tensors: Tensor | None) -> bool:
    """Whether the kernel takes a call on these: float32, more than nothing, and arithmetic that is compiled well."""
    if not choose.accepts_here(eps) or not (eager.LIBRARY.plain_floats(*tensors) or _are_plain_floats(tensors)):
        return False
    # Without fused instructions (x86 before AVX2) a product of matrices would be a function call for each number.
    return cpu.LIBRARY.isa() != "portable"  # type: ignore[no-any-return]


def _are_plain_floats(tensors: Sequence[Tensor | None]) -> bool:
    return choose.why_not_these(*tensors) is None and all(
        t is None or (t.dtype == torch.float32 and t.numel() > 0) for t in tensors
    )


def run(loop: Loop, arguments: Arguments, composite: Composite) -> Outputs:
    """All steps, where ``accepts`` has said yes. ``composite`` is the same function of the same tensors."""
    dense = Arguments(*(None if t is None else t.contiguous() for t in arguments))  # type: ignore[arg-type]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense):
        outputs: Outputs = _Loop.apply(loop, composite, *dense)
        return outputs
    return _forward(loop, dense, keep=False)[0]


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
        n_stats = n_rows * cpu.STATS_PER_ROW[loop.norm]
        kept = _Kept(
            p_stats=a.p.new_empty(n_stats) if loop.has_norm_p else None,
            z=torch.empty_like(a.p),
            z_stats=None if loop.place == "none" else a.p.new_empty(n_stats),
            c=None if a.c0 is None else a.p.new_empty(n_rows, a.c0.shape[1]),
            c_stats=a.p.new_empty(n_stats) if loop.has_norm_c else None,
        )
    cpu.LIBRARY.recurrent_forward(*_common(loop, a), *map(cpu.address, (y, *kept, h_last, c_last)))
    return (y, h_last) if c_last is None else (y, h_last, c_last), kept


def _common(loop: Loop, a: Arguments) -> tuple[Any, ...]:
    """What both calls begin with."""
    return (
        *common(loop, a.p, a.h0, a.c0, a.w_hh, a.w_hr, a.norm_w, a.norm_b, a.norm_c_w, a.norm_c_b),
        int(loop.has_norm_p), *map(cpu.address, (a.norm_p_w, a.norm_p_b, a.b_ih, a.b_hh)),
    )  # fmt: skip


def common(
    loop: Loop, p: Tensor, h0: Tensor, c0: Tensor | None, w_hh: Tensor, w_hr: Tensor | None, *norms: Tensor | None
) -> tuple[Any, ...]:
    """What every cell's calls begin with; the norms' weights and biases are four, those of N_c last."""
    return (
        _CELLS[loop.cell], _PLACES[loop.place], cpu.NORM_CODES[loop.norm], int(loop.has_norm_c),
        p.shape[1] // _GATES[loop.cell], h0.shape[1], len(loop.sizes), h0.shape[0],
        loop.address(), loop.eps, *map(cpu.address, (w_hh, w_hr, *norms, p, h0, c0)),
    )  # fmt: skip


class _Loop(KernelFunction):
    @staticmethod
    def forward(ctx: Any, loop: Loop, composite: Composite, *tensors: Tensor | None) -> Outputs:
        arguments = Arguments(*tensors)  # type: ignore[arg-type]
        outputs, kept = _forward(loop, arguments, keep=True)
        ctx.save_for_backward(*arguments, *kept, outputs[0])
        ctx.loop, ctx.composite = loop, composite
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        arguments, kept, y = Arguments(*saved[:_N_ARGUMENTS]), _Kept(*saved[_N_ARGUMENTS:-1]), saved[-1]
        needed = ctx.needs_input_grad[2:]
        if any(choose.wants_composite_backward(g) for g in gradients):
            return None, None, *through(ctx.composite, arguments, gradients, needed)
        dense = [g.contiguous() for g in gradients]
        return None, None, *_backward(ctx.loop, arguments, kept, y, dense, needed)


def _backward(
    loop: Loop, a: Arguments, kept: _Kept, y: Tensor, gradients: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    dp = torch.empty_like(a.p)
    # What a step adds to z = p + q then adds the same to p.
    dz = torch.empty_like(dp) if loop.has_norm_p or loop.place == "product" else dp
    dh, m = (None, None) if a.w_hr is None or kept.c is None else (torch.empty_like(y), torch.empty_like(kept.c))
    dh0, dc0 = torch.empty_like(a.h0), None if a.c0 is None else torch.empty_like(a.c0)
    needs = dict(zip(Arguments._fields, needed, strict=True))
    db = next((torch.empty_like(b) for b in (a.b_ih, a.b_hh) if b is not None), None)
    of_norms = [
        torch.empty_like(t) if t is not None and want else None
        for t, want in zip(a[_FIRST_OF_NORMS:], needed[_FIRST_OF_NORMS:], strict=True)
    ]
    dy, dh_last, *rest = gradients
    cpu.LIBRARY.recurrent_backward(
        *_common(loop, a),
        *map(cpu.address, (*kept, y, dy, dh_last, rest[0] if rest else None, dp, dz, dh, m, dh0, dc0, db, *of_norms)),
    )
    dw_hh = gradient_of_w_hh(y, a.h0, loop.sizes, dz) if needs["w_hh"] else None
    dw_hr = products.sum_of_outer_products(dh, m) if dh is not None and m is not None and needs["w_hr"] else None
    db_ih, db_hh = (db if needs[name] else None for name in ("b_ih", "b_hh"))
    return [dp, dh0, dc0, dw_hh, dw_hr, db_ih, db_hh, *of_norms]


def of_parameters(
    loop: Loop, dy: Tensor, x: Tensor, stats: Tensor, w: Tensor | None, b: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a norm's weight and bias, of all steps at once."""
    found = cpu.row_norm_backward(
        loop.norm, dy, x, stats, x.shape[1], w, loop.eps, False, w is not None, None if b is None else b.dtype
    )
    return found.dw, found.db


def gradient_of_w_hh(y: Tensor, h0: Tensor, sizes: Sequence[int], dz: Tensor) -> Tensor:
    """The sum over all rows of dz times the state before their step."""
    first = sizes[0]
    dw = products.sum_of_outer_products(dz[:first], h0)
    if len(sizes) == 1:
        return dw
    if sizes[-1] == first:
        before = y[: y.shape[0] - first]
    else:
        steps = torch.split(y, list(sizes))
        before = torch.cat([h[:n] for h, n in zip(steps, sizes[1:], strict=False)])
    return dw.add_(products.sum_of_outer_products(dz[first:], before))
