"""Training a stack of networks: one loop, each replica with a seed and a learning rate of its own.

No operation mixes replicas, so that each is trained as it would be alone, and one that diverges leaves the others as
they are. What is saved is the overhead of an operation, which is nearly all the time of a small network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from normkit.claims.experiments._stacked_data import StackedData, StackedSplit, batches
from normkit.claims.experiments._stacked_norms import population_statistics
from normkit.lab.training import DIVERGED_NATS

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs [R, N, ...], targets [R, N, ...] -> [R, N]


PADDING = -100  # a target that is none

Order = Callable[[StackedData], Iterator[Tensor]]  # rows [S, B] of batch after batch, without end
Penalty = Callable[[nn.Module], Tensor]  # [R]


@dataclass(frozen=True)
class Recipe:
    """How to train: everything but the network, the data, the seeds and the learning rates."""

    batch_size: int
    steps: int
    optimizer: Literal["sgd", "adam"] = "sgd"  # SGD with momentum 0.9; Adam with its usual constants
    warmup: int = 0  # steps over which the learning rate rises linearly
    clip_norm: float | None = None  # largest norm of a replica's gradient
    validate_every: int = 0  # steps between looks at the validation data, the last after all steps; 0: none


@dataclass
class History:
    """What happened in each replica."""

    losses: Tensor  # [steps, R]
    diverged: Tensor  # [R]
    validations: list[tuple[int, Tensor]] = field(default_factory=list)  # steps done, mean loss [R]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, so that no sum depends on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[R, N, ...]: nats of each sample (or token); 0 where the target is PADDING."""
    flat = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def mean_of_known(values: Tensor, targets: Tensor) -> Tensor:
    """Each replica's mean [R] over all that is not padding."""
    known = targets.flatten(1) != PADDING
    return (values.flatten(1) * known).sum(1) / known.sum(1)


def train(
    model: nn.Module,
    data: StackedData,
    recipe: Recipe,
    learning_rates: Sequence[float],
    loss: Loss = cross_entropy,
    augment: Callable[[Tensor, int], Tensor] | None = None,
    order: Order | None = None,
    penalty: Penalty | None = None,
) -> History:
    """Trains each replica r at ``learning_rates[r]`` with a cosine schedule.

    Args:
        model: takes the inputs of a split [R, N, ...].
        data: of each replica.
        recipe: see there.
        learning_rates: the highest one of the schedule, one a replica.
        loss: of each sample.
        augment: (first input of a batch, step) -> another in its place.
        order: data -> rows [S, B] of batch after batch, without end; by default a new order each epoch.
        penalty: after a forward pass, what is added to each replica's loss; it is not in the history.
    """
    n_replicas = len(learning_rates)
    optimizer = StackedOptimizer(model, learning_rates, recipe)
    history = History(torch.full((recipe.steps, n_replicas), math.inf), torch.zeros(n_replicas, dtype=torch.bool))
    model.train()
    rows_of = batches(data.seeds, len(data.train), recipe.batch_size) if order is None else order(data)
    for step, rows in zip(range(recipe.steps), rows_of, strict=False):
        inputs, targets = data.train.rows(rows)
        if augment is not None:
            inputs = (augment(inputs[0], step), *inputs[1:])
        losses = mean_of_known(loss(model(*inputs), targets), targets)
        history.losses[step] = losses.detach()
        history.diverged |= ~(history.losses[step] < DIVERGED_NATS)
        if history.diverged.all():
            break
        optimizer.zero_grad()
        if penalty is not None:
            losses = losses + penalty(model)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(step)
        done = step + 1
        if recipe.validate_every and (done % recipe.validate_every == 0 or done == recipe.steps):
            history.validations.append((done, mean_loss(model, data.validation, loss)))
            model.train()
    return history


class StackedOptimizer:
    """SGD or Adam over all parameters at once, as one vector, with a learning rate for each replica."""

    def __init__(self, model: nn.Module, learning_rates: Sequence[float], recipe: Recipe) -> None:
        self.recipe = recipe
        self.parameters = list(model.parameters())
        rates = torch.tensor(learning_rates, dtype=self.parameters[0].dtype)
        with torch.no_grad():
            self.values = torch.cat([p.flatten() for p in self.parameters])
            self.rates = torch.cat([rates.repeat_interleave(p[0].numel()) for p in self.parameters])
            self.gradient = torch.zeros_like(self.values)
            sizes = [p.numel() for p in self.parameters]
            for p, value, gradient in zip(
                self.parameters, torch.split(self.values, sizes), torch.split(self.gradient, sizes), strict=True
            ):
                p.data = value.view_as(p)
                p.grad = gradient.view_as(p)
        self.first = torch.zeros_like(self.values)  # momentum; Adam's mean
        self.second = torch.zeros_like(self.values) if recipe.optimizer == "adam" else None

    def zero_grad(self) -> None:
        self.gradient.zero_()

    @torch.no_grad()
    def step(self, step: int) -> None:
        recipe = self.recipe
        if recipe.clip_norm is not None:
            self._clip(recipe.clip_norm)
        factor = 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) * min(1.0, (step + 1) / (recipe.warmup + 1))
        if self.second is None:
            self.first.mul_(0.9).add_(self.gradient)
            self.values.addcmul_(self.rates, self.first, value=-factor)
        else:
            self.first.lerp_(self.gradient, 0.1)
            self.second.mul_(0.999).addcmul_(self.gradient, self.gradient, value=0.001)
            root = self.second.div(1 - 0.999 ** (step + 1)).sqrt_().add_(1e-8)
            update = self.first / root
            self.values.addcmul_(self.rates, update, value=-factor / (1 - 0.9 ** (step + 1)))

    def _clip(self, largest: float) -> None:
        """As ``torch.nn.utils.clip_grad_norm_``, each replica by itself."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *(1,) * (g.ndim - 1)))


@torch.no_grad()
def mean_loss(model: nn.Module, split: StackedSplit, loss: Loss = cross_entropy) -> Tensor:
    """Each replica's mean loss [R] in evaluation mode."""
    return evaluate(model, split, loss)["nll"]


@torch.no_grad()
def evaluate(model: nn.Module, split: StackedSplit, loss: Loss = cross_entropy) -> dict[str, Tensor]:
    """Each replica's mean loss "nll" and, where targets are classes, "error" in per cent, [R], in evaluation mode."""
    model.eval()
    losses, wrong, known = [], [], []
    for inputs, targets in split.parts():
        outputs = model(*inputs)
        losses.append(loss(outputs, targets).flatten(1))
        known.append(targets.flatten(1))
        if not targets.is_floating_point():
            wrong.append((outputs.argmax(-1) != targets).flatten(1))
    targets = torch.cat(known, 1)
    found = {"nll": mean_of_known(torch.cat(losses, 1), targets)}
    if wrong:
        found["error"] = 100 * mean_of_known(torch.cat(wrong, 1), targets)
    return found


@torch.no_grad()
def take_population_statistics(model: nn.Module, split: StackedSplit) -> None:
    """Replaces running statistics with those of the whole training set; a network that has none stays as it is."""
    model.train()
    with population_statistics(model):
        model(*split.all()[0])
