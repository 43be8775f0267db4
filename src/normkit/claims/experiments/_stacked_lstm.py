"""A stack of LSTMs with the norms at the places where they have been put.

With p = W_ih x and q = W_hh h, of all 4H gates together:

    "none"             a = p + q + b,                   h' = sigmoid(o)·tanh(c')
    "layer_separate"   a = LN_ih(p) + LN_hh(q) + b,     h' = sigmoid(o)·tanh(LN_c(c'))   Ba et al. 2016, eq. 20-22
    "batch_separate"   a = BN_ih(p) + BN_hh(q) + b,     h' = sigmoid(o)·tanh(BN_c(c'))   Cooijmans et al. 2016, eq. 6-8

    (i, f, o, g) = a,   c' = sigmoid(f)·c + sigmoid(i)·tanh(g)

BN takes the statistics of each time step by itself, and keeps running ones for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normkit.claims.experiments._stacked_recurrent import Norms, Recurrent, normalized


class LSTM(Recurrent):
    """[R, N, T, I] -> the last state [R, N, H]; see the module's docstring."""

    n_gates = 4

    def place(self, norms: Norms, n_hidden: int) -> None:
        self.rows_c = norms.rows(n_hidden, "layer_separate")
        self.batch_c = norms.steps(n_hidden, "batch_separate", has_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(*x.shape[:2], self.weight_hh.shape[1])
        states = []
        for step, p in enumerate(self.of_input(x).unbind(2)):
            h, c = self._step(p, h, c, step)
            if self.every:
                states.append(h)
        self.remember()
        return torch.stack(states, 2) if self.every else h

    def _step(self, p: Tensor, h: Tensor, c: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """From p and the states [R, N, H] to the next states."""
        a = self.with_state(p, h, step)
        n_hidden = c.shape[-1]
        i, f, o = torch.sigmoid(a[..., : 3 * n_hidden]).chunk(3, -1)
        c = f * c + i * torch.tanh(a[..., 3 * n_hidden :])
        return o * torch.tanh(normalized(c, self.rows_c, self.batch_c, step)), c
