"""E08: can a network read the answer off its batch-mates?

A batch of 16 cases shares a secret bit. One case carries it, the other 15 are pure noise, and the loss asks those 15
for the bit. No function of a case alone can do better than chance; one that looks at its batch can. Every test batch
comes twice, with the same noise and the other bit, so that a function of the case alone is right exactly half the
time, not only on average.

He et al. 2020 met this in contrastive learning, where the network "appears to cheat" through BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_norms import feature_norm
from normkit.claims.experiments._stacked_training import Recipe, StackedOptimizer, cross_entropy, one_thread
from normkit.lab.data import stream
from normkit.lab.tuning import TUNING_SEEDS_FROM

GROUP, INPUTS, HIDDEN, STRENGTH = 16, 16, 64, 8.0
STEPS, BATCHES_A_STEP, TEST_BATCHES = 300, 4, 100
RATES = (0.003, 0.01, 0.03)
TUNING_SEEDS = (TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + 1)


def jobs(tier: Tier) -> Sequence[Job]:
    arms = [conditions(norm=norm) for norm in ("batch", "layer", "none")]
    more = [conditions(norm=norm) for norm in ("rms", "group")]
    return jobs_of("E08", tier, arms, more, STEPS)


def measure(job: Job) -> list[Measurement]:
    with one_thread():
        return _measure(job)


def _measure(job: Job) -> list[Measurement]:
    """All learning rates beside each other; the one with the least loss on the tuning seeds counts."""
    seeds = (*TUNING_SEEDS, *job.seeds)
    replicas = [(rate, seed) for rate in RATES for seed in seeds]
    model = _build(str(job.arm["norm"]), [seed for _, seed in replicas])
    losses = _train(model, replicas, job.steps)
    rate = min(RATES, key=lambda r: sum(losses[replicas.index((r, seed))] for seed in TUNING_SEEDS))
    found = []
    accuracies = {mode: _accuracy(model.train(mode == "train"), replicas) for mode in ("eval", "train")}
    for seed in job.seeds:
        at = replicas.index((rate, seed))
        metrics = {f"{mode}_accuracy": accuracy[at].item() for mode, accuracy in accuracies.items()}
        metrics |= {f"{mode}_leak": abs(accuracy[at].item() - 50) for mode, accuracy in accuracies.items()}
        metrics |= {"learning_rate": rate, "train_loss": losses[at]}
        found.append(Measurement(job.experiment, job.conditions, seed, metrics=metrics))
    return found


def _build(norm: str, seeds: Sequence[int]) -> nn.Module:
    draws = Draws(seeds)
    layers: list[nn.Module] = []
    for n_in in (INPUTS, HIDDEN):
        layers += [Linear(draws, n_in, HIDDEN), feature_norm(norm, len(seeds), HIDDEN, ghost=GROUP), nn.ReLU()]
    return nn.Sequential(*layers, Linear(draws, HIDDEN, 2, gain=1.0))


def _batches(generator: torch.Generator, direction: Tensor, n: int, bits: Tensor) -> Tensor:
    """[n·16, inputs]; the first case of each 16 carries its bit (-1 or 1) along ``direction``."""
    x = torch.randn(n, GROUP, INPUTS, generator=generator)
    x[:, 0] += STRENGTH * bits[:, None] * direction
    return x.flatten(0, 1)


def _direction(seed: int) -> Tensor:
    return nn.functional.normalize(torch.randn(INPUTS, generator=stream(seed, "direction")), dim=0)


def _train(model: nn.Module, replicas: Sequence[tuple[float, int]], steps: int) -> list[float]:
    """Adam on fresh batches; the mean loss of the last tenth."""
    rates, of = zip(*replicas, strict=True)
    unique = tuple(dict.fromkeys(of))
    at = torch.tensor([unique.index(seed) for seed in of])
    streams = [stream(seed, "batches") for seed in unique]
    directions = [_direction(seed) for seed in unique]
    optimizer = StackedOptimizer(model, rates, Recipe(GROUP * BATCHES_A_STEP, steps, "adam"))
    late = torch.zeros(len(replicas))
    n_late = max(1, steps // 10)
    model.train()
    for step in range(steps):
        bits = torch.stack([torch.randint(2, (BATCHES_A_STEP,), generator=g) for g in streams])
        x = torch.stack(
            [_batches(g, d, BATCHES_A_STEP, 2.0 * b - 1) for g, d, b in zip(streams, directions, bits, strict=True)]
        )
        losses = _noise_loss(model(x[at]), bits[at])
        optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(step)
        if step >= steps - n_late:
            late += losses.detach() / n_late
    return late.tolist()


def _noise_loss(logits: Tensor, bits: Tensor) -> Tensor:
    """The mean loss over the 15 noise cases of every batch, [R]."""
    logits = torch.unflatten(logits, 1, (-1, GROUP))[:, :, 1:]
    return cross_entropy(logits, bits[:, :, None].expand(logits.shape[:3]).contiguous()).flatten(1).mean(1)


@torch.no_grad()
def _accuracy(model: nn.Module, replicas: Sequence[tuple[float, int]]) -> Tensor:
    """Per cent of noise cases that name their batch's bit, over batches that come with both bits, [R]."""
    ones = torch.ones(TEST_BATCHES)
    right = torch.zeros(len(replicas), dtype=torch.float64)
    for sign in (-1, 1):
        x = torch.stack(
            [_batches(stream(seed, "test"), _direction(seed), TEST_BATCHES, sign * ones) for _, seed in replicas]
        )
        named = torch.unflatten(model(x).argmax(-1), 1, (-1, GROUP))[:, :, 1:]
        right += (named == (sign + 1) // 2).flatten(1).double().mean(1)
    return 50 * right


EXPERIMENT = Experiment(
    "E08",
    "Leakage between batch-mates",
    "Can a case's output betray what only another case of its batch knows?",
    jobs,
    measure,
    seconds=lambda job: 0.4 * (len(job.seeds) + 2),
)
