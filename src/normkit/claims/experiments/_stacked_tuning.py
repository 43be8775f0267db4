"""A cell of an experiment: a network tuned for itself, then measured at the learning rate that was chosen.

The learning rate is chosen by the mean validation loss of tuning seeds (1000, 1001, ...), which are used for nothing
else; a run that diverged has infinite loss. The grid grows where the best is at an edge, at most twice. The
evaluation seeds are trained at every learning rate beside them, since a stack costs hardly more: their validation
losses, not used for the choice, make the page's curves. The test data is looked at once, at the chosen learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Job, Measurement
from normkit.claims.experiments._stacked_data import StackedData, stacked_data
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_training import (
    History,
    Loss,
    Order,
    Recipe,
    cross_entropy,
    evaluate,
    one_thread,
    pick,
    take_population_statistics,
    train,
)
from normkit.lab.task import Data
from normkit.lab.tuning import TUNING_SEEDS_FROM, Tuning, tune

CURVE_POINTS = 40


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


@dataclass(frozen=True)
class Round:
    """Every seed at some learning rates, trained as one stack."""

    model: nn.Module
    data: StackedData
    history: History
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    validation: tuple[float, ...]  # mean loss of each replica, infinite where it diverged

    def replica(self, seed: int, learning_rate: float) -> int:
        return list(zip(self.seeds, self.learning_rates, strict=True)).index((seed, learning_rate))


class Cell:
    """A study for some evaluation seeds, tuned."""

    def __init__(self, study: Study, seeds: Sequence[int]) -> None:
        self.study, self.seeds = study, tuple(seeds)
        self.tuning_seeds = tuple(TUNING_SEEDS_FROM + i for i in range(study.n_tuning_seeds))
        self._round_of: dict[float, Round] = {}
        with one_thread():
            self.tuning = self._tune()

    @property
    def chosen(self) -> float | None:
        """The learning rate; None if all diverged."""
        return self.tuning.chosen

    def validation(self, seed: int) -> dict[float, float]:
        """Learning rate -> validation loss of a seed, infinite where it diverged."""
        return {
            rate: self._round_of[rate].validation[self._round_of[rate].replica(seed, rate)]
            for rate in sorted(self._round_of)
        }

    def at(self, learning_rate: float, seed: int) -> tuple[Round, int]:
        """The stack, and the replica in it, of that learning rate and seed."""
        found = self._round_of[learning_rate]
        return found, found.replica(seed, learning_rate)

    def final(self, seeds: Sequence[int] | None = None) -> tuple[nn.Module, StackedData]:
        """The networks of the evaluation seeds at the chosen learning rate, and their data."""
        assert self.chosen is not None
        seeds = self.seeds if seeds is None else seeds
        found = self._round_of[self.chosen]
        replicas = [found.replica(seed, self.chosen) for seed in seeds]
        return pick(self.study.build(seeds), found.model, replicas), stacked_data(self.study.data, seeds)

    def _tune(self) -> Tuning:
        while True:
            losses = {
                rate: [found.validation[found.replica(seed, rate)] for seed in self.tuning_seeds]
                for rate, found in self._round_of.items()
            }
            tuning = tune(self.study.grid, losses, len(self.tuning_seeds))
            if not tuning.missing:
                return tuning
            found = self._train(tuning.missing)
            self._round_of.update(dict.fromkeys(tuning.missing, found))

    def _train(self, learning_rates: Sequence[float]) -> Round:
        pairs = [(seed, rate) for rate in learning_rates for seed in (*self.tuning_seeds, *self.seeds)]
        seeds, rates = zip(*pairs, strict=True)
        study = self.study
        model = study.build(seeds)
        data = stacked_data(study.data, seeds)
        history = train(model, data, study.recipe, rates, study.loss, study.augment, study.order)
        losses = evaluate(model, data.validation, study.loss)["nll"]
        finite = ~history.diverged & losses.isfinite()
        validation = torch.where(finite, losses.double(), math.inf)
        return Round(model, data, history, seeds, rates, tuple(validation.tolist()))


def measure_cell(job: Job, study: Study) -> list[Measurement]:
    """The usual measurement: a tuned network on its test data.

    Metrics: test_nll, test_error (with running statistics), test_nll_precise, test_error_precise (with those of the
    training set), val_nll, train_nll (mean of the last tenth of the steps), learning_rate,
    tuning_incomplete (1 if the best learning rate is at an edge of the grid that grew twice), share_diverged (of all
    runs).
    Series: the loss over the steps, and the validation loss over the learning rates.
    """
    cell = Cell(study, job.seeds)
    return measurements(job, cell, metrics_of(cell))


def metrics_of(cell: Cell) -> Mapping[int, dict[str, float]]:
    """The metrics of each evaluation seed at the chosen learning rate, some perhaps not finite."""
    if cell.chosen is None:
        return {seed: {} for seed in cell.seeds}
    with one_thread():
        model, data = cell.final()
        found = {f"test_{name}": value for name, value in evaluate(model, data.test, cell.study.loss).items()}
        take_population_statistics(model, data.train)
        precise = evaluate(model, data.test, cell.study.loss)
        found |= {f"test_{name}_precise": value for name, value in precise.items()}
    return {seed: {name: float(value[i]) for name, value in found.items()} for i, seed in enumerate(cell.seeds)}


def measurements(job: Job, cell: Cell, metrics: Mapping[int, Mapping[str, float]]) -> list[Measurement]:
    """One measurement a seed, "diverged" where the run at the chosen learning rate did, or a metric is not finite."""
    return [_measurement(job, cell, seed, metrics[seed]) for seed in job.seeds]


def _measurement(job: Job, cell: Cell, seed: int, metrics: Mapping[str, float]) -> Measurement:
    validation = cell.validation(seed)
    finite = {rate: loss for rate, loss in validation.items() if math.isfinite(loss)}
    series = {"learning_rates": tuple(finite), "val_nll_by_learning_rate": tuple(finite.values())}
    if cell.chosen is None:
        return _diverged(job, seed, series, "every learning rate diverged for some tuning seed")
    found, replica = cell.at(cell.chosen, seed)
    losses = found.history.losses[:, replica]
    if cell.chosen not in finite or not all(map(math.isfinite, metrics.values())):
        return _diverged(job, seed, series, f"at learning rate {cell.chosen:g}, the best of the tuning seeds")
    all_losses = [loss for s in (*cell.tuning_seeds, *cell.seeds) for loss in cell.validation(s).values()]
    own = {
        "val_nll": finite[cell.chosen],
        "train_nll": float(losses[-max(1, len(losses) // 10) :].mean()),
        "learning_rate": cell.chosen,
        "tuning_incomplete": float(not cell.tuning.complete),
        "share_diverged": sum(not math.isfinite(loss) for loss in all_losses) / len(all_losses),
        "steps": float(len(losses)),
    }
    steps, smooth = curve(losses)
    series |= {"steps": steps, "train_loss": smooth}
    return Measurement(job.experiment, job.conditions, seed, metrics={**own, **metrics}, series=series)


def _diverged(job: Job, seed: int, series: Mapping[str, tuple[float, ...]], message: str) -> Measurement:
    return Measurement(job.experiment, job.conditions, seed, "diverged", series=series, message=message)


def curve(losses: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The steps and the mean losses of stretches of equal length, up to the first that is not finite."""
    length = math.ceil(len(losses) / CURVE_POINTS)
    means = [float(stretch.mean()) for stretch in torch.split(losses, length)]
    n = next((i for i, mean in enumerate(means) if not math.isfinite(mean)), len(means))
    return tuple(float(min((i + 1) * length, len(losses))) for i in range(n)), tuple(means[:n])
