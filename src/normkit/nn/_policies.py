"""What a training BatchNorm does where torch's way is a choice: too few values, values that are no numbers, and so on.

A policy stands on the layer's class, where it is torch's, or on the layer. A layer with torch's policy never comes
here. Any other normalizes with the statistics of the batch first, has a look at them, and updates at the end: a call
that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normkit import _checks
from normkit.composite import under_functorch
from normkit.errors import ArgumentError, StatisticsError
from normkit.nn._statistics import share_of_next
from normkit.pooling import Variance

SingleValue = Literal["raise", "running", "skip"]
Nonfinite = Literal["propagate", "skip", "raise"]


@dataclass(frozen=True)
class StatisticsPolicy:
    """The choices of a BatchNorm layer; the defaults are torch's."""

    single_value: SingleValue = "raise"
    nonfinite: Nonfinite = "propagate"
    running_variance: Variance = "unbiased"
    virtual_batch_size: int | None = None

    def check(self, call: str, *, tracks: bool) -> StatisticsPolicy:
        _checks.one_of(call, "single_value", self.single_value, get_args(SingleValue))
        _checks.one_of(call, "nonfinite", self.nonfinite, get_args(Nonfinite))
        _checks.one_of(call, "running_variance", self.running_variance, get_args(Variance))
        if self.virtual_batch_size is not None:
            _checks.positive(call, "virtual_batch_size", self.virtual_batch_size)
        if self.single_value == "running" and not tracks:
            raise ArgumentError(
                f"{call}: expected track_running_stats=True with single_value='running', got False; "
                f"single_value='skip' needs none."
            )
        return self

    def __str__(self) -> str:
        """What differs from torch, for the layer's repr."""
        return "".join(f", {name}={value!r}" for name, value in vars(self).items() if value != getattr(TORCH, name))


TORCH = StatisticsPolicy()


class Count(NamedTuple):
    """How many values of a channel some rows of the input hold."""

    values: int | None  # beside the padding; None where its values cannot be looked at
    occurrences: int | Tensor  # the sum of their weights
    kept: Tensor | None  # [N, 1, *], where there is padding


class Normalize(NamedTuple):
    """How the layer normalizes some rows of its input: by their own statistics, or by given ones."""

    count_of: Callable[[Tensor, slice], Count]
    own: Callable[[Tensor, slice], tuple[Tensor, Tensor, Tensor]]  # -> y, mean, unbiased variance
    given: Callable[[Tensor, slice, Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    mean: Tensor
    var: Tensor
    n: int | Tensor


def step(layer: _BatchNorm, policy: StatisticsPolicy, x: Tensor, normalize: Normalize, *, update: bool) -> Tensor:
    """One training step of the layer on x, which has elements."""
    ys, found = [], []
    batches = virtual_batches(x, policy.virtual_batch_size)
    counts = [normalize.count_of(x[rows], rows) for rows in batches]
    nothing = all(count.values == 0 for count in counts)  # which is an error of the first
    for rows, (values, n, kept) in zip(batches, counts, strict=True):
        part = x[rows]
        if values == 0 and not nothing:
            y = torch.zeros_like(part)  # a virtual batch of nothing but padding
        elif values is None or values != 1 or policy.single_value == "raise":
            y, mean, var = normalize.own(part, rows)
            found.append(Batch(mean, _population(var, n) if policy.running_variance == "biased" else var, n))
        else:
            y = _single(layer, policy, part, rows, kept, normalize)
        ys.append(y)
    if policy.nonfinite == "raise":
        check_finite(type(layer).__name__, found)
    if update and found:
        update_running(layer, found, keep_finite=policy.nonfinite == "skip")
    return ys[0] if len(ys) == 1 else torch.cat(ys)


def virtual_batches(x: Tensor, size: int | None) -> list[slice]:
    """The rows of x in batches as equal as can be, none of more than ``size``.

    Each has more than one value per channel, if that takes a larger one: never is a tail left to be normalized by
    itself.
    """
    n = x.shape[0]
    count = 1 if size is None else min(-(-n // size), max(1, x.numel() // x.shape[1] // 2))
    ends = [n * (i + 1) // count for i in range(count)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _population(var: Tensor, n: int | Tensor) -> Tensor:
    """What an unbiased variance was before it was made so."""
    return var * ((n - 1) / n)


def _single(
    layer: _BatchNorm, policy: StatisticsPolicy, x: Tensor, rows: slice, kept: Tensor | None, normalize: Normalize
) -> Tensor:
    """A batch of one value a channel: by the running statistics, or by itself, from which only the bias is left."""
    if policy.single_value == "running" and layer.running_mean is not None and layer.running_var is not None:
        return normalize.given(x, rows, layer.running_mean, layer.running_var)
    values = x.detach() if kept is None else x.detach().movedim(1, -1)[kept.squeeze(1)]
    mean = values.flatten().to(torch.promote_types(x.dtype, torch.float32))
    return normalize.given(x.detach(), rows, mean, torch.ones_like(mean))


def check_finite(call: str, found: list[Batch]) -> None:
    for batch in found:
        bad = ~(batch.mean.isfinite() & batch.var.isfinite())
        if bool(bad.any()):
            raise StatisticsError(
                f"{call}: expected finite input with nonfinite='raise', got NaN, infinity or overflow in "
                f"{int(bad.sum())} of {len(bad)} channels; the statistics are as they were."
            )


def update_running(layer: _BatchNorm, found: list[Batch], *, keep_finite: bool) -> None:
    """The batches enter the running statistics one after another; with ``keep_finite``, only what is finite does."""
    mean, var, tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if mean is None or var is None:
        return
    new_mean, new_var, count = mean, var, tracked
    for batch in found:
        weight = layer.momentum if layer.momentum is not None else _share(count)
        enters = (
            batch.mean.isfinite() & batch.var.isfinite()
            if keep_finite
            else torch.ones_like(batch.mean, dtype=torch.bool)
        )
        if isinstance(batch.n, Tensor):
            enters = enters & (batch.n > 0)
        new_mean = torch.where(enters, new_mean * (1 - weight) + batch.mean * weight, new_mean)
        new_var = torch.where(enters, new_var * (1 - weight) + batch.var * weight, new_var)
        count = None if count is None else count + enters.any()
    _write(layer, new_mean.detach().to(mean.dtype), new_var.detach().to(var.dtype), count)


def _share(tracked: Tensor | None) -> Tensor | float:
    return 0.0 if tracked is None else share_of_next(tracked)


def _write(layer: _BatchNorm, mean: Tensor, var: Tensor, tracked: Tensor | None) -> None:
    """As BatchNorm under torch.func: statistics that the transform was given are replaced, others left alone."""
    new = {"running_mean": mean, "running_var": var, "num_batches_tracked": tracked}
    replaces = under_functorch()
    if replaces and not torch._C._functorch.is_functorch_wrapped_tensor(layer.running_mean):  # type: ignore[arg-type]
        return
    for name, value in new.items():
        if value is not None and replaces:
            setattr(layer, name, value)
        elif value is not None:
            with torch.no_grad():
                getattr(layer, name).copy_(value)
