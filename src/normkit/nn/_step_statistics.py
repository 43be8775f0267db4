"""Batch statistics of a recurrent network: of every time step by itself, over the sequences that reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from normkit import _checks
from normkit.composite import under_functorch
from normkit.errors import ArgumentError, SingleValueError
from normkit.functional import batch_norm, batch_norm_with_statistics
from normkit.kernels import batch_lstm
from normkit.nn._statistics import apply_keeping_float32, keep_in_float32
from normkit.nn._updates import step_of


class Batch(NamedTuple):
    """Statistics that a batch has at some steps in a row, each over ``n`` sequences."""

    first_step: int
    n: int
    mean: Tensor  # [steps, C]
    var: Tensor  # unbiased


class CompiledSteps(NamedTuple):
    """Statistics of all steps of a call, as the compiled time loop keeps them: m0, dm, rstd, var of each."""

    stats: Tensor  # [T, 4, C]
    sizes: Sequence[int]

    def batches(self) -> list[Batch]:
        """Those of the steps that more than one sequence reaches, those with equally many together."""
        found: list[Batch] = []
        step = 0
        for n, steps in groupby(self.sizes):
            count = len(list(steps))
            if n > 1:
                m0, dm, _, var = self.stats[step : step + count].unbind(1)
                found.append(Batch(step, n, m0 + dm, var * (n / (n - 1))))
            step += count
        return found


class StepStatistics(torch.nn.Module):
    """Normalizes [N_t, C] at step t: with the batch's statistics in training, else with the running ones of the step.

    Step max_steps − 1 and all after it share one place in the running statistics; what a batch adds there are the
    moments of all its values at those steps. Where one sequence alone reaches a step there is nothing to normalize
    over: it takes the running statistics, also in training, and adds nothing to them.
    """

    frozen_statistics = False

    running_mean: Tensor  # [max_steps, C]
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        max_steps: int,
        eps: float,
        momentum: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.max_steps = num_features, max_steps
        self.eps, self.momentum = eps, momentum
        shape = (max_steps, num_features)
        self.register_buffer("running_mean", torch.zeros(shape, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(shape, device=device, dtype=dtype))
        keep_in_float32(self)

    def forward(self, x: Tensor, step: int) -> tuple[Tensor, Batch | None]:
        """x̂, and the batch's own statistics where they are what normalized."""
        n, by_batch = x.shape[0], step_of(self) != "evaluate"
        if by_batch and n == 1 and step == 0:
            raise SingleValueError(
                "BatchNormLSTM: expected more than 1 sequence in a training batch, got 1; the output would not depend "
                "on the input; use larger batches, .eval(), or LayerNormLSTM."
            )
        if by_batch and n != 1:
            x_hat, mean, var = _by_batch(x, self.eps)
            return x_hat, Batch(step, n, mean[None], var[None])
        place = min(step, self.max_steps - 1)
        return batch_norm(x, self.running_mean[place], self.running_var[place], eps=self.eps), None

    def all_steps(self, x: Tensor, sizes: Sequence[int], first: int) -> tuple[Tensor, list[Batch]]:
        """The same for the rows of all steps from ``first`` on."""
        n, steps = sizes[0], len(sizes)
        if step_of(self) != "evaluate" and n > 1 and sizes[-1] == n:
            # Every step's values side by side are features with statistics of their own: one call does for all.
            side_by_side = torch.unflatten(x, 0, (steps, n)).transpose(0, 1).flatten(1)
            x_hat, mean, var = _by_batch(side_by_side, self.eps)
            rows = torch.unflatten(x_hat, 1, (steps, -1)).transpose(0, 1).flatten(0, 1)
            return rows, [Batch(first, n, mean.view(steps, -1), var.view(steps, -1))]
        found = [self(rows, step) for step, rows in enumerate(torch.split(x, list(sizes)), first)]
        return torch.cat([rows for rows, _ in found]), [batch for _, batch in found if batch is not None]

    def check_writable(self, call: str) -> None:
        """A call may change the running statistics. torch would write to some of them before it refuses others."""
        if step_of(self) != "update" or torch.compiler.is_compiling() or under_functorch():
            return
        for name, t in (("running_mean", self.running_mean), ("running_var", self.running_var)):
            if t.shape != (self.max_steps, self.num_features) or not t.is_floating_point():
                got = f"{_checks.dtype_name(t)} {list(t.shape)}"
            elif any(step == 0 and n > 1 for step, n in zip(t.stride(), t.shape, strict=True)):
                got = "an expanded tensor"
            elif t.is_inference() and not torch.is_inference_mode_enabled():
                got = "a tensor made in inference mode"
            else:
                continue
            raise ArgumentError(
                f"{call}: expected {name} of floats [{self.max_steps}, {self.num_features}] that can be written, got "
                f"{got}; give it memory of its own."
            )

    @torch.no_grad()
    def remember(self, found: Sequence[Batch | CompiledSteps]) -> None:
        """running = (1 − momentum)·running + momentum·batch, at every step that has statistics of a batch."""
        if step_of(self) != "update":
            return
        batches: list[Batch] = []
        for part in found:
            if isinstance(part, Batch):
                batches.append(part)
            elif not batch_lstm.update(part.stats, part.sizes, (self.running_mean, self.running_var), self.momentum):
                batches.extend(part.batches())
        if batches and batches[0].n > 0:
            self._remember(batches)

    def _remember(self, batches: Sequence[Batch]) -> None:
        mean, var = self._written()
        shared: list[Batch] = []
        changes: list[tuple[Tensor, Tensor]] = []  # all found before the first is written

        def change(rows: slice | int, of_mean: Tensor, of_var: Tensor) -> None:
            for running, batch in ((mean[rows], of_mean), (var[rows], of_var)):
                changes.append((running, torch.lerp(running, batch.to(running.dtype), self.momentum)))

        for batch in batches:
            steps = batch.mean.shape[0]
            own = max(0, min(self.max_steps - 1 - batch.first_step, steps))
            if own:
                change(slice(batch.first_step, batch.first_step + own), batch.mean[:own], batch.var[:own])
            if own < steps:
                shared.append(batch._replace(mean=batch.mean[own:], var=batch.var[own:]))
        if shared:
            change(-1, *_pool(shared))
        for running, value in changes:
            running.copy_(value)

    def _written(self) -> tuple[Tensor, Tensor]:
        """What a batch is to be written into; as BatchNorm's under torch.func: statistics that the transform was given
        are replaced, others left alone."""
        if not under_functorch():
            return self.running_mean, self.running_var
        mean, var = self.running_mean.clone(), self.running_var.clone()
        if torch._C._functorch.is_functorch_wrapped_tensor(self.running_mean):
            self.running_mean, self.running_var = mean, var
        return mean, var

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepStatistics:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self

    def extra_repr(self) -> str:
        return f"{self.num_features}, max_steps={self.max_steps}, eps={self.eps}, momentum={self.momentum}"


@dataclass(frozen=True)
class StepNorm:
    """BatchNorm at one place of a recurrent layer for the time of a call: x̂·weight + bias."""

    statistics: StepStatistics
    weight: Tensor
    bias: Tensor | None
    found: list[Batch | CompiledSteps] = field(default_factory=list)

    def at(self, x: Tensor, step: int) -> Tensor:
        x_hat, batch = self.statistics(x, step)
        if batch is not None:
            self.found.append(batch)
        return self._affine(x_hat)

    def sequence(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        x_hat, batches = self.statistics.all_steps(x, sizes, first)
        self.found.extend(batches)
        return self._affine(x_hat)

    def remember(self) -> None:
        """Lets the statistics of the call enter the running ones."""
        self.statistics.remember(self.found)

    def _affine(self, x_hat: Tensor) -> Tensor:
        y = x_hat * self.weight
        return y if self.bias is None else y + self.bias


def _by_batch(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ over the rows of x, their mean and their unbiased variance."""
    mean, var = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    if under_functorch():
        return batch_norm_with_statistics(x, mean, var, momentum=1.0, eps=eps)
    return batch_norm(x, mean, var, training=True, momentum=1.0, eps=eps), mean, var


def _pool(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of the values of all these steps together."""
    counts = torch.cat([b.mean.new_full((b.mean.shape[0], 1), b.n) for b in batches])
    means = torch.cat([b.mean for b in batches])
    variances = torch.cat([b.var for b in batches])
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    squares = (counts - 1) * variances + counts * (means - mean) ** 2
    return mean, squares.sum(0) / (total - 1)


def check_arguments(call: str, max_steps: object, momentum: object, eps: float) -> None:
    _checks.positive(call, "max_steps", max_steps)
    _checks.momentum(call, momentum, or_none=False)
    _checks.eps(call, eps, positive=True)
