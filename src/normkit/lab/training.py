"""One training run, as a function of its spec: the same spec gives the same metrics, whatever ran before."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from normkit.errors import ArgumentError, SingleValueError, TaskError
from normkit.lab.data import stream
from normkit.lab.evaluation import evaluate_model
from normkit.lab.loading import blame, load_task, place_of, task_hash
from normkit.lab.norms import norm_factory
from normkit.lab.provenance import environment, timestamp
from normkit.lab.records import RunRecord, RunSpec, Status
from normkit.lab.task import Data, Split, Task

CURVE_POINTS = 50
DIVERGED_NATS = 1e4  # no network that can still learn is so sure and so wrong
WARMUP_STEPS = 5  # the first steps pay for allocations and lazy set-up: not timed


class BatchSizeError(ArgumentError):
    """A batch is larger than the training data."""


@dataclass
class Training:
    """What a training loop leaves behind, also when it is cut short."""

    losses: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    epochs: float = 0.0
    diverged_at: float | None = None  # the loss that ended it


def run(spec: RunSpec) -> RunRecord:
    """Trains and evaluates one network. Whatever happens in the task becomes a record, never an error.

    The seed decides the split, the initial weights and the order of the batches, each by a random stream of
    its own, so that every norm gets the same of all three. Role "tune" looks at the validation data only;
    role "evaluate" also at the test data. One thread, so that no sum depends on the number of cores.

    The status is "diverged" if a loss was not finite, or beyond DIVERGED_NATS, or if a metric was not finite;
    "impossible" if the norm cannot do this at all (one value per channel, say); "failed" if the task raised.
    The message says why, and where in the task's file.
    """
    started = time.perf_counter()
    provenance: dict[str, Any] = {**environment(), "threads": 1, "started_at": timestamp()}
    training = Training()
    metrics: dict[str, float] = {}
    place = ""
    try:
        with _one_thread_own_random_numbers():
            task, data, model = _prepare(spec)
            place = f"{place_of(task.build)}, in the model that build returned"
            provenance["parameters"] = sum(p.numel() for p in model.parameters())
            _train(model, task, data.train, spec, training)
            if training.diverged_at is None:
                metrics, how = evaluate_model(model, task.loss, data, spec, task.accuracy)
                provenance.update(how)
        status, message = _outcome(training, metrics)
    except (SingleValueError, BatchSizeError) as error:
        status, message = "impossible", blame(error, spec.task, place)
    except Exception as error:
        status, message = "failed", blame(error, spec.task, place)
    return RunRecord(
        spec=spec,
        status=status,
        message=message,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)} if status == "done" else {},
        curve=_curve(training.losses),
        steps_done=len(training.losses),
        epochs=training.epochs,
        ms_per_step=_median_ms(training),
        wall_s=time.perf_counter() - started,
        provenance=provenance,
    )


@contextmanager
def _one_thread_own_random_numbers() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def _prepare(spec: RunSpec) -> tuple[Task, Data, nn.Module]:
    task = _task(spec.task, spec.task_hash)
    data = _data(spec.task, spec.task_hash, spec.seed)
    norm = norm_factory(spec.norm)
    torch.manual_seed(spec.seed)  # here, so that what loading drew, or did not draw, leaves the weights alone
    model = task.build(norm)
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"{place_of(task.build)}: expected build to return a torch.nn.Module, got {type(model).__name__}; "
            "return the model."
        )
    return task, data, model


@lru_cache(maxsize=16)
def _task(text: str, expected_hash: str) -> Task:
    if task_hash(text) != expected_hash:
        raise TaskError(
            f"{text}: expected the task, the normkit and the torch that this run was planned for, got others, "
            "edited since or on another machine; make them the same and start again."
        )
    return load_task(text)


@lru_cache(maxsize=8)
def _data(text: str, expected_hash: str, seed: int) -> Data:
    task = _task(text, expected_hash)
    data = task.data(seed)
    if not isinstance(data, Data):
        raise ArgumentError(
            f"{place_of(task.data)}: expected data to return a normkit.lab.Data, got {type(data).__name__}; return one."
        )
    return data


def _train(model: nn.Module, task: Task, split: Split, spec: RunSpec, training: Training) -> None:
    optimizer = _optimizer(task, model)
    model.train()
    for step, rows in zip(range(spec.steps), _batches(len(split), spec.batch_size, spec.seed), strict=False):
        started = time.perf_counter()
        targets = split.targets[rows]
        loss = task.loss(_logits(model(*(x[rows] for x in split.inputs)), targets), targets)
        value = loss.item()
        if not value < DIVERGED_NATS:
            training.diverged_at = value
            return
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if task.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
        optimizer.step()
        training.times_ms.append(1e3 * (time.perf_counter() - started))
        training.losses.append(value)
        training.epochs = len(training.losses) * spec.batch_size / len(split)


def _optimizer(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    """The task's optimizer; the loop sets its learning rate. Fused: one call for all parameters."""
    if task.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), fused=True)
    return torch.optim.SGD(model.parameters(), momentum=0.9, fused=True)


def _batches(n: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Rows of batch after batch, in a new order each epoch; what does not fill a batch waits for the next."""
    if batch_size > n:
        raise BatchSizeError(
            f"batch size: expected at most the {n} samples there are to train on, got {batch_size}; use less."
        )
    generator = stream(seed, "order")
    while True:
        yield from torch.split(torch.randperm(n, generator=generator)[: n - n % batch_size], batch_size)


def _logits(outputs: Any, targets: Tensor) -> Tensor:
    """The outputs of a model, once they have the form that the metrics need."""
    if not isinstance(outputs, Tensor):
        raise ArgumentError(f"model: expected logits as one tensor, got {type(outputs).__name__}.")
    if outputs.ndim != 2 or outputs.shape[0] != targets.shape[0]:
        raise ArgumentError(
            f"model: expected logits [{targets.shape[0]}, classes], got {list(outputs.shape)}; reshape the output."
        )
    return outputs


def _outcome(training: Training, metrics: dict[str, float]) -> tuple[Status, str]:
    if training.diverged_at is not None:
        return "diverged", f"the training loss was {training.diverged_at:.1e} nats at step {len(training.losses) + 1}"
    wild = [name for name in ("val_nll", "test_nll") if not math.isfinite(metrics.get(name, 0.0))]
    if wild:
        return "diverged", f"after the last step {wild[0]} was not finite"
    return "done", ""


def _curve(losses: list[float]) -> tuple[tuple[int, float], ...]:
    """Mean loss over stretches of equal length, at the last step of each."""
    length = max(1, math.ceil(len(losses) / CURVE_POINTS))
    stretches = [losses[i : i + length] for i in range(0, len(losses), length)]
    return tuple((min((i + 1) * length, len(losses)), statistics.fmean(stretch)) for i, stretch in enumerate(stretches))


def _median_ms(training: Training) -> float:
    times = training.times_ms[WARMUP_STEPS:] or training.times_ms
    return statistics.median(times) if times else 0.0
