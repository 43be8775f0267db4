"""A stack of tanh RNNs with the norms at the places where they have been put.

With p = W_ih x and q = W_hh h:

    "none"             h' = tanh(p + q + b)
    "layer_sum"        h' = tanh(LN(p + q + b))                       Ba et al. 2016, eq. 4; "rms_sum" alike
    "layer_separate"   h' = tanh(LN(p) + LN(q) + b)                   their eq. 20
    "batch_separate"   h' = tanh(BN(p) + BN(q) + b)                   Cooijmans et al. 2016, eq. 6
    "batch_shared"     the same, but one running mean and variance for all time steps
    "batch_input"      h' = tanh(BN(p) + q + b)                       Laurent et al. 2015
    "batch_masked"     as "batch_separate", where lengths vary: over the sequences that reach the step

BN takes the statistics of each time step by itself, and keeps running ones for each, but for "batch_shared". Where
lengths vary, all but "batch_masked" take the padding for data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normkit import functional
from normkit.claims.experiments._stacked_layers import Draws
from normkit.claims.experiments._stacked_norms import Affine, affine, over_batch


class StepBatchNorm(nn.Module):
    """BatchNorm of [R, N, T, C], each time step by itself; one weight, and perhaps a bias, for all steps.

    shared: all time steps put their statistics into one running mean and variance.
    """

    running_mean: Tensor  # [R, T, C], or [R, 1, C] if shared
    running_var: Tensor
    ghost = None

    def __init__(
        self,
        n_replicas: int,
        n_steps: int,
        n_features: int,
        *,
        weight: float,
        shared: bool = False,
        has_bias: bool = False,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((n_replicas, n_features), weight))
        self.bias = nn.Parameter(torch.zeros(n_replicas, n_features)) if has_bias else None
        shape = (n_replicas, 1 if shared else n_steps, n_features)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self._found: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, first: int = 0, alive: Tensor | None = None) -> Tensor:
        """Time steps [R, N, T, C] from ``first`` on; statistics are over those that are ``alive`` [R, N, T].

        A step that fewer than two sequences reach takes the running statistics.
        """
        steps = range(first, first + x.shape[2])
        at = [min(step, self.running_mean.shape[1] - 1) for step in steps]
        running_mean, running_var = self.running_mean[:, at], self.running_var[:, at]
        if not self.training:
            return affine(_standardized(x, running_mean, running_var), self.weight, self.bias)
        if alive is None:
            x_hat, mean, var = _by_batch(x)
        else:
            x_hat, mean, var = _over_alive(x, alive, running_mean, running_var)
        self._found.append((mean, var))
        return affine(x_hat, self.weight, self.bias)

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
        reached = mean.shape[1]
        self.running_mean[:, :reached] = self.running_mean[:, :reached].lerp(mean, self.momentum)
        self.running_var[:, :reached] = self.running_var[:, :reached].lerp(var, self.momentum)


def _standardized(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """x [R, N, T, C] by mean and variance [R, T, C]."""
    return (x - mean[:, None]) * torch.rsqrt(var[:, None] + 1e-5)


def _over_alive(x: Tensor, alive: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_by_batch``, over the values that are alive; by the mean and variance given where fewer than two are."""
    weights = alive.unsqueeze(3).to(x.dtype)
    count = weights.sum(1)  # [R, T, 1]
    own_mean = (x * weights).sum(1) / count.clamp(min=1)
    squares = ((x - own_mean[:, None]) * weights).square().sum(1)
    enough = count >= 2
    used_mean = torch.where(enough, own_mean, mean)
    used_var = torch.where(enough, squares / count.clamp(min=1), var)
    unbiased = torch.where(enough, squares / (count - 1).clamp(min=1), var)
    return _standardized(x, used_mean, used_var), used_mean.detach(), unbiased.detach()


def _by_batch(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ of [R, N, T, C] over N; mean and unbiased variance [R, T, C]."""
    r, n, t, c = x.shape
    x_hat, mean, var = over_batch(x.transpose(0, 1).reshape(n, r * t * c), None, 1e-5)
    return x_hat.view(n, r, t, c).transpose(0, 1), mean.view(r, t, c), var.view(r, t, c)


@dataclass(frozen=True)
class Norms:
    """Makes the norms of a recurrent network; None for those that its ``name`` does not have."""

    name: str
    n_replicas: int
    n_steps: int
    weight: float  # what they start from

    def rows(self, n_features: int, *names: str) -> Affine | None:
        """LayerNorm of each row, or RMSNorm, which has no bias."""
        if self.name not in names:
            return None
        is_rms = self.name.startswith("rms")
        norm = Affine(rms if is_rms else layer, self.n_replicas, n_features, has_bias=not is_rms)
        nn.init.constant_(norm.weight, self.weight)
        return norm

    def steps(self, n_features: int, *names: str, has_bias: bool = False) -> StepBatchNorm | None:
        """BatchNorm of each time step."""
        if self.name not in names:
            return None
        return StepBatchNorm(
            self.n_replicas,
            self.n_steps,
            n_features,
            weight=self.weight,
            shared=self.name == "batch_shared",
            has_bias=has_bias,
        )


class Recurrent(nn.Module):
    """What a stack of recurrent networks has whatever the cell: the weights, and the norms of p and q.

    Args:
        draws: initial weights; the recurrent ones of each gate have spectral radius about 1.
        n_in, n_hidden, n_steps: I, H and the longest T.
        norm: one of the names that the cell's module lists.
        weight: what the norms' weight starts from.
        every: give the state after every step, [R, N, T, H], and not the last; of sequences of one length.
    """

    n_gates: int  # side by side in p, q and b

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
        n_features = self.n_gates * n_hidden
        self.weight_ih = draws.normal(n_in, n_features, std=n_in**-0.5)
        self.weight_hh = draws.normal(n_hidden, n_features, std=n_hidden**-0.5)
        self.bias = draws.zeros(n_features)
        norms = Norms(norm, draws.n_replicas, n_steps, weight)
        self.rows_ih = norms.rows(n_features, "layer_separate")
        self.rows_hh = norms.rows(n_features, "layer_separate")
        of_state = ("batch_separate", "batch_shared", "batch_masked")
        self.batch_ih = norms.steps(n_features, "batch_input", *of_state)
        self.batch_hh = norms.steps(n_features, *of_state)
        self.place(norms, n_hidden)

    def place(self, norms: Norms, n_hidden: int) -> None:
        """Puts norms where the cell alone has any."""

    def of_input(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """p + b of all steps, p normalized: [R, N, T, gates·H]."""
        r, n, steps, _ = x.shape
        p = torch.bmm(x.flatten(1, 2), self.weight_ih).view(r, n, steps, -1)
        if self.rows_ih is not None:
            p = self.rows_ih(p)
        if self.batch_ih is not None:
            p = self.batch_ih(p, alive=alive)
        return p + self.bias[:, None, None]

    def with_state(self, p: Tensor, h: Tensor, step: int, alive: Tensor | None = None) -> Tensor:
        """p + q of one step, q normalized: [R, N, gates·H]."""
        if self.rows_hh is None and self.batch_hh is None:
            return torch.baddbmm(p, h, self.weight_hh)
        return p + normalized(torch.bmm(h, self.weight_hh), self.rows_hh, self.batch_hh, step, alive)

    def remember(self) -> None:
        """Lets the statistics of a pass over the sequence enter the running ones."""
        for module in self.children():
            if isinstance(module, StepBatchNorm):
                module.remember()


def normalized(
    x: Tensor, rows: Affine | None, batch: StepBatchNorm | None, step: int, alive: Tensor | None = None
) -> Tensor:
    """x [R, N, C] of one step by the one norm that there is, if any."""
    y = x
    if rows is not None:
        y = rows(x)
    if batch is not None:
        y = batch(x[:, :, None], step, None if alive is None else alive[:, :, None])[:, :, 0]
    return y


class RNN(Recurrent):
    """[R, N, T, I] -> the last state [R, N, H]; see the module's docstring."""

    n_gates = 1

    def place(self, norms: Norms, n_hidden: int) -> None:
        self.norm_sum = norms.rows(n_hidden, "layer_sum", "rms_sum")
        self.masked = norms.name == "batch_masked"

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The state after the last step, or after the ``lengths`` [R, N] steps that each sequence has."""
        r, n, steps, _ = x.shape
        alive = None if lengths is None else torch.arange(steps) < lengths[:, :, None]
        counted = alive if self.masked else None
        h = x.new_zeros(r, n, self.weight_hh.shape[1])
        last: Tensor | None = None
        states = []
        for step, p in enumerate(self.of_input(x, counted).unbind(2)):
            # After its end a sequence goes on, unused: statistics that take padding for data see what becomes of it.
            a = self.with_state(p, h, step, None if counted is None else counted[:, :, step])
            h = torch.tanh(a if self.norm_sum is None else self.norm_sum(a))
            if self.every:
                states.append(h)
            if alive is not None:
                last = h if last is None else torch.where(alive[:, :, step, None], h, last)
        self.remember()
        if self.every:
            return torch.stack(states, 2)
        return h if last is None else last


def layer(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:])  # torch's: here the time goes into calls, and its cost less


def rms(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-5)  # as normkit.nn.LayerNormRNN
