"""BatchNorm over micro-batches that run one after another, as if they were one batch.

With n values of mean m in the whole batch, of which this micro-batch has n_i of mean m_i and squared deviations S_i,
all that the other micro-batches have to know of it are two sums a channel:

    D_i = Σ (x − m) = n_i·(m_i − m),    Q_i = Σ (x − m)² = S_i + n_i·(m_i − m)²

for with D = Σ D_i and Q = Σ Q_i the mean is m + D/n and the variance Q/n − (D/n)², where m is a constant to
differentiation. So a call of a layer is y_i = f(x_i; D, Q), and the whole batch's gradient is that of every
micro-batch by itself once dL/dD and dL/dQ are known, which are sums over the micro-batches in their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normkit import composite
from normkit.errors import ArgumentError
from normkit.moments import mean_over, power_of_two_scale
from normkit.nn._ragged import is_ragged
from normkit.nn._updates import no_stat_update
from normkit.pooling import Pooled, pool


class Call(NamedTuple):
    """A call of a layer, and what is known of the values of all micro-batches there."""

    layer: _BatchNorm
    every: Pooled
    by_itself: bool  # there is at most one value, with which the layer does what it does alone


class Reached(BaseException):  # no error: it ends a run, and no model should catch it
    """A micro-batch has come to the first call whose statistics are not known yet."""

    def __init__(self, layer: _BatchNorm, values: Pooled) -> None:
        self.layer, self.values = layer, values


@dataclass
class Run:
    """One run of a model on one micro-batch, by the statistics of the calls that are known."""

    calls: Sequence[Call]
    wanted: int | None = None  # the call whose sums are variables
    sums: Tensor | None = None  # these
    terms: list[Tensor | None] = field(default_factory=list)  # D_i and Q_i, [2, C], of the calls so far
    finished: bool = False

    @contextmanager
    def at(self, layers: Sequence[_BatchNorm]) -> Iterator[None]:
        """While it lasts, the layers normalize by this run."""
        try:
            for layer in layers:
                vars(layer)["forward"] = partial(self._forward, layer)
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)

    def _forward(self, layer: _BatchNorm, input: Tensor, residual: Tensor | None = None, **padding: Any) -> Tensor:
        alone: Callable[..., Tensor] = partial(type(layer).forward, layer)
        _refuse_padding(layer, padding)
        if is_ragged(input):
            return alone(input, residual)  # which comes back here with the rows
        with no_stat_update(layer), torch.no_grad():
            # The layer's own checks, of the dtype, the shape, the residual, at the price of a call without elements.
            alone(*(t if t is None or not isinstance(t, Tensor) or t.dim() == 0 else t[:0] for t in (input, residual)))
        place = self._place(layer)
        if place == len(self.calls):
            raise Reached(layer, pool(input.detach()))
        call = self.calls[place]
        if call.by_itself:
            if not self.finished:
                self.terms.append(None)
            with no_stat_update(layer):
                return alone(input, residual)
        return self._normalize(call, place, input, residual)

    def _place(self, layer: _BatchNorm) -> int:
        """Which of the calls this is."""
        if self.finished:  # by now only what an activation checkpoint in the model runs again comes here
            places = [i for i, call in enumerate(self.calls) if call.layer is layer]
            if len(places) == 1:
                return places[0]
            raise ArgumentError(
                f"accumulate: expected a layer in an activation checkpoint to be called once, got "
                f"{len(places)} calls of {layer}; leave out the checkpoint, as accumulate recomputes by itself."
            )
        place = len(self.terms)
        if place < len(self.calls) and self.calls[place].layer is not layer:
            raise _another_path()
        return place

    def _normalize(self, call: Call, place: int, x: Tensor, residual: Tensor | None) -> Tensor:
        layer, every = call.layer, call.every
        shape = (-1, *[1] * (x.dim() - 2))
        wide = composite.widen(x)

        def spread(t: Tensor) -> Tensor:
            return t.to(wide.dtype).view(shape)

        # c = s·(x − m), m in two parts. s makes the squares neither overflow nor vanish, as in ``moments``.
        sigma = torch.sqrt(every.variance("biased"))
        scale = power_of_two_scale((every.mean.abs() + sigma).to(wide.dtype), 0.0).double()
        high = (every.mean * scale).to(wide.dtype)
        c = (wide * spread(scale) - spread(high)) - spread(every.mean * scale - high.double())
        if not self.finished:
            self.terms.append(None)
        if torch.is_grad_enabled() and (self.wanted is None or place > self.wanted):
            terms = torch.stack([_sum(c) / scale, _sum(c * c) / scale / scale])  # by a checkpoint's second run, too
            if not self.finished:
                self.terms[-1] = terms
        deviation, squares = self._sums_at(place, every) / every.n
        rstd = 1 / torch.sqrt(squares - deviation * deviation + layer.eps) / scale
        activation = getattr(layer, "activation", None)
        x_hat = (c - spread(deviation * scale)) * spread(rstd)
        return composite.affine(x_hat, layer.weight, layer.bias, x, activation, residual)

    def _sums_at(self, place: int, every: Pooled) -> Tensor:
        known = torch.stack([torch.zeros_like(every.squares), every.squares])
        if place != self.wanted:
            return known
        if self.sums is None:
            self.sums = known.requires_grad_()
        return self.sums


def merge(reached: Sequence[Reached]) -> Call:
    """The call at which all micro-batches have come to a stop."""
    layer = reached[0].layer
    if any(other.layer is not layer for other in reached):
        raise _another_path()
    every = reached[0].values
    for other in reached[1:]:
        every = every.merge(other.values)
    return Call(layer, every, by_itself=bool((every.n <= 1).all()))


def _sum(t: Tensor) -> Tensor:
    """The sum of each channel (axis 1), of means over runs of memory, in float64."""
    axes = (0, *range(2, t.dim()))
    if t.numel() == 0:
        return t.double().sum(axes)
    return (mean_over(t, axes).double() * (t.numel() // t.shape[1])).flatten()


def _another_path() -> ArgumentError:
    return ArgumentError(
        "accumulate: expected every micro-batch to call the same BatchNorm layers in the same order, got another "
        "order on one of them; leave out what depends on the input or on chance outside torch's generators."
    )


def _refuse_padding(layer: _BatchNorm, padding: dict[str, Any]) -> None:
    given = [name for name, value in padding.items() if value is not None]
    if given:
        raise ArgumentError(
            f"accumulate: expected BatchNorm layers to be called with an input alone, got {', '.join(given)} at "
            f"{layer}; run the batch as a whole."
        )
