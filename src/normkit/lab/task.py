"""A task: data, a model built from a norm factory, and how to train it. It reads like a definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from normkit.lab.norms import NormFactory

# A batch of inputs: the positional arguments of the model. Every tensor has the sample axis first.
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Split:
    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return int(self.targets.shape[0])


@dataclass(frozen=True)
class Data:
    train: Split
    validation: Split
    test: Split


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood of the targets under softmax(outputs), in nats."""
    return torch.nn.functional.cross_entropy(outputs, targets)


@dataclass(frozen=True)
class Task:
    """One comparison task.

    Args:
        name: what the table and the report call it.
        description: one sentence for the report.
        data: seed -> Data. The seed decides the split; the same seed gives every norm the same data.
        build: norm factory -> model. The factory makes the normalization layers, so that a task never
            names a class; the model takes ``*inputs`` and returns logits [N, classes].
        steps: training steps for a batch size.
        norms, batch_sizes, learning_rates: what is compared unless the caller says otherwise.
        optimizer: "sgd" is SGD with momentum 0.9; "adam" is Adam with torch's defaults. Both with cosine
            decay to zero and gradient norm clipped at ``clip_norm`` where that is given.
        loss: outputs, targets -> mean negative log likelihood.
    """

    name: str
    description: str
    data: Callable[[int], Data]
    build: Callable[[NormFactory], nn.Module]
    steps: Callable[[int], int]
    norms: tuple[str, ...] = ("none", "batch", "layer", "rms", "group")
    batch_sizes: tuple[int, ...] = (2, 16, 128)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    optimizer: Literal["sgd", "adam"] = "adam"
    clip_norm: float | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
