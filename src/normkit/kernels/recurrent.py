"""The time loop of an LSTM, GRU or RNN on the compiled kernels: all steps of one direction of one layer in one call.

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

from normkit.kernels import choose, cpu, products
from normkit.kernels.cpu import Norm
from normkit.kernels.derivatives import KernelFunction, save, saved, through

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
FIRST_OF_NORMS = Arguments._fields.index("norm_p_w")
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
    eps: float


def accepts(eps: float, *tensors: Tensor | None) -> bool:
    """Whether the kernel takes a call on these: float32, more than nothing, and arithmetic that is compiled well."""
    if not choose.accepts_here(eps) or not choose.are_plain_floats(*tensors):
        return False
    # Without fused instructions (x86 before AVX2) a product of matrices would be a function call for each number.
    return cpu.LIBRARY.isa() != "portable"  # type: ignore[no-any-return]


class Kernel(NamedTuple):
    """How a kind of cell is computed: the outputs and what the backward reads again; and the arguments' gradients.

    The backward is told those arguments whose gradient is wanted, None in place of the others.
    """

    forward: Callable[..., tuple[Outputs, Sequence[Tensor | None]]]
    backward: Callable[..., list[Tensor | None]]


def run(kernel: Kernel, loop: Loop, arguments: Arguments, composite: Composite) -> Outputs:
    """All steps, where ``accepts`` has said yes. ``composite`` is the same function of the same tensors."""
    dense = Arguments(*cpu.contiguous(*arguments))  # type: ignore[arg-type]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense):
        outputs: Outputs = _Loop.apply(kernel, loop, composite, *dense)
        return outputs
    return kernel.forward(loop, dense, keep=False)[0]


class _Loop(KernelFunction):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, loop: Loop, composite: Composite, *tensors: Tensor | None) -> Outputs:
        outputs, kept = kernel.forward(loop, Arguments(*tensors), keep=True)  # type: ignore[arg-type]
        save(ctx, *tensors, *kept, outputs[0])
        ctx.kernel, ctx.loop, ctx.composite = kernel, loop, composite
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        tensors, readable = saved(ctx)
        if not readable or any(choose.wants_composite_backward(g) for g in gradients):
            return None, None, None, *through(ctx.composite, tensors[:_N_ARGUMENTS], gradients, needed)
        found = cpu.contiguous(*tensors)
        arguments, kept, y = Arguments(*found[:_N_ARGUMENTS]), found[_N_ARGUMENTS:-1], found[-1]  # type: ignore[arg-type]
        wanted = Arguments(*(t if need else None for t, need in zip(arguments, needed, strict=True)))  # type: ignore[arg-type]
        dense = [g.contiguous() for g in gradients]
        of_arguments = ctx.kernel.backward(ctx.loop, arguments, kept, y, dense, wanted)
        return None, None, None, *of_arguments


def common(loop: Loop, a: Arguments) -> tuple[Any, ...]:
    """What every call of a kernel begins with."""
    return (
        _CELLS[loop.cell], _PLACES[loop.place], cpu.NORM_CODES[loop.norm], int(a.norm_p_w is not None),
        int(a.norm_c_w is not None), a.p.shape[1] // _GATES[loop.cell], a.h0.shape[1], len(loop.sizes), a.h0.shape[0],
        loop.address(), loop.eps, *map(cpu.address, a),
    )  # fmt: skip


def empty_stats(loop: Loop, a: Arguments, *, there: bool) -> Tensor | None:
    """Memory for the statistics of a norm that is there, of all rows."""
    return a.p.new_empty(a.p.shape[0] * cpu.STATS_PER_ROW[loop.norm]) if there else None


def empty_gradient(parameter: Tensor | None) -> Tensor | None:
    """Memory for the gradient of a parameter where one is wanted."""
    return None if parameter is None else torch.empty_like(parameter)


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
