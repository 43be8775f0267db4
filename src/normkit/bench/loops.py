"""Recurrent layers with a norm as people write them who have none: a loop over time in torch's operations.

Each loop computes what the normkit layer of the same name computes with its default placement, from that layer's own
parameters. It is there twice: as it is usually written, everything of a step inside the loop (``USUAL_LOOPS``), and as
a careful author would, who takes the product with the input, and its norm, for all steps at once (``LOOPS``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loop = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]  # x, [T, N, I], to y, [T, N, H], and the last states
# What the inputs give to each step, from what one or several of them give.
Inputs = Callable[[Callable[[Tensor], Tensor], Tensor], Iterable[Tensor]]


def step_by_step(of: Callable[[Tensor], Tensor], x: Tensor) -> Iterable[Tensor]:
    return map(of, x.unbind())


def at_once(of: Callable[[Tensor], Tensor], x: Tensor) -> Iterable[Tensor]:
    return of(x).unbind()


def lstm(layer: nn.Module, x: Tensor, inputs: Inputs = step_by_step) -> tuple[Tensor, ...]:
    """LayerNormLSTM, one layer, one direction."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    norm_ih, norm_hh, norm_c = (_norm(layer, place) for place in ("ih", "hh", "c"))
    h = c = _zeros(x, w_hh)
    states = []
    for p in inputs(lambda x: norm_ih(F.linear(x, w_ih)) + b_ih, x):
        i, f, g, o = (p + norm_hh(F.linear(h, w_hh)) + b_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm_c(c).tanh()
        states.append(h)
    return torch.stack(states), h, c


def batch_lstm(layer: nn.Module, x: Tensor, inputs: Inputs = step_by_step) -> tuple[Tensor, ...]:
    """BatchNormLSTM in training, one layer, one direction; running statistics of each step are moved."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    norm_ih, norm_hh, norm_c = (_batch_norm(layer, place) for place in ("ih", "hh", "c"))
    h = c = _zeros(x, w_hh)
    states = []
    for t, p in enumerate(inputs(lambda x: F.linear(x, w_ih), x)):
        i, f, g, o = (norm_ih(p, t) + b_ih + norm_hh(F.linear(h, w_hh), t) + b_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm_c(c, t).tanh()
        states.append(h)
    return torch.stack(states), h, c


def gru(layer: nn.Module, x: Tensor, inputs: Inputs = step_by_step) -> tuple[Tensor, ...]:
    """LayerNormGRU, one layer, one direction: r and z share a norm, n has its own."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    h = _zeros(x, w_hh)
    split = 2 * h.shape[1]
    norm_ih_rz, norm_hh_rz = (_norm(layer, place, slice(split)) for place in ("ih", "hh"))
    norm_ih_n, norm_hh_n = (_norm(layer, place, slice(split, None)) for place in ("ih", "hh"))

    def both(x: Tensor) -> Tensor:
        p = F.linear(x, w_ih)
        return torch.cat([norm_ih_rz(p[..., :split]), norm_ih_n(p[..., split:])], -1) + b_ih

    states = []
    for p in inputs(both, x):
        q = F.linear(h, w_hh)
        r, z = (p[:, :split] + norm_hh_rz(q[:, :split]) + b_hh[:split]).sigmoid().chunk(2, 1)
        n = (p[:, split:] + r * (norm_hh_n(q[:, split:]) + b_hh[split:])).tanh()
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states), h


def rnn(layer: nn.Module, x: Tensor, inputs: Inputs = step_by_step) -> tuple[Tensor, ...]:
    """LayerNormRNN, one layer, one direction."""
    w_ih, w_hh, b_ih, b_hh = _weights(layer)
    norm = _norm(layer, "sum")
    h = _zeros(x, w_hh)
    states = []
    for p in inputs(lambda x: F.linear(x, w_ih, b_ih), x):
        h = norm(p + F.linear(h, w_hh, b_hh)).tanh()
        states.append(h)
    return torch.stack(states), h


USUAL_LOOPS: Mapping[str, Loop] = MappingProxyType({"lstm": lstm, "gru": gru, "rnn": rnn, "batch_lstm": batch_lstm})
LOOPS: Mapping[str, Loop] = MappingProxyType(
    {
        "lstm": partial(lstm, inputs=at_once),
        "gru": partial(gru, inputs=at_once),
        "rnn": partial(rnn, inputs=at_once),
        "batch_lstm": partial(batch_lstm, inputs=at_once),
    }
)


def _weights(layer: nn.Module) -> tuple[Tensor, ...]:
    return tuple(layer.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def _norm(layer: nn.Module, place: str, stretch: slice = slice(None)) -> Callable[[Tensor], Tensor]:
    """The LayerNorm at a place, or of a stretch of it."""
    w, b = (layer.get_parameter(f"norm_{name}_{place}_l0")[stretch] for name in ("weight", "bias"))
    return lambda x: F.layer_norm(x, w.shape, w, b, layer.eps)  # type: ignore[arg-type]


def _batch_norm(layer: nn.Module, place: str) -> Callable[[Tensor, int], Tensor]:
    """The BatchNorm at a place, of one time step."""
    w = layer.get_parameter(f"norm_weight_{place}_l0")
    b = getattr(layer, f"norm_bias_{place}_l0", None)
    statistics = layer.get_submodule(f"statistics_{place}_l0")
    mean, var = statistics.running_mean, statistics.running_var
    return lambda x, t: F.batch_norm(x, mean[t], var[t], w, b, True, 0.1, layer.eps)  # type: ignore[index, arg-type]


def _zeros(x: Tensor, w_hh: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], w_hh.shape[1])
