"""E07: what a trained network loses between BatchNorm with the batch's statistics and with the running ones.

The same test images three ways: with the statistics of batches of the training size, with the running ones, with
those of the whole training set ("precise"; Wu & Johnson 2021). tid_mean and tid_spread are the distances between
running and batch statistics in units of the batch's spread (Wang et al. 2022). LayerNorm has no such difference.
distance_and_gap is the rank correlation, over the test batches, of a batch's own tid_mean with the size of its own gap;
0 where there is neither.

The gap has two signs. Small batches: their own statistics are the noisier ones, and the running ones do better. Few
steps and a small momentum: the running ones still remember where they started, and do worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import Arm, jobs_of
from normkit.claims.experiments._stacked_data import StackedSplit
from normkit.claims.experiments._stacked_models import Build, mlp
from normkit.claims.experiments._stacked_norms import BatchNorm
from normkit.claims.experiments._stacked_training import Recipe, cross_entropy, one_thread
from normkit.claims.experiments._stacked_tuning import Cell, Study, measurements, metrics_of

HIDDEN = (64, 64)
GRID = (0.01, 0.03, 0.1, 0.3)
TEST_CASES = 384  # a multiple of every batch size


def jobs(tier: Tier) -> Sequence[Job]:
    arms = {
        200: [_batch(4, 0.1), _batch(64, 0.1), _layer(64)],
        50: [_batch(64, 0.01), _batch(64, 0.1)],
    }
    more = {
        200: [_batch(b, m) for b in (2, 4, 16, 64) for m in (0.01, 0.1, 0.5) if (b, m) not in ((4, 0.1), (64, 0.1))],
        50: [_batch(64, 0.5)],
        1000: [_batch(64, m) for m in (0.01, 0.1, 0.5)],
    }
    found: list[Job] = []
    for steps in (200, 50, 1000):
        found += jobs_of(
            "E07",
            tier,
            [_for(steps, arm) for arm in arms.get(steps, [])],
            [_for(steps, arm) for arm in more[steps]],
            steps,
        )
    return found


def _for(steps: int, arm: Arm) -> Arm:
    return conditions(**dict(arm), steps=steps)


def _batch(batch: int, momentum: float) -> Arm:
    return conditions(batch=batch, momentum=momentum, norm="batch")


def _layer(batch: int) -> Arm:
    return conditions(batch=batch, momentum=0.0, norm="layer")


def measure(job: Job) -> list[Measurement]:
    batch, norm = int(job.arm["batch"]), str(job.arm["norm"])
    build = _with_momentum(mlp(HIDDEN, norm), float(job.arm["momentum"]))
    cell = Cell(Study(build, flat_digits, Recipe(batch, job.steps), GRID), job.seeds)
    found: dict[str, Tensor] = {}
    if cell.chosen is not None:
        stack = cell.at(cell.chosen)
        with one_thread():
            found = _discrepancy(stack.model, stack.data.test, batch)
    metrics = {seed: dict(own) for seed, own in metrics_of(cell).items()}
    if found:
        for i, seed in enumerate(job.seeds):
            own = {name: float(value[i]) for name, value in found.items()}
            own["lag"] = metrics[seed]["test_nll"] - metrics[seed]["test_nll_precise"]
            metrics[seed] |= own
    return measurements(job, cell, metrics)


def _with_momentum(build: Build, momentum: float) -> Build:
    def built(seeds: Sequence[int]) -> nn.Module:
        model = build(seeds)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = momentum
        return model

    return built


@torch.no_grad()
def _discrepancy(model: nn.Module, test: StackedSplit, batch: int) -> dict[str, Tensor]:
    """The same cases in both modes, and the distance of the statistics; each [R]."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    (x,), targets = test.rows(torch.arange(TEST_CASES).expand(test.targets.shape[0], -1))
    running = cross_entropy(model.eval()(x), targets)
    seen: list[Tensor] = []
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for norm in norms]
    by_batch = []
    for part in torch.split(x, batch, dim=1):
        by_batch.append(model.train()(part))
    for hook in hooks:
        hook.remove()
    model.load_state_dict(kept)
    own = cross_entropy(torch.cat(by_batch, 1), targets)
    gap = (running - own).mean(1)
    means, spreads = [], []
    for i, inputs in enumerate(seen):
        norm = norms[i % len(norms)]
        spread, mean = torch.std_mean(inputs, 1, correction=0)
        spread = (spread.square() + norm.eps).sqrt()
        means.append(((norm.running_mean - mean).abs() / spread).mean(1))
        spreads.append(((norm.running_var + norm.eps).sqrt() / spread - 1).abs().mean(1))
    found = {"gap": gap, "gap_size": gap.abs()}
    if not norms:
        none = torch.zeros_like(gap)
        return {**found, "tid_mean": none, "tid_spread": none, "distance_and_gap": none}
    by_norm = torch.stack(means).view(-1, len(norms), len(gap))  # [batches, norms, R]
    gaps = (running - own).view(len(gap), -1, batch).mean(2).abs()  # [R, batches]
    return {
        **found,
        "tid_mean": by_norm.mean((0, 1)),
        "tid_spread": torch.stack(spreads).mean(0),
        "distance_and_gap": rank_correlation(by_norm.mean(1).T, gaps),
    }


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, of each row of [R, n] with n values that all differ: [R].

    Example:
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[7.0, 3.0, 1.0]]))
        tensor([-1.])
    """
    ranks = [values.argsort(1).argsort(1).to(a.dtype) for values in (a, b)]
    x, y = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return (x * y).sum(1) / x.square().sum(1)


EXPERIMENT = Experiment(
    "E07",
    "Training statistics against running ones",
    "How much does a trained network change when BatchNorm goes from the batch's statistics to the running ones?",
    jobs,
    measure,
    seconds=lambda job: 0.0007 * job.steps * (len(job.seeds) + 2) + 1.0,
)
