"""E12: does BatchNorm reduce internal covariate shift, and is that why it works?

"linear": Santurkar et al. 2018's deep linear network, 25 layers of 10 units, full batch, y = A·x. How much does a
layer's gradient change once the layers before it took their step? If a norm reduced that shift, cos(G, G') would be
nearer to 1 with it. The paper's learning rate of 1e-6 hardly moves the network without a norm, so that its gradient
hardly changes; here each norm has its own best rate, and cos(G, G') is below 1 without a norm, too.

"digits": the same in an 8-layer ReLU MLP, and beside it how far each unit's mean and spread move in 10 steps, before
and after the norm, and how far its whole distribution does (1-Wasserstein distance). After BatchNorm the means and
spreads hardly move, by construction, which is why that alone proves nothing.

"noise": the causal test. After each norm every unit's values are stretched and shifted anew at every step, at random,
with the paper's constants: that is distribution shift by force. If shift were what BatchNorm cures, BatchNorm with
noise would do no better than no norm without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._deep import deep_mlp
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._shift import (
    drift,
    gradient_shift,
    looking_at,
    moments,
    parameters_of,
    wasserstein,
)
from normkit.claims.experiments._stacked_data import batches, stacked_data
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_norms import feature_norm
from normkit.claims.experiments._stacked_training import (
    Recipe,
    StackedOptimizer,
    cross_entropy,
    evaluate,
    one_thread,
    take_population_statistics,
)
from normkit.claims.experiments._stacked_tuning import Cell, Study, measurements, metrics_of
from normkit.lab.data import stream

LINEAR_LAYERS, LINEAR_WIDTH, LINEAR_CASES, LINEAR_STEPS = 25, 10, 256, 150
LINEAR_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TUNING_SEEDS = (1000, 1001)
LOOK_EVERY = 10

DEPTH, WIDTH, BATCH, STEPS = 8, 48, 50, 200
GRID = (0.01, 0.03, 0.1, 0.3)


def jobs(tier: Tier) -> Sequence[Job]:
    linear = [conditions(network="linear", norm=norm, noise=False) for norm in ("batch", "none")]
    noisy = [_noise("batch", True), _noise("none", False)]
    more = [_noise("batch", False), _noise("none", True), _noise("layer", False), _noise("layer", True)]
    digits = [conditions(network="digits", norm=norm, noise=False) for norm in ("batch", "none", "layer")]
    linear_too = [conditions(network="linear", norm="layer", noise=False)]
    return [
        *jobs_of("E12", tier, linear, linear_too, LINEAR_STEPS),
        *jobs_of("E12", tier, noisy, [*more, *digits], STEPS),
    ]


def _noise(norm: str, noise: bool) -> tuple[tuple[str, str | int | float | bool], ...]:
    return conditions(network="noise", norm=norm, noise=noise)


def measure(job: Job) -> list[Measurement]:
    network, norm = str(job.arm["network"]), str(job.arm["norm"])
    with one_thread():
        if network == "linear":
            return _linear(job, norm)
        return _digits(job, norm) if network == "digits" else _noisy(job, norm, bool(job.arm["noise"]))


def _linear(job: Job, norm: str) -> list[Measurement]:
    """Gradient descent at the rate with the least final loss on the tuning seeds."""
    pairs = [(rate, seed) for rate in LINEAR_RATES for seed in TUNING_SEEDS]
    rates, tuning_seeds = zip(*pairs, strict=True)
    finals = _descend(tuning_seeds, norm, rates, job.steps, look=False)["loss"].nan_to_num(1e30, 1e30)
    best = int(finals.view(len(LINEAR_RATES), -1).mean(1).argmin())
    found = _descend(job.seeds, norm, [LINEAR_RATES[best]] * len(job.seeds), job.steps, look=True)
    edge = best in (0, len(LINEAR_RATES) - 1)
    result = []
    for i, seed in enumerate(job.seeds):
        metrics = {name: float(value[i]) for name, value in found.items()}
        metrics |= {"learning_rate": LINEAR_RATES[best], "tuning_incomplete": float(edge)}
        if all(torch.tensor(list(metrics.values())).isfinite()):
            result.append(Measurement(job.experiment, job.conditions, seed, metrics=metrics))
        else:
            message = f"at learning rate {LINEAR_RATES[best]:g}"
            result.append(Measurement(job.experiment, job.conditions, seed, "diverged", message=message))
    return result


def _descend(seeds: Sequence[int], norm: str, rates: Sequence[float], steps: int, *, look: bool) -> dict[str, Tensor]:
    draws = Draws(seeds)
    layers: list[nn.Module] = []
    for _ in range(LINEAR_LAYERS):
        layers += [
            Linear(draws, LINEAR_WIDTH, LINEAR_WIDTH, gain=1.0),
            feature_norm(norm, len(seeds), LINEAR_WIDTH),
        ]
    model = nn.Sequential(*layers)
    data = [torch.randn(LINEAR_CASES, LINEAR_WIDTH, generator=stream(seed, "cases")) for seed in seeds]
    maps = [torch.randn(LINEAR_WIDTH, LINEAR_WIDTH, generator=stream(seed, "map")) for seed in seeds]
    x = torch.stack(data)
    y = x @ torch.stack(maps)

    rate_of = torch.tensor(rates)

    def loss(outputs: Tensor) -> Tensor:
        return (outputs - y).square().sum(-1).mean(1)

    cosines, distances = [], []
    for step in range(steps):
        before = parameters_of(model)
        losses = loss(model(x))
        gradients = torch.autograd.grad(losses.sum(), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.sub_(rate_of.view(-1, *(1,) * (p.ndim - 1)) * g)
        if look and step % LOOK_EVERY == LOOK_EVERY - 1:
            cosine, distance = gradient_shift(model, before, parameters_of(model), x, loss, (10, 20, 30, 40))
            cosines.append(cosine.mean(0))
            distances.append(distance.mean(0))
    found = {"loss": loss(model(x)).detach(), "data_variance": y.square().sum(-1).mean(1)}
    if look:
        found |= {"cosine": torch.stack(cosines).mean(0), "gradient_change": torch.stack(distances).mean(0)}
    return found


def _digits(job: Job, norm: str) -> list[Measurement]:
    """Tuned as any cell; then trained once more at the rate that was chosen, and looked at every 10 steps."""
    cell = Cell(Study(deep_mlp(DEPTH, WIDTH, norm), flat_digits, Recipe(BATCH, job.steps), GRID), job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    if cell.chosen is not None:
        for name, values in _watch(job, norm, cell.chosen).items():
            for seed, value in zip(job.seeds, values.tolist(), strict=True):
                metrics[seed][name] = value
    return measurements(job, cell, metrics)


def _watch(job: Job, norm: str, rate: float) -> dict[str, Tensor]:
    model = deep_mlp(DEPTH, WIDTH, norm)(job.seeds)
    assert isinstance(model, nn.Sequential)
    data = stacked_data(flat_digits, job.seeds)
    optimizer = StackedOptimizer(model, [rate] * len(job.seeds), Recipe(BATCH, job.steps))
    linear, normed = [model[3 * i] for i in range(DEPTH)], [model[3 * i + 1] for i in range(DEPTH)]
    fixed = data.train.rows(torch.arange(200).expand(len(job.seeds), -1))[0][0]
    states: dict[str, list[list[Tensor]]] = {"before_norm": [], "after_norm": []}
    cosines = []
    for step, rows in zip(range(job.steps), batches(data.seeds, len(data.train), BATCH), strict=False):
        (x,), targets = data.train.rows(rows)

        def loss(outputs: Tensor, targets: Tensor = targets) -> Tensor:
            return cross_entropy(outputs, targets).mean(1)

        before = parameters_of(model)
        optimizer.zero_grad()
        loss(model.train()(x)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(step)
        if step % LOOK_EVERY == LOOK_EVERY - 1:
            layers = (6, 12, 18)  # the third, fifth and seventh linear layer
            cosines.append(gradient_shift(model, before, parameters_of(model), x, loss, layers)[0].mean(0))
            states["before_norm"].append(_values_of(model, linear, fixed))
            states["after_norm"].append(_values_of(model, normed, fixed))
    found = {"cosine": torch.stack(cosines).mean(0)}
    for place, values in states.items():
        pairs = list(pairwise(values))
        found[f"drift_{place}"] = torch.stack([drift(moments(a), moments(b)) for a, b in pairs]).mean(0)
        found[f"wasserstein_{place}"] = torch.stack([wasserstein(a, b) for a, b in pairs]).mean(0)
    return found


@torch.no_grad()
def _values_of(model: nn.Module, modules: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """In training mode, on a copy's running statistics, so that looking changes nothing."""
    kept = {name: b.clone() for name, b in model.named_buffers()}
    with looking_at(modules) as found:
        model(x)
    for name, b in model.named_buffers():
        b.copy_(kept[name])
    return found


class Noise(nn.Module):
    """a -> s·a + m: anew at each step a mean and spread for each unit, and about these m and s for each case.

    mu ~ U(-0.5, 0.5), sigma ~ U(1, 1.25); m ~ U(mu - 0.1, mu + 0.1), s ~ N(sigma, 0.1). In training only.
    Source: Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?", https://arxiv.org/abs/1805.11604
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self._streams = {seed: stream(seed, "noise") for seed in seeds}
        self._seeds = tuple(seeds)
        self.on = True

    def forward(self, a: Tensor) -> Tensor:
        if not self.training or not self.on:
            return a
        drawn = {seed: tuple(self._draw(g, a.shape[1], a.shape[2])) for seed, g in self._streams.items()}
        s, m = (torch.stack([drawn[seed][i] for seed in self._seeds]) for i in range(2))
        return s * a + m

    @staticmethod
    def _draw(g: torch.Generator, n: int, c: int) -> Iterator[Tensor]:
        mu, sigma = torch.rand(c, generator=g) - 0.5, 1 + 0.25 * torch.rand(c, generator=g)
        yield sigma + 0.1 * torch.randn(n, c, generator=g)
        yield mu + 0.2 * (torch.rand(n, c, generator=g) - 0.5)


def _noisy(job: Job, norm: str, noise: bool) -> list[Measurement]:
    build = deep_mlp(DEPTH, WIDTH, norm, between=Noise if noise else None)
    cell = Cell(Study(build, flat_digits, Recipe(BATCH, job.steps), GRID), job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    if cell.chosen is not None:  # the noise moved the running statistics: take them again without it
        stack = cell.at(cell.chosen)
        for module in stack.model.modules():
            if isinstance(module, Noise):
                module.on = False
        take_population_statistics(stack.model, stack.data.train)
        for seed, error in zip(job.seeds, evaluate(stack.model, stack.data.test)["error"].tolist(), strict=True):
            metrics[seed]["test_error_without_noise"] = error
    return measurements(job, cell, metrics)


def seconds(job: Job) -> float:
    if job.arm["network"] == "linear":
        return 1.6 * len(job.seeds)
    return 0.9 * (len(job.seeds) + 2)


EXPERIMENT = Experiment(
    "E12",
    "Internal covariate shift",
    "Does BatchNorm reduce internal covariate shift, and is that why it helps?",
    jobs,
    measure,
    seconds,
)
