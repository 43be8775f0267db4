"""A stack of tanh RNNs with the norms at the places where they have been put.

With p = W_ih x and q = W_hh h:

    "none"             h' = tanh(p + q + b)
    "layer_sum"        h' = tanh(LN(p + q + b))                       Ba et al. 2016, eq. 4; "rms_sum" alike
    "layer_separate"   h' = tanh(LN(p) + LN(q) + b)                   their eq. 20
    "batch_separate"   h' = tanh(BN(p) + BN(q) + b)                   Cooijmans et al. 2016, eq. 6
    "batch_shared"     the same, but one running mean and variance for all time steps
    "batch_input"      h' = tanh(BN(p) + q + b)                       Laurent et al. 2015

BN takes the statistics of each time step by itself, and keeps running ones for each, but for "batch_shared".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normkit import functional
from normkit.claims.experiments._stacked_layers import Draws
from normkit.claims.experiments._stacked_norms import Affine, affine, over_batch


class StepBatchNorm(nn.Module):
    """BatchNorm of [R, N, T, C], each time step by itself; one weight for all steps, and no bias.

    shared: all time steps put their statistics into one running mean and variance.
    """

    running_mean: Tensor  # [R, T, C], or [R, 1, C] if shared
    running_var: Tensor
    ghost = None

    def __init__(
        self, n_replicas: int, n_steps: int, n_features: int, *, weight: float, shared: bool, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((n_replicas, n_features), weight))
        shape = (n_replicas, 1 if shared else n_steps, n_features)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self._found: list[tuple[Tensor, Tensor]] = []

    def sequence(self, x: Tensor) -> Tensor:
        """All time steps [R, N, T, C] at once."""
        if self.training:
            x_hat, mean, var = _by_batch(x)
            self._found.append((mean, var))
        else:
            x_hat = (x - self.running_mean[:, None]) * torch.rsqrt(self.running_var[:, None] + 1e-5)
        return affine(x_hat, self.weight, None)

    def at(self, x: Tensor, step: int) -> Tensor:
        """One time step [R, N, C]."""
        if self.training:
            x_hat, mean, var = _by_batch(x[:, :, None])
            self._found.append((mean, var))
            x_hat = x_hat[:, :, 0]
        else:
            place = min(step, self.running_mean.shape[1] - 1)
            rstd = torch.rsqrt(self.running_var[:, None, place] + 1e-5)
            x_hat = (x - self.running_mean[:, None, place]) * rstd
        return affine(x_hat, self.weight, None)

    @torch.no_grad()
    def remember(self) -> None:
        """Lets the statistics of a pass over the sequence enter the running ones, once."""
        if not self._found:
            return
        mean = torch.cat([mean for mean, _ in self._found], 1)
        var = torch.cat([var for _, var in self._found], 1)
        self._found.clear()
        if self.running_mean.shape[1] == 1:
            mean, var = mean.mean(1, keepdim=True), var.mean(1, keepdim=True)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


def _by_batch(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ of [R, N, T, C] over N; mean and unbiased variance [R, T, C]."""
    r, n, t, c = x.shape
    x_hat, mean, var = over_batch(x.transpose(0, 1).reshape(n, r * t * c), None, 1e-5)
    return x_hat.view(n, r, t, c).transpose(0, 1), mean.view(r, t, c), var.view(r, t, c)


class RNN(nn.Module):
    """[R, N, T, I] -> the last state [R, N, H]; see the module's docstring.

    Args:
        draws: initial weights; the recurrent ones have spectral radius about 1.
        n_in, n_hidden, n_steps: I, H and the longest T.
        norm: one of the names above.
        weight: what the norms' weight starts from.
    """

    def __init__(self, draws: Draws, n_in: int, n_hidden: int, n_steps: int, norm: str, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight_ih = draws.normal(n_in, n_hidden, std=n_in**-0.5)
        self.weight_hh = draws.normal(n_hidden, n_hidden, std=n_hidden**-0.5)
        self.bias = draws.zeros(n_hidden)
        r = draws.n_replicas

        def row_norm() -> Affine:
            normalize: Callable[[Tensor], Tensor]
            normalize = _rms if norm.startswith("rms") else _layer
            layer = Affine(normalize, r, n_hidden, has_bias=not norm.startswith("rms"))
            nn.init.constant_(layer.weight, weight)
            return layer

        def step_norm() -> StepBatchNorm:
            return StepBatchNorm(r, n_steps, n_hidden, weight=weight, shared=norm == "batch_shared")

        self.norm_sum = row_norm() if norm in ("layer_sum", "rms_sum") else None
        self.rows_ih = row_norm() if norm == "layer_separate" else None
        self.rows_hh = row_norm() if norm == "layer_separate" else None
        self.batch_ih = step_norm() if norm.startswith("batch") else None
        self.batch_hh = step_norm() if norm in ("batch_separate", "batch_shared") else None

    def forward(self, x: Tensor) -> Tensor:
        r, n, steps, _ = x.shape
        p = torch.bmm(x.flatten(1, 2), self.weight_ih).view(r, n, steps, -1)
        if self.rows_ih is not None:
            p = self.rows_ih(p)
        if self.batch_ih is not None:
            p = self.batch_ih.sequence(p)
        p = p + self.bias[:, None, None]
        h = x.new_zeros(r, n, self.weight_hh.shape[1])
        for step, p_t in enumerate(p.unbind(2)):
            h = torch.tanh(self._before_tanh(p_t, h, step))
        for norm in (self.batch_ih, self.batch_hh):
            if norm is not None:
                norm.remember()
        return h

    def _before_tanh(self, p: Tensor, h: Tensor, step: int) -> Tensor:
        if self.rows_hh is None and self.batch_hh is None:
            a = torch.baddbmm(p, h, self.weight_hh)
            return a if self.norm_sum is None else self.norm_sum(a)
        q = torch.bmm(h, self.weight_hh)
        return p + (self.rows_hh(q) if self.rows_hh is not None else self.batch_hh.at(q, step))  # type: ignore[union-attr]


def _layer(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _rms(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:])
