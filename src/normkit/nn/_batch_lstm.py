"""The maths of BatchNormLSTM: an LSTM cell whose norms are StepNorms, with its time loop compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normkit._checks import as_number
from normkit.functional import batch_norm
from normkit.kernels import batch_lstm, products, recurrent
from normkit.nn._step_statistics import CompiledSteps, StepNorm
from normkit.nn._updates import step_of
from normkit.recurrence import LSTM, Norms, State, step_after_step


class BatchLSTM(LSTM):
    """As :class:`~normkit.recurrence.LSTM`; what the batch's statistics were is left in its norms."""

    def by_kernel(self, x: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State] | None:
        norms = [norm for norm in self.norms if isinstance(norm, StepNorm)]
        if not norms:
            return super().by_kernel(x, sizes, state)
        loop = self._loop(norms, sizes)
        tensors = [t for n in norms for t in (n.weight, n.bias, n.statistics.running_mean, n.statistics.running_var)]
        if loop is None or not recurrent.accepts(loop.eps, x, *self.w, *state, *tensors):
            return None
        bias = self.w.b_ih if self.w.b_hh is None or self.w.b_ih is None else self.w.b_ih + self.w.b_hh
        # Where the product with the input has a norm, the layer's biases stand behind it, as a bias of its own would.
        behind = self.norms.ih is not None
        parameters = [
            t
            for place, norm in zip(Norms._fields, self.norms, strict=True)
            for t in (
                (None, None) if not isinstance(norm, StepNorm)
                else (norm.weight, bias if place == "ih" else norm.bias)
            )
        ]  # fmt: skip
        u = products.linear(x, self.w.ih, None if behind else bias)

        def composite(
            stats: Sequence[Tensor | None], u: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, w_hr: Tensor | None,
            *parameters: Tensor | None,
        ) -> tuple[Tensor, ...]:  # fmt: skip
            places = zip(Norms._fields, parameters[::2], parameters[1::2], stats, strict=True)
            again = {
                place: _KeptNorm(loop.by_batch, loop.eps, w, b, kept)
                for place, w, b, kept in places
                if w is not None and kept is not None
            }
            ih = again.pop("ih", None)
            p = u if ih is None else ih.sequence(u, sizes)
            cell = LSTM(self.w._replace(hh=w_hh, hr=w_hr, b_ih=None, b_hh=None), Norms(**again))
            y, last = step_after_step(cell, p, sizes, (h, c))
            return y, *last

        found = batch_lstm.run(loop, (u, *state, self.w.hh, self.w.hr, *parameters), composite)
        if found is None:
            return None
        (y, *last), stats = found
        if loop.by_batch:
            for norm, kept in zip(self.norms, stats, strict=True):
                if isinstance(norm, StepNorm) and kept is not None:
                    norm.found.append(CompiledSteps(kept, sizes))
        return y, tuple(last)

    def _loop(self, norms: Sequence[StepNorm], sizes: Sequence[int]) -> batch_lstm.Loop | None:
        """None where the norms differ in what they are to do, have nothing to take statistics of, or too few places."""
        first = norms[0].statistics
        eps = as_number(first.eps)
        if eps is None:
            return None
        by_batch = step_of(first) != "evaluate"
        for other in (norm.statistics for norm in norms):
            if (step_of(other) != "evaluate", other.eps, other.max_steps) != (by_batch, first.eps, first.max_steps):
                return None
        if by_batch and sizes[0] < 2:
            return None
        places = [(t, n.weight) for n in norms for t in (n.statistics.running_mean, n.statistics.running_var)]
        if any(t.shape != (first.max_steps, *weight.shape) for t, weight in places):
            return None
        running = [
            (n.statistics.running_mean.contiguous(), n.statistics.running_var.contiguous())
            if isinstance(n, StepNorm)
            else None
            for n in self.norms
        ]
        return batch_lstm.Loop(sizes, by_batch, eps, first.max_steps, running)


@dataclass(frozen=True)
class _KeptNorm:
    """A norm once more: by the batch where it was, else by the statistics that were kept of the step."""

    by_batch: bool
    eps: float
    weight: Tensor
    bias: Tensor | None
    stats: Tensor  # [T, 4, C]

    def at(self, x: Tensor, step: int) -> Tensor:
        if self.by_batch and x.shape[0] > 1:
            return batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        mean, _, _, var = self.stats[step]
        return batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)

    def sequence(self, x: Tensor, sizes: Sequence[int], first: int = 0) -> Tensor:
        rows = x.split(list(sizes))  # type: ignore[no-untyped-call]
        return torch.cat([self.at(some, step) for step, some in enumerate(rows, first)])
