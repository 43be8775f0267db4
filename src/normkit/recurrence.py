"""One direction of one recurrent layer in differentiable operations: any device, order of differentiation, vmap.

Rows are packed: step t owns ``sizes[t]`` rows of [R, C], those of the sequences that reach it, the longest
sequence first, so ``sizes`` never grows. Of the two products p = W_ih·x and q = W_hh·h a norm may take p, q, or
what they add up to; a place without a norm is left as it is:

    p' = N_ih(p) + b_ih        q' = N_hh(q) + b_hh        a = N_sum(p' + q')

p' needs no state and is computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from normkit import functional

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

    def at(self, x: Tensor, step: int) -> Tensor:
        if len(self.stretches) == 1:
            return self._row(x, self.weight, self.bias)
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

    def _row(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if self.kind == "rms":
            return functional.rms_norm(x, x.shape[-1], w, self.eps)
        return functional.layer_norm(x, x.shape[-1], w, b, self.eps)


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
    """The maths of a layer: what x gives to every step, and one step."""

    def inputs(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor: ...

    def step(self, p: Tensor, state: State, step: int) -> State: ...


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


def run(cell: Cell, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
    """h after every step, as rows like those of x, and the state of each sequence after its last."""
    outputs: list[Tensor] = []
    ended: list[State] = []  # states of sequences that are over, the shortest first
    for step, p in enumerate(torch.split(cell.inputs(x, sizes), list(sizes))):
        n = p.shape[0]
        if n < state[0].shape[0]:
            ended.append(tuple(s[n:] for s in state))
            state = tuple(s[:n] for s in state)
        state = cell.step(p, state, step)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return torch.cat(outputs), state


def _inputs(w: Weights, norms: Norms, x: Tensor, sizes: Sequence[int], first: int) -> Tensor:
    """p' of all steps from ``first`` on."""
    if norms.ih is None:
        return linear(x, w.ih, w.b_ih)
    p = norms.ih.sequence(linear(x, w.ih), sizes, first)
    return p if w.b_ih is None else p + w.b_ih


def _recurrent(w: Weights, norms: Norms, h: Tensor, step: int) -> Tensor:
    """q' of one step."""
    if norms.hh is None:
        return linear(h, w.hh, w.b_hh)
    q = norms.hh.at(linear(h, w.hh), step)
    return q if w.b_hh is None else q + w.b_hh


def _normed(norm: Norm | None, x: Tensor, step: int) -> Tensor:
    return x if norm is None else norm.at(x, step)
