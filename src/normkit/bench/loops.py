"""Recurrent layers with LayerNorm as people write them who have none: a loop over time in torch's operations.

Each loop computes what the normkit layer of the same name computes with its default placement, from that layer's own
parameters. The product with the input, and its norm, are taken for all steps at once, as a careful author would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loop = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]  # x, [T, N, I], to y, [T, N, H], and the last states


def lstm(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """LayerNormLSTM, one layer, one direction."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    norm_ih, norm_hh, norm_c = (_norm(layer, place) for place in ("ih", "hh", "c"))
    h = c = _zeros(x, w_hh)
    states = []
    for p in (norm_ih(F.linear(x, w_ih)) + b_ih).unbind():
        i, f, g, o = (p + norm_hh(F.linear(h, w_hh)) + b_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm_c(c).tanh()
        states.append(h)
    return torch.stack(states), h, c


def gru(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """LayerNormGRU, one layer, one direction: r and z share a norm, n has its own."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    h = _zeros(x, w_hh)
    split = 2 * h.shape[1]
    norm_ih_rz, norm_hh_rz = (_norm(layer, place, slice(split)) for place in ("ih", "hh"))
    norm_ih_n, norm_hh_n = (_norm(layer, place, slice(split, None)) for place in ("ih", "hh"))
    p = F.linear(x, w_ih)
    p_rz, p_n = norm_ih_rz(p[..., :split]) + b_ih[:split], norm_ih_n(p[..., split:]) + b_ih[split:]
    states = []
    for from_x_rz, from_x_n in zip(p_rz.unbind(), p_n.unbind(), strict=True):
        q = F.linear(h, w_hh)
        r, z = (from_x_rz + norm_hh_rz(q[:, :split]) + b_hh[:split]).sigmoid().chunk(2, 1)
        n = (from_x_n + r * (norm_hh_n(q[:, split:]) + b_hh[split:])).tanh()
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states), h


def rnn(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """LayerNormRNN, one layer, one direction."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    norm = _norm(layer, "sum")
    h = _zeros(x, w_hh)
    states = []
    for p in F.linear(x, w_ih, b_ih).unbind():
        h = norm(p + F.linear(h, w_hh, b_hh)).tanh()
        states.append(h)
    return torch.stack(states), h


LOOPS: Mapping[str, Loop] = MappingProxyType({"lstm": lstm, "gru": gru, "rnn": rnn})


def _weights(layer: nn.Module) -> tuple[Tensor, ...]:
    return tuple(layer.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def _norm(layer: nn.Module, place: str, stretch: slice = slice(None)) -> Callable[[Tensor], Tensor]:
    """The LayerNorm at a place, or of a stretch of it."""
    w, b = (layer.get_parameter(f"norm_{name}_{place}_l0")[stretch] for name in ("weight", "bias"))
    return lambda x: F.layer_norm(x, w.shape, w, b, layer.eps)  # type: ignore[arg-type]


def _zeros(x: Tensor, w_hh: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], w_hh.shape[1])
