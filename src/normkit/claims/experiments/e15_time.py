"""E15: the gradient through 100 steps of a tanh RNN, and of an LSTM, at the start of training and after some of it.

h_t = tanh(N(W_h·h_{t-1} + W_x·x_t)), a random gradient at the last step alone, so that no other step's term hides what
is lost. W_h is Gaussian of standard deviation ``recurrent_scale`` / sqrt(H), W_x so that W_x·x has unit variance where
x has; ``input_scale`` multiplies x; ``gamma`` is the norm's starting weight. BatchNorm takes its statistics at each
step. Without input LayerNorm sees nothing of the scale of W_h; with input of unit variance it does not keep the
recurrence from forgetting.

The LSTM has the norm on the sum of all gates and on the cell before its tanh, after Ba et al. 2016, and a forget
gate's bias of 1; the gradient is that by its cell. "trained" are steps of Adam in which W_h, W_x and an output learn to
sum up one direction of 10 inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from normkit import functional
from normkit.claims.experiment import Condition, Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._seeds import Arm, jobs_of
from normkit.claims.experiments._stacked_training import one_thread
from normkit.lab.data import stream

STEPS, HIDDEN, CASES = 100, 64, 32
NORMS = ("layer", "none", "batch", "rms")
TRAINED, SHORT, RATE = 200, 10, 0.003  # steps of training, of its sequences, and its learning rate


def jobs(tier: Tier) -> Sequence[Job]:
    quick = [_arm(norm, g, i) for i in (0.0, 1.0) for g in (0.5, 1.0, 2.5) for norm in NORMS]
    more = [_arm(norm, g, i) for i in (0.0, 0.3, 1.0) for g in (0.5, 1.0, 1.5, 2.5) for norm in NORMS]
    more += [_arm(norm, 1.0, i, gamma=0.1) for i in (0.0, 0.3, 1.0) for norm in NORMS if norm != "none"]
    more += [_arm(norm, g, i, cell="lstm") for g, i in ((0.5, 0.0), (2.5, 0.0), (1.0, 1.0)) for norm in NORMS[:3]]
    more += [_arm(norm, 1.0, 1.0, trained=TRAINED) for norm in NORMS[:3]]
    return jobs_of("E15", tier, quick, [arm for arm in more if arm not in quick])


def _arm(
    norm: str, recurrent_scale: float, input_scale: float, *, gamma: float = 1.0, cell: str = "rnn", trained: int = 0
) -> Arm:
    return conditions(
        norm=norm, recurrent_scale=recurrent_scale, input_scale=input_scale, gamma=gamma, cell=cell, trained=trained
    )


def measure(job: Job) -> list[Measurement]:
    """Metrics: gradient_decades, how many powers of ten the gradient is larger at the first step than at the last;
    gradient_decades_lost, by how many it is smaller, 0 where it is larger; and explained, 1 - the last training loss: 0
    for who guesses the mean."""
    with one_thread():
        network = Recurrence(job.arm, job.seeds)
        explained = _train(network, job.seeds, int(job.arm["trained"]))
        logs = _log10_gradients(network, job.seeds)
    decades = (logs[0] - logs[-1]).tolist()
    return [
        Measurement(
            job.experiment,
            job.conditions,
            seed,
            metrics={
                "gradient_decades": decades[i],
                "gradient_decades_lost": max(0.0, -decades[i]),
                **({"explained": float(explained[i])} if explained is not None else {}),
            },
            series={"log10_gradient": tuple((logs[::5, i] - logs[-1, i]).tolist())},
        )
        for i, seed in enumerate(job.seeds)
    ]


class Recurrence:
    """The networks of some seeds side by side, in float64: the weights that an arm of the experiment starts with."""

    def __init__(self, arm: Mapping[str, Condition], seeds: Sequence[int]) -> None:
        self.norm, self.gamma = str(arm["norm"]), float(arm["gamma"])
        self.input_scale = float(arm["input_scale"])
        self.is_lstm = arm["cell"] == "lstm"
        width = 4 * HIDDEN if self.is_lstm else HIDDEN
        recurrent = float(arm["recurrent_scale"]) / HIDDEN**0.5
        self.w_h = (_normal(seeds, "recurrent", HIDDEN, width) * recurrent).requires_grad_()
        self.w_x = (_normal(seeds, "input", HIDDEN, width) / HIDDEN**0.5).requires_grad_()

    def __call__(self, xs: Tensor, h: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last h and, of every step, what the recurrence carries on: h, or the LSTM's cell.

        Args:
            xs: [S, N, T, H], before their scale.
            h: the first [S, N, H].
        """
        c, carried = torch.zeros_like(h), []
        for x in (xs * self.input_scale).unbind(2):
            a = self._normalized(h @ self.w_h + x @ self.w_x)
            if self.is_lstm:
                i, f, o, g = a.chunk(4, -1)
                c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(self._normalized(c))
            else:
                c = h = torch.tanh(a)
            carried.append(c)
        return h, carried

    def _normalized(self, a: Tensor) -> Tensor:
        n = a.shape[-1]
        if self.norm == "none":
            return a
        if self.norm == "layer":
            return self.gamma * functional.layer_norm(a, (n,))
        if self.norm == "rms":
            return self.gamma * functional.rms_norm(a, (n,), eps=1e-5)
        replicas = a.transpose(0, 1).flatten(1)
        y = functional.batch_norm(replicas, None, None, training=True)
        return self.gamma * torch.unflatten(y, 1, (-1, n)).transpose(0, 1)


def _train(network: Recurrence, seeds: Sequence[int], steps: int) -> Tensor | None:
    """Trains in place; what part of the target's variance is explained in the last step, [S], if there is any."""
    if not steps:
        return None
    streams = [stream(seed, "training") for seed in seeds]
    direction = _normal(seeds, "direction", HIDDEN, 1) / HIDDEN**0.5
    output = torch.zeros_like(direction).requires_grad_()
    optimizer = torch.optim.Adam([network.w_h, network.w_x, output], lr=RATE)
    for _ in range(steps):
        xs = torch.stack([torch.randn(CASES, SHORT, HIDDEN, generator=s, dtype=torch.float64) for s in streams])
        targets = (xs.sum(2) @ direction) / SHORT**0.5
        h, _ = network(xs, torch.zeros_like(xs[:, :, 0]))
        losses = (h @ output - targets).square().mean((1, 2))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    explained: Tensor = 1 - losses.detach() / targets.square().mean((1, 2))
    return explained


def _log10_gradients(network: Recurrence, seeds: Sequence[int]) -> Tensor:
    """log10 of the norm of the loss's gradient by what each step carries on, t = 1 ... T: [T, S]."""
    h = torch.tanh(_normal(seeds, "state", CASES, HIDDEN))
    last, carried = network(_normal(seeds, "cases", CASES, STEPS, HIDDEN), h)
    gradients = torch.autograd.grad(last, carried, _normal(seeds, "gradient", CASES, HIDDEN))
    return torch.stack([g.flatten(1).norm(dim=1).clamp(min=1e-300).log10() for g in gradients])


def _normal(seeds: Sequence[int], purpose: str, *shape: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=stream(seed, purpose), dtype=torch.float64) for seed in seeds])


EXPERIMENT = Experiment(
    "E15",
    "Gradients through time",
    "Does normalizing at every step keep a recurrent network's gradient from vanishing?",
    jobs,
    measure,
    seconds=lambda job: 0.3 + 0.002 * int(job.arm["trained"]) * len(job.seeds),
)
