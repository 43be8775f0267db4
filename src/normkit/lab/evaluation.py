"""How good a trained model is: plainly, and for norms with running statistics under other statistics too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normkit.lab.data import stream
from normkit.lab.records import RunSpec
from normkit.lab.task import Data, Split, share_right

Measure = Callable[[Tensor, Tensor], Tensor]  # outputs, targets -> a number

# Samples from which statistics are recomputed, and samples evaluated at once: bounds the memory, no more.
RECOMPUTE_LIMIT = 4096
CHUNK = 1024


def evaluate_model(
    model: nn.Module, loss: Measure, data: Data, spec: RunSpec, accuracy: Measure = share_right
) -> tuple[dict[str, float], dict[str, int]]:
    """All metrics of a trained model that its role allows, and how many samples statistics were taken over."""
    model.eval()
    metrics = _named("val", "", score(model, loss, data.validation, accuracy=accuracy))
    if spec.role == "tune":
        return metrics, {}
    metrics |= _named("test", "", score(model, loss, data.test, accuracy=accuracy))
    if not with_running_statistics(model):
        return metrics, {}
    # Neighbours share statistics here, and a test set may come sorted by class.
    test = _mixed(data.test, spec.seed)
    with batch_statistics(model):
        metrics |= _named("test", "_batch", score(model, loss, test, chunk=spec.batch_size, accuracy=accuracy))
    training = _mixed(data.train, spec.seed, RECOMPUTE_LIMIT)
    with recomputed_statistics(model, training):
        metrics |= _named("test", "_recomputed", score(model, loss, data.test, accuracy=accuracy))
    return metrics, {"batch_statistics_over": min(spec.batch_size, len(test)), "recomputed_over": len(training)}


def score(
    model: nn.Module, loss: Measure, split: Split, chunk: int = CHUNK, accuracy: Measure = share_right
) -> tuple[float, float]:
    """Mean NLL and accuracy of a model, ``chunk`` samples at once.

    Every chunk is full, so that batch statistics always see as many samples: the last one reaches back
    to samples already counted, which do not count again.
    """
    n = len(split)
    outputs = []
    with torch.no_grad():
        for start in range(0, n, chunk):
            first = max(min(start, n - chunk), 0)
            rows = slice(first, first + chunk)
            outputs.append(model(*(x[rows] for x in split.inputs))[start - first :])
        whole = torch.cat(outputs)
        return loss(whole, split.targets).item(), accuracy(whole, split.targets).item()


def with_running_statistics(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that normalize by running statistics in evaluation."""
    return [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within: those layers use the statistics of the batch at hand, all else evaluates. After: as before."""
    norms = with_running_statistics(model)
    with _restored(norms):
        for norm in norms:
            norm.train()
        yield


@contextmanager
def recomputed_statistics(model: nn.Module, training: Split) -> Iterator[None]:
    """Within: running statistics are those of the training data under the final weights. After: as before.

    They pass as one batch, so that the statistics of every layer are exact given those of the layers below.
    """
    norms = with_running_statistics(model)
    with _restored(norms):
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # type: ignore[assignment]
        with torch.no_grad():
            model(*training.inputs)
        for norm in norms:
            norm.eval()
        yield


@contextmanager
def _restored(norms: list[nn.Module]) -> Iterator[None]:
    saved = [
        (norm, norm.training, norm.momentum, {name: b.clone() for name, b in norm.named_buffers()}) for norm in norms
    ]
    try:
        yield
    finally:
        for norm, training, momentum, buffers in saved:
            norm.train(training)
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


def _mixed(split: Split, seed: int, at_most: int | None = None) -> Split:
    order = torch.randperm(len(split), generator=stream(seed, "evaluation"))[:at_most]
    return Split(tuple(x[order] for x in split.inputs), split.targets[order])


def _named(data: str, statistics: str, scores: tuple[float, float]) -> dict[str, float]:
    return {f"{data}_{name}{statistics}": value for name, value in zip(("nll", "accuracy"), scores, strict=True)}
