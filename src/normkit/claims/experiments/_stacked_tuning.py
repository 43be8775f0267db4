"""A cell of an experiment: a network tuned for itself, then measured at the learning rate that was chosen.

The learning rate is chosen by the mean validation loss of tuning seeds (1000, 1001, ...), which are used for nothing
else; a run that diverged has infinite loss. The grid grows where the best is at an edge, at most twice. Only then the
evaluation seeds are trained, at that learning rate, and the test data is looked at, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from normkit.claims.experiment import UNDEFINED, Job, Measurement, Tier
from normkit.claims.experiments._stacked_data import StackedData, stacked_data
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_training import (
    History,
    Loss,
    Order,
    Penalty,
    Recipe,
    cross_entropy,
    evaluate,
    one_thread,
    take_population_statistics,
    train,
)
from normkit.lab.task import Data
from normkit.lab.tuning import TUNING_SEEDS_FROM, Tuning, mean_loss, tune

CURVE_POINTS = 40
LEARNED_BELOW = 0.9  # of the loss of guessing
EVALUATION_SEEDS: Mapping[Tier, tuple[int, ...]] = {
    "instant": (),
    "quick": tuple(range(200, 205)),
    "full": tuple(range(200, 212)),
}


@dataclass(frozen=True)
class Study:
    """What a cell trains."""

    build: Build
    data: Callable[[int], Data]
    recipe: Recipe
    grid: tuple[float, ...]
    loss: Loss = cross_entropy
    n_tuning_seeds: int = 2
    augment: Callable[[Tensor, int], Tensor] | None = None
    order: Order | None = None
    penalty: Penalty | None = None


@dataclass(frozen=True)
class Stack:
    """Networks of some seeds at some learning rates, trained."""

    model: nn.Module
    data: StackedData
    history: History
    seeds: tuple[int, ...]
    validation: tuple[float, ...]  # mean loss of each replica, infinite where it diverged


def is_full(job: Job) -> bool:
    """Whether a job is of the full tier, where grids are finer and more seeds tune."""
    return len(job.seeds) > len(EVALUATION_SEEDS["quick"])


def half_decades(first: float, n: int) -> tuple[float, ...]:
    """n learning rates from the first on, each about √10 times the one before.

    Example:
        >>> half_decades(0.03, 4)
        (0.03, 0.1, 0.3, 1.0)
    """
    start = round(2 * math.log10(first))  # in half decades, from 1 on
    return tuple(float(f"{(1, 3)[place % 2] * 10.0 ** (place // 2):.6g}") for place in range(start, start + n))


class Cell:
    """A study, tuned for itself, and its evaluation seeds at whatever learning rate is asked for."""

    def __init__(self, study: Study, seeds: Sequence[int]) -> None:
        self.study, self.seeds = study, tuple(seeds)
        self.tuning_losses: dict[float, list[float]] = {}  # learning rate -> validation loss of each tuning seed
        self._evaluated: dict[float, Stack] = {}
        self.tuning = self._tune()

    @property
    def chosen(self) -> float | None:
        """The learning rate; None if all diverged."""
        return self.tuning.chosen

    def at(self, learning_rate: float) -> Stack:
        """The evaluation seeds, in their order, trained at a learning rate."""
        if learning_rate not in self._evaluated:
            self._evaluated[learning_rate] = _trained(self.study, self.seeds, (learning_rate,) * len(self.seeds))
        return self._evaluated[learning_rate]

    def _tune(self) -> Tuning:
        study = replace(self.study, recipe=replace(self.study.recipe, validate_every=0))  # looks cost time, no more
        seeds = tuple(TUNING_SEEDS_FROM + i for i in range(study.n_tuning_seeds))
        while True:
            tuning = tune(study.grid, self.tuning_losses, len(seeds))
            if not tuning.missing:
                return tuning
            rates = [rate for rate in tuning.missing for _ in seeds]
            losses = _trained(study, seeds * len(tuning.missing), rates).validation
            for i, rate in enumerate(tuning.missing):
                self.tuning_losses[rate] = list(losses[i * len(seeds) : (i + 1) * len(seeds)])


def _trained(study: Study, seeds: Sequence[int], learning_rates: Sequence[float]) -> Stack:
    with one_thread():
        model = study.build(seeds)
        data = stacked_data(study.data, seeds)
        history = train(
            model, data, study.recipe, learning_rates, study.loss, study.augment, study.order, study.penalty
        )
        losses = evaluate(model, data.validation, study.loss)["nll"]
    finite = ~history.diverged & losses.isfinite()
    validation = torch.where(finite, losses.double(), math.inf)
    return Stack(model, data, history, tuple(seeds), tuple(validation.tolist()))


def measure_cell(job: Job, study: Study) -> list[Measurement]:
    """The usual measurement: a tuned network on its test data.

    Metrics: test_nll, test_error (with running statistics), test_nll_precise, test_error_precise (with those of the
    training set), val_nll, train_nll (mean of the last tenth of the steps), learning_rate, not_learned (see there),
    tuning_incomplete (1 if the best learning rate is at an edge of the grid that grew twice), share_of_rates_diverged,
    steps.
    Series: the loss over the steps; each tuning seed's validation loss ("val_nll_of_1000") over the learning rates that
    were tried, ``UNDEFINED`` where it diverged.
    """
    cell = Cell(study, job.seeds)
    return measurements(job, cell, metrics_of(cell))


def metrics_of(cell: Cell) -> Mapping[int, dict[str, float]]:
    """What the test data says of each evaluation seed at the chosen learning rate; perhaps not finite.

    The networks are left as they were, so that a cell may be asked again.
    """
    if cell.chosen is None:
        return {seed: {} for seed in cell.seeds}
    stack = cell.at(cell.chosen)
    with one_thread():
        found = {
            f"test_{name}": value for name, value in evaluate(stack.model, stack.data.test, cell.study.loss).items()
        }
        kept = {name: value.clone() for name, value in stack.model.state_dict().items()}
        take_population_statistics(stack.model, stack.data.train)
        precise = evaluate(stack.model, stack.data.test, cell.study.loss)
        stack.model.load_state_dict(kept)
        found |= {f"test_{name}_precise": value for name, value in precise.items()}
    return {seed: {name: float(value[i]) for name, value in found.items()} for i, seed in enumerate(cell.seeds)}


def measurements(job: Job, cell: Cell, metrics: Mapping[int, Mapping[str, float]]) -> list[Measurement]:
    """One measurement a seed, "diverged" where the run at the chosen learning rate did, or a metric is not finite."""
    tried = sorted(cell.tuning_losses)
    n_diverged = sum(not math.isfinite(mean_loss(cell.tuning_losses[rate])) for rate in tried)
    tuning = {"learning_rates": tuple(tried)}
    for i in range(cell.study.n_tuning_seeds):
        losses_of = (cell.tuning_losses[rate][i] for rate in tried)
        tuning[f"val_nll_of_{TUNING_SEEDS_FROM + i}"] = tuple(x if math.isfinite(x) else UNDEFINED for x in losses_of)
    found = []
    for i, seed in enumerate(job.seeds):
        if cell.chosen is None:
            message = "some tuning seed diverged at every learning rate"
            found.append(Measurement(job.experiment, job.conditions, seed, "diverged", series=tuning, message=message))
            continue
        stack = cell.at(cell.chosen)
        losses = stack.history.losses[:, i]
        steps, smooth = curve(losses)
        series = {**tuning, "steps": steps, "train_loss": smooth}
        if not all(map(math.isfinite, (stack.validation[i], *metrics[seed].values()))):
            message = f"at learning rate {cell.chosen:g}, the best of the tuning seeds"
            found.append(Measurement(job.experiment, job.conditions, seed, "diverged", series=series, message=message))
            continue
        own = {
            "val_nll": stack.validation[i],
            "train_nll": float(losses[-max(1, len(losses) // 10) :].mean()),
            "learning_rate": cell.chosen,
            **not_learned(stack.validation[i], stack.data.train.targets),
            "tuning_incomplete": float(not cell.tuning.complete),
            "share_of_rates_diverged": n_diverged / len(tried),
            "steps": float(len(losses)),
        }
        found.append(Measurement(job.experiment, job.conditions, seed, metrics={**own, **metrics[seed]}, series=series))
    return found


def not_learned(loss: float, targets: Tensor) -> dict[str, float]:
    """not_learned: 1 if a loss is no better than 0.9 times that of guessing.

    Targets that are numbers have a squared error for a loss, and who guesses says their mean.

    Example:
        >>> not_learned(2.2, torch.arange(10)), not_learned(0.3, torch.arange(10))
        ({'not_learned': 1.0}, {'not_learned': 0.0})
        >>> not_learned(0.24, torch.tensor([0.0, 1.0])), not_learned(0.1, torch.tensor([0.0, 1.0]))
        ({'not_learned': 1.0}, {'not_learned': 0.0})
    """
    by_guessing = (
        float(targets.double().var(correction=0)) if targets.is_floating_point() else math.log(int(targets.max()) + 1)
    )
    return {"not_learned": float(loss > LEARNED_BELOW * by_guessing)}


def curve(losses: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The steps and the mean losses of stretches of equal length, up to the first that is not finite."""
    length = math.ceil(len(losses) / CURVE_POINTS)
    means = [float(stretch.mean()) for stretch in torch.split(losses, length)]
    n = next((i for i, mean in enumerate(means) if not math.isfinite(mean)), len(means))
    return tuple(float(min((i + 1) * length, len(losses))) for i in range(n)), tuple(means[:n])
