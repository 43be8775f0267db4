"""The time loop of an LSTM or RNN on the compiled kernels: all steps of one direction of one layer in one call.

The product with the input, and its norm, are done before, for all steps at once; what is left is p, [R, G·H], that
is with all biases. Rows are packed as in ``recurrence``. Sums over time, which give the weights' gradients, are done
after: one product, and the norms' own backward, for all steps at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from normkit.kernels import choose, cpu, products
from normkit.kernels.cpu import Norm
from normkit.kernels.derivatives import KernelFunction, through

Cell = Literal["lstm", "tanh", "relu", "gru"]
Place = Literal["none", "product", "sum"]
_CELLS: dict[Cell, int] = {"lstm": 0, "tanh": 1, "relu": 2, "gru": 3}
_GATES: dict[Cell, int] = {"lstm": 4, "tanh": 1, "relu": 1, "gru": 3}
_PLACES: dict[Place, int] = {"none": 0, "product": 1, "sum": 2}

# p, h0, c0, w_hh, w_hr, the norm's weight and bias, and those of N_c
Arguments = tuple[
    Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None
]  # fmt: skip
_N_ARGUMENTS = 9
Outputs = tuple[Tensor, ...]  # y, h_last, and c_last where there is one
Composite = Callable[..., Outputs]


@dataclass(frozen=True, eq=False)
class Loop:
    """What of a call enters no gradient; the names are those of csrc/core/recurrent.h."""

    cell: Cell
    place: Place
    norm: Norm
    has_norm_c: bool
    eps: float
    sizes: Sequence[int]

    @cached_property
    def sizes_in_memory(self) -> array[int]:
        return array("q", self.sizes)


def accepts(*tensors: Tensor | None) -> bool:
    """Whether the kernel takes a call on these: float32, more than nothing, and arithmetic that is compiled well."""
    if cpu.LIBRARY is None or torch.compiler.is_compiling() or choose.why_not(*tensors) is not None:
        return False
    # Without fused instructions (x86 before AVX2) a product of matrices would be a function call for each number.
    fused = cpu.LIBRARY.isa() != "portable"
    return fused and all(t is None or (t.dtype == torch.float32 and t.numel() > 0) for t in tensors)


def run(loop: Loop, arguments: Arguments, composite: Composite) -> Outputs:
    """All steps, where ``accepts`` has said yes. ``composite`` is the same function of the same tensors."""
    dense = tuple(None if t is None else t.contiguous() for t in arguments)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense):
        outputs: Outputs = _Loop.apply(loop, composite, *dense)
        return outputs
    return _forward(loop, dense, keep=False)[0]  # type: ignore[arg-type]


def _forward(loop: Loop, arguments: Arguments, keep: bool) -> tuple[Outputs, tuple[Tensor | None, ...]]:
    """The outputs; and z, c and their statistics, for the backward."""
    p, h0, c0, *_ = arguments
    n_rows = p.shape[0]
    y, h_last = p.new_empty(n_rows, h0.shape[1]), torch.empty_like(h0)
    c_last = None if c0 is None else torch.empty_like(c0)
    kept: tuple[Tensor | None, ...] = (None,) * 4
    if keep:
        per_row = cpu.STATS_PER_ROW[loop.norm]
        kept = (
            torch.empty_like(p),
            None if loop.place == "none" else p.new_empty(n_rows * per_row),
            None if c0 is None else p.new_empty(n_rows, c0.shape[1]),
            p.new_empty(n_rows * per_row) if loop.has_norm_c else None,
        )
    cpu.LIBRARY.recurrent_forward(*common(loop, *arguments), *map(cpu.address, (y, *kept, h_last, c_last)))
    return (y, h_last) if c_last is None else (y, h_last, c_last), kept


def common(
    loop: Loop, p: Tensor, h0: Tensor, c0: Tensor | None, w_hh: Tensor, w_hr: Tensor | None, *norms: Tensor | None
) -> tuple[Any, ...]:
    """What every call begins with; the norms' weights and biases are four, those of N_c last."""
    return (
        _CELLS[loop.cell], _PLACES[loop.place], cpu.NORM_CODES[loop.norm], int(loop.has_norm_c),
        p.shape[1] // _GATES[loop.cell], h0.shape[1], len(loop.sizes), h0.shape[0],
        loop.sizes_in_memory.buffer_info()[0], loop.eps, *map(cpu.address, (w_hh, w_hr, *norms, p, h0, c0)),
    )  # fmt: skip


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
        dense = [g.contiguous() for g in gradients]
        return None, None, *_backward(ctx.loop, arguments, kept, y, dense, needed)


def _backward(
    loop: Loop,
    arguments: Arguments,
    kept: Sequence[Tensor | None],
    y: Tensor,
    gradients: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    p, h0, c0, _, w_hr, norm_w, norm_b, norm_c_w, norm_c_b = arguments
    z, z_stats, c, c_stats = kept
    da = torch.empty_like(p)
    dz = da if loop.place == "none" else torch.empty_like(p)
    du = torch.empty_like(c) if loop.has_norm_c and c is not None else None
    dh, m = (None, None) if w_hr is None or c is None else (torch.empty_like(y), torch.empty_like(c))
    dh0, dc0 = torch.empty_like(h0), None if c0 is None else torch.empty_like(c0)
    dy, dh_last, *rest = gradients
    cpu.LIBRARY.recurrent_backward(
        *common(loop, *arguments),
        *map(cpu.address, (z, z_stats, c, c_stats, y, dy, dh_last, rest[0] if rest else None)),
        *map(cpu.address, (da, dz, du, dh, m, dh0, dc0)),
    )
    dw_hh = gradient_of_w_hh(y, h0, loop.sizes, dz) if needed[3] else None
    dw_hr = products.sum_of_outer_products(dh, m) if dh is not None and m is not None and needed[4] else None
    dnorm_w = dnorm_b = dnorm_c_w = dnorm_c_b = None
    if z is not None and z_stats is not None and (needed[5] or needed[6]):
        dnorm_w, dnorm_b = of_parameters(loop, da, z, z_stats, norm_w, norm_b)
    if du is not None and c is not None and c_stats is not None and (needed[7] or needed[8]):
        dnorm_c_w, dnorm_c_b = of_parameters(loop, du, c, c_stats, norm_c_w, norm_c_b)
    return [dz if loop.place == "sum" else da, dh0, dc0, dw_hh, dw_hr, dnorm_w, dnorm_b, dnorm_c_w, dnorm_c_b]


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
