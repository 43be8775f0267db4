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
from torch import Tensor, nn

from normkit.claims.experiments._stacked_layers import Draws
from normkit.claims.experiments._stacked_norms import Affine
from normkit.claims.experiments._stacked_recurrent import StepBatchNorm, layer, row_norm


class LSTM(nn.Module):
    """[R, N, T, I] -> the last state [R, N, H]; see the module's docstring.

    Args:
        draws: initial weights; the recurrent ones of each gate have spectral radius about 1.
        n_in, n_hidden, n_steps: I, H and T.
        norm: one of the names above.
        weight: what the norms' weight starts from.
        every: give the state after every step, [R, N, T, H].
    """

    def __init__(
        self,
        draws: Draws,
        n_in: int,
        n_hidden: int,
        n_steps: int,
        norm: str,
        *,
        weight: float = 1.0,
        every: bool = False,
    ) -> None:
        super().__init__()
        self.every = every
        self.weight_ih = draws.normal(n_in, 4 * n_hidden, std=n_in**-0.5)
        self.weight_hh = draws.normal(n_hidden, 4 * n_hidden, std=n_hidden**-0.5)
        self.bias = draws.zeros(4 * n_hidden)
        r = draws.n_replicas

        def rows(n_features: int) -> Affine | None:
            return row_norm(layer, r, n_features, weight) if norm == "layer_separate" else None

        def steps(n_features: int, *, has_bias: bool = False) -> StepBatchNorm | None:
            if norm != "batch_separate":
                return None
            return StepBatchNorm(r, n_steps, n_features, weight=weight, has_bias=has_bias)

        self.rows_ih, self.rows_hh, self.rows_c = rows(4 * n_hidden), rows(4 * n_hidden), rows(n_hidden)
        self.batch_ih, self.batch_hh = steps(4 * n_hidden), steps(4 * n_hidden)
        self.batch_c = steps(n_hidden, has_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        r, n, steps, _ = x.shape
        p = torch.bmm(x.flatten(1, 2), self.weight_ih).view(r, n, steps, -1)
        if self.rows_ih is not None:
            p = self.rows_ih(p)
        if self.batch_ih is not None:
            p = self.batch_ih(p)
        p = p + self.bias[:, None, None]
        h = c = x.new_zeros(r, n, self.weight_hh.shape[1])
        states = []
        for step, p_t in enumerate(p.unbind(2)):
            h, c = self._step(p_t, h, c, step)
            if self.every:
                states.append(h)
        for norm in (self.batch_ih, self.batch_hh, self.batch_c):
            if norm is not None:
                norm.remember()
        return torch.stack(states, 2) if self.every else h

    def _step(self, p: Tensor, h: Tensor, c: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """From p and the states [R, N, H] to the next states."""
        if self.rows_hh is None and self.batch_hh is None:
            a = torch.baddbmm(p, h, self.weight_hh)
        else:
            a = p + _normalized(torch.bmm(h, self.weight_hh), self.rows_hh, self.batch_hh, step)
        n_hidden = c.shape[-1]
        i, f, o = torch.sigmoid(a[..., : 3 * n_hidden]).chunk(3, -1)
        c = f * c + i * torch.tanh(a[..., 3 * n_hidden :])
        return o * torch.tanh(_normalized(c, self.rows_c, self.batch_c, step)), c


def _normalized(x: Tensor, rows: Affine | None, batch: StepBatchNorm | None, step: int) -> Tensor:
    """x [R, N, C] by the one norm that there is, if any."""
    y = x
    if rows is not None:
        y = rows(x)
    if batch is not None:
        y = batch(x[:, :, None], step)[:, :, 0]
    return y
