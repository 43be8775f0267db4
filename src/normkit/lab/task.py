"""A task: data, a model built from a norm factory, and how to train it. It reads like a definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from normkit.errors import ArgumentError
from normkit.lab.norms import NormFactory, nearest, norm_factory, one_of

# A batch of inputs: the positional arguments of the model. Every tensor has the sample axis first.
Inputs = tuple[Tensor, ...]
Optimizer = Literal["sgd", "adam"]


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

    def map(self, f: Callable[..., Inputs]) -> Data:
        """The same data with other inputs: ``f(*inputs)`` of each part.

        Example:
            >>> part = Split((torch.zeros(3, 8, 8),), torch.zeros(3, dtype=torch.int64))
            >>> Data(part, part, part).map(lambda image: (image.flatten(1),)).test.inputs[0].shape
            torch.Size([3, 64])
        """
        parts = (self.train, self.validation, self.test)
        return Data(*(Split(f(*part.inputs), part.targets) for part in parts))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood of the targets under softmax(outputs), in nats."""
    return torch.nn.functional.cross_entropy(outputs, targets)


def share_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose target is the likeliest class."""
    return (outputs.argmax(dim=1) == targets).double().mean()


@dataclass(frozen=True)
class Task:
    """One comparison task.

    Args:
        name: what the table and the report call it.
        description: one sentence for the report.
        data: seed -> Data. The seed decides the split; the same seed gives every norm the same data.
        build: norm factory -> model. The factory makes the normalization layers, so that a task never
            names a class; the model takes ``*inputs`` and returns [N, outputs]: logits of classes, unless
            ``loss`` and ``accuracy`` read them otherwise.
        steps: training steps for a batch size.
        norms, batch_sizes, learning_rates: what is compared unless the caller says otherwise.
        optimizer: "sgd" is SGD with momentum 0.9; "adam" is Adam with torch's defaults. Both with cosine
            decay to zero and gradient norm clipped at ``clip_norm`` where that is given.
        loss: outputs, targets -> mean negative log likelihood.
        accuracy: outputs, targets -> share that counts as right.

    Raises:
        ArgumentError: for an unknown norm or optimizer, for nothing to compare, and for a batch size or a
            learning rate that is not positive.

    Example:
        >>> from normkit.lab.data import digits
        >>> Task(
        ...     name="linear",
        ...     description="A linear layer reads digits.",
        ...     data=lambda seed: digits(seed).map(lambda image: (image.flatten(1),)),
        ...     build=lambda norm: nn.Sequential(norm.features(64), nn.Linear(64, 10)),
        ...     steps=lambda batch_size: 100,
        ... ).batch_sizes
        (2, 16, 128)
    """

    name: str
    description: str
    data: Callable[[int], Data]
    build: Callable[[NormFactory], nn.Module]
    steps: Callable[[int], int]
    norms: tuple[str, ...] = ("none", "batch", "layer", "rms", "group")
    batch_sizes: tuple[int, ...] = (2, 16, 128)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    optimizer: Optimizer = "adam"
    clip_norm: float | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    accuracy: Callable[[Tensor, Tensor], Tensor] = share_right

    def __post_init__(self) -> None:
        for name in ("name", "description"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.isprintable() or not (value or name == "description"):
                raise ArgumentError(f"Task: expected {name} to be a line of text, got {value!a}; write one.")
        for name in ("data", "build", "steps", "loss", "accuracy"):
            if not callable(getattr(self, name)):
                raise ArgumentError(
                    f"Task: expected {name} to be a function, got {getattr(self, name)!r}; a lambda will do."
                )
        for name in ("norms", "batch_sizes", "learning_rates"):
            if isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ArgumentError(
                    f"Task: expected a tuple of {name}, got {getattr(self, name)!r}; name at least one."
                )
        for norm in self.norms:
            norm_factory(norm)
        for size in self.batch_sizes:
            if size < 1:
                raise ArgumentError(f"Task: expected batch sizes of 1 and more, got {size}; leave it out.")
        for rate in self.learning_rates:
            if not rate > 0:
                raise ArgumentError(f"Task: expected learning rates above 0, got {rate}; leave it out.")
        if self.optimizer not in get_args(Optimizer):
            known = get_args(Optimizer)
            hint = nearest(str(self.optimizer), known)
            raise ArgumentError(f"Task: expected optimizer {one_of(known)}, got {self.optimizer!r}{hint}")
