"""The time loop of an LSTM with recurrent BatchNorm on the compiled kernels: all steps of one direction in one call.

Names are those of csrc/core/batch_lstm.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normkit.kernels import choose, cpu, products
from normkit.kernels.derivatives import KernelFunction, save, saved, through
from normkit.kernels.recurrent import Composite, Outputs, Steps, gradient_of_w_hh

PLACES = ("ih", "hh", "sum", "c")
# u, h0, c0, w_hh, w_hr, and for each of PLACES its norm's weight and bias
Arguments = Sequence[Tensor | None]
_N_ARGUMENTS = 5 + 2 * len(PLACES)
_STATS_PER_COLUMN = 4


@dataclass(frozen=True, eq=False)
class Loop(Steps):
    """What of a call enters no gradient."""

    by_batch: bool
    eps: float
    n_places: int  # of the running statistics
    running: Sequence[tuple[Tensor, Tensor] | None]  # mean and variance, for each of PLACES


class Found(NamedTuple):
    """What a call computes; ``stats`` [T, 4, C] holds m0, dm, rstd and the population variance for each of PLACES."""

    outputs: Outputs  # y, h_last, c_last
    stats: list[Tensor | None]
    z: Tensor | None
    cells: Tensor | None


def run(loop: Loop, arguments: Arguments, composite: Composite) -> tuple[Outputs, list[Tensor | None]] | None:
    """y, h_last and c_last, and the statistics; None where values have left the range that the kernel serves.

    For calls of which ``recurrent.accepts`` has said yes. ``composite`` gives the outputs from these statistics and the
    same tensors.
    """
    dense = cpu.contiguous(*arguments)
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense)
    with torch.no_grad():
        found = _forward(loop, dense, keep=differentiable)
    if found is None:
        return None
    if not differentiable:
        return found.outputs, found.stats
    outputs: Outputs = _Loop.apply(loop, partial(composite, found.stats), found, *dense)
    return outputs, found.stats


def update(stats: Tensor, sizes: Sequence[int], running: tuple[Tensor, Tensor], momentum: float) -> bool:
    """Lets the statistics of a call by batch enter running mean and variance [places, C].

    False, and nothing done, where these are not memory that a kernel may write.
    """
    if not isinstance(momentum, (float, int)) or not all(map(_is_writable, running)):
        return False
    mean, var = running
    steps = Steps(sizes)
    cpu.LIBRARY.update_step_statistics(
        mean.shape[1], len(sizes), steps.address(), mean.shape[0], momentum,
        *map(cpu.address, (stats, mean, var)),
    )  # fmt: skip
    torch.autograd.graph.increment_version(running)
    return True


def _is_writable(t: Tensor) -> bool:
    return choose.why_not(t) is None and t.dtype == torch.float32 and t.is_contiguous() and not t.requires_grad


def _forward(loop: Loop, arguments: Arguments, keep: bool) -> Found | None:
    u, h0, c0 = arguments[:3]
    assert u is not None
    assert h0 is not None
    assert c0 is not None
    n_rows = u.shape[0]
    y, h_last, c_last = u.new_empty(n_rows, h0.shape[1]), torch.empty_like(h0), torch.empty_like(c0)
    z, cells = (torch.empty_like(u), u.new_empty(n_rows, c0.shape[1])) if keep else (None, None)
    stats = [
        None if w is None else w.new_empty(len(loop.sizes), _STATS_PER_COLUMN, w.shape[0]) for w in arguments[5::2]
    ]
    in_range = cpu.LIBRARY.batch_lstm_forward(
        *_common(loop, arguments, stats), *map(cpu.address, (y, z, cells, h_last, c_last))
    )
    return Found((y, h_last, c_last), stats, z, cells) if in_range else None


def _common(loop: Loop, arguments: Arguments, stats: Sequence[Tensor | None]) -> tuple[Any, ...]:
    u, h0, c0, w_hh, w_hr, *parameters = arguments
    assert h0 is not None
    assert c0 is not None
    norms = [
        address
        for w, b, running, kept in zip(parameters[::2], parameters[1::2], loop.running, stats, strict=True)
        for address in map(cpu.address, (w, b, *(running or (None, None)), kept))
    ]
    return (
        c0.shape[1], h0.shape[1], len(loop.sizes), h0.shape[0], loop.address(), loop.n_places,
        int(loop.by_batch), loop.eps, *map(cpu.address, (w_hh, w_hr)), *norms, *map(cpu.address, (u, h0, c0)),
    )  # fmt: skip


class _Loop(KernelFunction):
    """The backward of a forward that has been run, since what its kernel says decides whether this path is taken."""

    @staticmethod
    def forward(ctx: Any, loop: Loop, composite: Composite, found: Found, *arguments: Tensor | None) -> Outputs:
        save(ctx, *arguments, *found.stats, found.z, found.cells, found.outputs[0])
        ctx.loop, ctx.composite = loop, composite
        return found.outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        tensors, readable = saved(ctx)
        if not readable or any(choose.wants_composite_backward(g) for g in gradients):
            return None, None, None, *through(ctx.composite, tensors[:_N_ARGUMENTS], gradients, needed)
        found = cpu.contiguous(*tensors)
        arguments, kept = found[:_N_ARGUMENTS], found[_N_ARGUMENTS:]
        dense = [g.contiguous() for g in gradients]
        return None, None, None, *_backward(ctx.loop, arguments, kept, dense, needed)


def _backward(
    loop: Loop,
    arguments: Arguments,
    kept: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    u, h0, c0, _, w_hr, *parameters = arguments
    *stats, z, cells, y = kept
    assert u is not None
    assert h0 is not None
    assert c0 is not None
    assert cells is not None
    assert y is not None
    du, dh0, dc0 = torch.empty_like(u), torch.empty_like(h0), torch.empty_like(c0)
    dz = torch.empty_like(u) if parameters[0] is not None or parameters[2] is not None else du
    dh, m = (None, None) if w_hr is None else (torch.empty_like(y), torch.empty_like(cells))
    of_norms = [None if w is None else torch.empty_like(w) for w in parameters[::2] for _ in range(2)]
    cpu.LIBRARY.batch_lstm_backward(
        *_common(loop, arguments, stats),
        *map(cpu.address, (z, cells, *gradients, du, dz, dh, m, dh0, dc0, *of_norms)),
    )
    dw_hh = gradient_of_w_hh(y, h0, loop.sizes, dz) if needed[3] else None
    dw_hr = products.sum_of_outer_products(dh, m) if dh is not None and m is not None and needed[4] else None
    # The kernel has a place for the gradient of every bias, there or not.
    of_given = [None if t is None else g for t, g in zip(parameters, of_norms, strict=True)]
    return [du, dh0, dc0, dw_hh, dw_hr, *of_given]
