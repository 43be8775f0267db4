"""One direction of one recurrent layer in differentiable operations: any device, order of differentiation, vmap.

Rows are packed: step t owns ``sizes[t]`` rows of [R, C], those of the sequences that reach it, the longest
sequence first, so ``sizes`` never grows. Of the two products p = W_ih·x and q = W_hh·h a norm may take p, q, or
what they add up to; a place without a norm is left as it is:

    p' = N_ih(p) + b_ih        q' = N_hh(q) + b_hh        a = N_sum(p' + q')

p' needs no state and is computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from normkit import functional
from normkit._checks import as_number
from normkit.kernels import cpu, gru, lstm, products, recurrent

State = tuple[Tensor, ...]  # h, and c where there is one: [N, *]
Kind = Literal["layer", "rms"]
Nonlinearity = Literal["tanh", "relu"]


class Norm(Protocol):
    """What normalizes the values at one step, [N_t, C], or at all from step ``first`` on."""

    def at(self, x: Tensor, step: int) -> Tensor: ...

    def sequence(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor: ...


@dataclass(frozen=True)
class RowNorm:
    """LayerNorm or RMSNorm of each row: over all of it, or over stretches of these sizes by themselves."""

    kind: Kind
    weight: Tensor
    bias: Tensor | None
    eps: float
    stretches: list[int]

    @property
    def norm(self) -> cpu.Norm:
        """Its name among the kernels."""
        return "rms_norm" if self.kind == "rms" else "layer_norm"

    def at(self, x: Tensor, step: int) -> Tensor:
        if len(self.stretches) == 1:
            return self._row(x)
        stretches: Sequence[Tensor] = torch.split_with_sizes(x, self.stretches, -1)
        return torch.cat([norm.at(t, step) for norm, t in zip(self.parts(), stretches, strict=True)], -1)

    def sequence(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        return self.at(x, 0)

    def parts(self) -> list[RowNorm]:
        """The norm of each stretch."""
        weights = torch.split(self.weight, self.stretches)
        biases = [None] * len(weights) if self.bias is None else torch.split(self.bias, self.stretches)
        return [
            RowNorm(self.kind, w, b, self.eps, [n]) for w, b, n in zip(weights, biases, self.stretches, strict=True)
        ]

    def _row(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return functional.rms_norm(x, self.stretches, self.weight, self.eps)
        return functional.layer_norm(x, self.stretches, self.weight, self.bias, self.eps)


class Weights(NamedTuple):
    """Of one direction of one layer, by torch's names, for G gates."""

    ih: Tensor  # [G·H, I]
    hh: Tensor  # [G·H, P], where P = H without a projection
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    hr: Tensor | None = None  # [P, H]


class Norms(NamedTuple):
    """The norm at each place that has one."""

    ih: Norm | None = None
    hh: Norm | None = None
    sum: Norm | None = None
    c: Norm | None = None


class Cell(Protocol):
    """The maths of a layer: what x gives to every step, one step, and all steps by a kernel."""

    def inputs(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor: ...

    def step(self, p: Tensor, state: State, step: int) -> State: ...

    def by_kernel(self, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
        """h after every step and the last states, or None where there is no kernel for the call."""


@dataclass(frozen=True)
class LSTM:
    """(i, f, g, o) = a;  c' = sigmoid(f)·c + sigmoid(i)·tanh(g);  h' = W_hr (sigmoid(o)·tanh(N_c(c')))."""

    w: Weights
    norms: Norms

    def inputs(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        return _inputs(self.w, self.norms, x, sizes, first)

    def step(self, p: Tensor, state: State, step: int) -> State:
        h, c = state
        a = _normed(self.norms.sum, p + _recurrent(self.w, self.norms, h, step), step)
        i, f, g, o = a.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(_normed(self.norms.c, c, step))
        return (h if self.w.hr is None else linear(h, self.w.hr)), c

    def by_kernel(self, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
        return _by_kernel(self, x, sizes, state)


@dataclass(frozen=True)
class GRU:
    """(r, z) = sigmoid(N_sum(p'_rz + q'_rz));  n = tanh(N_sum(p'_n + r·q'_n));  h' = (1 − z)·n + z·h."""

    w: Weights
    norms: Norms

    def inputs(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        return _inputs(self.w, self.norms, x, sizes, first)

    def step(self, p: Tensor, state: State, step: int) -> State:
        (h,) = state
        n_hidden = h.shape[-1]
        q = _recurrent(self.w, self.norms, h, step)
        p_rz, p_n = torch.split(p, [2 * n_hidden, n_hidden], -1)
        q_rz, q_n = torch.split(q, [2 * n_hidden, n_hidden], -1)
        sum_rz, sum_n = self.norms.sum.parts() if isinstance(self.norms.sum, RowNorm) else (None, None)
        r, z = torch.sigmoid(_normed(sum_rz, p_rz + q_rz, step)).chunk(2, -1)
        n = torch.tanh(_normed(sum_n, p_n + r * q_n, step))
        return ((1 - z) * n + z * h,)

    def by_kernel(self, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
        return _by_kernel(self, x, sizes, state)


@dataclass(frozen=True)
class RNN:
    """h' = tanh(a), or relu(a)."""

    w: Weights
    norms: Norms
    nonlinearity: Nonlinearity = "tanh"

    def inputs(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        return _inputs(self.w, self.norms, x, sizes, first)

    def step(self, p: Tensor, state: State, step: int) -> State:
        (h,) = state
        a = _normed(self.norms.sum, p + _recurrent(self.w, self.norms, h, step), step)
        return (torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a),)

    def by_kernel(self, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
        return _by_kernel(self, x, sizes, state)


def run(cell: Cell, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
    """h after every step, as rows like those of x, and the state of each sequence after its last."""
    found = cell.by_kernel(x, sizes, state)
    return step_after_step(cell, cell.inputs(x, sizes), sizes, state) if found is None else found


def step_after_step(cell: Cell, p: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
    """The same from p' of all steps, in differentiable operations."""
    outputs: list[Tensor] = []
    ended: list[State] = []  # states of sequences that are over, the shortest first
    for step, p_t in enumerate(torch.split(p, list(sizes))):
        n = p_t.shape[0]
        if n < state[0].shape[0]:
            ended.append(tuple(s[n:] for s in state))
            state = tuple(s[:n] for s in state)
        state = cell.step(p_t, state, step)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return torch.cat(outputs), state


def _by_kernel(cell: LSTM | GRU | RNN, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
    """The same with the time loop compiled, or None where there is no kernel for it."""
    w, norms = cell.w, cell.norms
    of_rows = [norm for norm in norms if isinstance(norm, RowNorm)]
    if len(of_rows) < sum(norm is not None for norm in norms):
        return None
    own = tuple(
        t
        for norm in map(_row_norm, (norms.ih, norms.hh or norms.sum, norms.c))
        for t in ((None, None) if norm is None else (norm.weight, norm.bias))
    )
    eps = as_number(of_rows[0].eps) if of_rows else 0.0
    if eps is None or not recurrent.accepts(eps, x, *w, *state, *own):
        return None
    kind: recurrent.Cell = "lstm" if isinstance(cell, LSTM) else "gru" if isinstance(cell, GRU) else cell.nonlinearity
    loop = recurrent.Loop(
        cell=kind,
        place="product" if norms.hh is not None else "sum" if norms.sum is not None else "none",
        norm=of_rows[0].norm if of_rows else "layer_norm",
        eps=eps,
        sizes=sizes,
    )
    h, c = state[0], state[1] if len(state) == 2 else None

    def composite(
        p: Tensor, h: Tensor, c: Tensor | None, w_hh: Tensor, w_hr: Tensor | None, b_ih: Tensor | None,
        b_hh: Tensor | None, *own: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        again = replace(cell, w=Weights(w.ih, w_hh, b_ih, b_hh, w_hr), norms=_with_parameters(norms, own))
        p = _of_product(again.w, again.norms, p, sizes)
        y, last = step_after_step(again, p, sizes, (h,) if c is None else (h, c))
        return y, *last

    p = products.linear(x, w.ih)
    arguments = recurrent.Arguments(p, h, c, w.hh, w.hr, w.b_ih, w.b_hh, *own)
    y, *last = recurrent.run(gru.KERNEL if kind == "gru" else lstm.KERNEL, loop, arguments, composite)
    return y, tuple(last)


def _row_norm(norm: Norm | None) -> RowNorm | None:
    return norm if isinstance(norm, RowNorm) else None


def _with_parameters(norms: Norms, own: Sequence[Tensor | None]) -> Norms:
    """The norms with other parameters: weight and bias of the one of ih, of that of hh or sum, and of that of c."""

    def changed(norm: Norm | None, w: Tensor | None, b: Tensor | None) -> Norm | None:
        found = _row_norm(norm)
        return None if found is None or w is None else replace(found, weight=w, bias=b)

    ih_w, ih_b, w, b, c_w, c_b = own
    return Norms(
        changed(norms.ih, ih_w, ih_b), changed(norms.hh, w, b), changed(norms.sum, w, b), changed(norms.c, c_w, c_b)
    )


def _inputs(w: Weights, norms: Norms, x: Tensor, sizes: Sequence[int], first: int) -> Tensor:
    """p' of all steps from ``first`` on."""
    if norms.ih is None:
        return products.linear(x, w.ih, w.b_ih)
    return _of_product(w, norms, products.linear(x, w.ih), sizes, first)


def _of_product(w: Weights, norms: Norms, p: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
    """p' from W_ih·x."""
    if norms.ih is not None:
        p = norms.ih.sequence(p, sizes, first)
    return p if w.b_ih is None else p + w.b_ih


def _recurrent(w: Weights, norms: Norms, h: Tensor, step: int) -> Tensor:
    """q' of one step."""
    if norms.hh is None:
        return linear(h, w.hh, w.b_hh)
    q = norms.hh.at(linear(h, w.hh), step)
    return q if w.b_hh is None else q + w.b_hh


def _normed(norm: Norm | None, x: Tensor, step: int) -> Tensor:
    return x if norm is None else norm.at(x, step)
