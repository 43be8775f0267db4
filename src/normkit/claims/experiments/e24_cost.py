"""E24: what the norms cost, in training, in evaluation, and once BatchNorm is folded into the layer before it.

Each norm's network is timed in turn with LayerNorm's, again and again, so that what slows the machine slows both; what
counts is the ratio of the medians, on one thread. LayerNorm against itself tells how large a ratio means nothing. Each
seed is a timing of its own. On a machine that is busy with other things nothing is timed: the job fails and says so.

The layers are normkit's, with compiled kernels where these are built: ratios are those of this implementation.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normkit import nn as layers
from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._stacked_training import one_thread
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS
from normkit.lab.norms import norm_factory

REPETITIONS, WARM_UP = 30, 5
BLOCK_S = 5e-4  # steps that are timed together take at least this long
BUSY = 1.25  # wall-clock time over processor time at which the timing was disturbed too often

Network = Callable[[str, int], nn.Module]  # norm, width


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    norms = ("batch", "layer", "batch_no_running", "rms")
    arms = [("mlp", n, 64, norm) for n in (2, 32) for norm in norms]
    if tier == "full":
        arms += [("mlp", n, 512, norm) for n in (2, 128) for norm in norms]
        arms += [("mlp", n, 64, norm) for n in (1, 8, 512) for norm in norms if n > 1 or not norm.startswith("batch")]
        arms += [("cnn", n, 64, norm) for n in (1, 32) for norm in (*norms, "none")]
        arms += [("lstm", n, 64, norm) for n in (2, 32) for norm in ("batch", "layer", "rms", "none")]
        arms += [("block", 32, 64, norm) for norm in (*norms, "none")]
        arms += [("mlp", n, 64, "none") for n in (2, 32)]
    return [
        Job("E24", conditions(network=network, samples=n, width=width, norm=norm), EVALUATION_SEEDS[tier])
        for network, n, width, norm in arms
    ]


def measure(job: Job) -> list[Measurement]:
    """Metrics: train_time, eval_time and deployed_time relative to LayerNorm's (deployed: in evaluation, BatchNorm
    folded into the layer before it where that is possible); train_ms and eval_ms; saved_bytes for the backward pass,
    and state_numbers, parameters and buffers of the norms alone."""
    arm = job.arm
    n, width, norm = int(arm["samples"]), int(arm["width"]), str(arm["norm"])
    build, shape = NETWORKS[str(arm["network"])]
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, other = build(norm, width), build("layer", width)
        plain = build("none", width)
        x = torch.randn(n, *shape(width))
        found = [_timed(one, other, x, job.seeds, training) for training in (True, False)]
        folded = fold(one.eval(), x) if norm == "batch" and arm["network"] == "mlp" else None
        deployed = found[1] if folded is None else _timed(folded, other, x, job.seeds, False)
        own = float(_numbers(one) - _numbers(plain))
        saved = float(saved_bytes(one, x))
    measured = []
    for i, seed in enumerate(job.seeds):
        (train, train_other), (evaluation, evaluation_other), (use, use_other) = (
            part[i] for part in (*found, deployed)
        )
        disturbed = max(timing.disturbance for timing in (train, evaluation, use))
        if disturbed > BUSY or _load() > 1.5:
            message = (
                f"machine busy: the timing took {disturbed:.2f} times its processor time, load {_load():.1f} a core"
            )
            measured.append(Measurement("E24", job.conditions, seed, "failed", message=message))
            continue
        metrics = {
            "train_time": train.seconds / train_other.seconds,
            "eval_time": evaluation.seconds / evaluation_other.seconds,
            "deployed_time": use.seconds / use_other.seconds,
            "train_ms": 1e3 * train.seconds,
            "eval_ms": 1e3 * evaluation.seconds,
            "saved_bytes": saved,
            "state_numbers": own,
        }
        measured.append(Measurement("E24", job.conditions, seed, metrics=metrics))
    return measured


class Timing:
    """The median of one network's times, and the wall-clock time over the processor time of all of them."""

    def __init__(self, times: Sequence[float], disturbance: float) -> None:
        self.seconds, self.disturbance = statistics.median(times), disturbance


def _timed(
    one: nn.Module, other: nn.Module, x: Tensor, seeds: Sequence[int], training: bool
) -> list[tuple[Timing, Timing]]:
    """A timing of both for each seed, taken in turn."""
    steps = [_step(model.train(training), x, training) for model in (one, other)]
    found = []
    for step in steps:
        for _ in range(WARM_UP):
            step()
    started = time.perf_counter()
    steps[1]()
    repeats = max(1, round(BLOCK_S / (time.perf_counter() - started)))
    for _ in seeds:
        times: tuple[list[float], list[float]] = ([], [])
        wall, cpu = time.perf_counter(), time.thread_time()
        for repetition in range(REPETITIONS):
            for which in (0, 1) if repetition % 2 == 0 else (1, 0):
                started = time.perf_counter()
                for _ in range(repeats):
                    steps[which]()
                times[which].append((time.perf_counter() - started) / repeats)
        disturbance = (time.perf_counter() - wall) / max(time.thread_time() - cpu, 1e-9)
        found.append((Timing(times[0], disturbance), Timing(times[1], disturbance)))
    return found


def _step(model: nn.Module, x: Tensor, training: bool) -> Callable[[], None]:
    def train() -> None:
        for p in model.parameters():
            p.grad = None
        y = model(x)
        y.backward(torch.ones_like(y))

    @torch.no_grad()
    def evaluate() -> None:
        model(x)

    return train if training else evaluate


def _load() -> float:
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """What a forward pass in training keeps for the backward pass, each memory counted once, parameters left out."""
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model.train()(x)
        total = sum(kept.values())
    del y
    return total


def fold(model: nn.Module, x: Tensor) -> nn.Sequential:
    """A Sequential in evaluation with each BatchNorm folded into the linear layer before it.

    That it is the same function is checked in float64: a running variance near 0, which a batch of two can leave,
    divides by as little as sqrt(eps) in each layer, and float32 would then show its rounding and not whether the
    fold is right.

    Raises:
        AssertionError: the folded network is not the same function on x.
    """
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(_fold(exact)(x.double()), exact(x.double()), rtol=1e-7, atol=1e-7)
    return _fold(model)


def _fold(model: nn.Module) -> nn.Sequential:
    found: list[nn.Module] = []
    for layer in model.children():
        if isinstance(layer, layers.BatchNorm1d):
            linear = found[-1]
            assert isinstance(linear, nn.Linear)
            found[-1] = _folded(linear, layer)
        else:
            found.append(layer)
    return nn.Sequential(*found).eval()


@torch.no_grad()
def _folded(linear: nn.Linear, norm: layers.BatchNorm1d) -> nn.Linear:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    folded = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
    folded.weight.copy_(linear.weight * scale[:, None])
    folded.bias.copy_((linear.bias - norm.running_mean) * scale + norm.bias)
    return folded


def _numbers(model: nn.Module) -> int:
    return sum(t.numel() for t in model.state_dict().values())


def _mlp(norm: str, width: int) -> nn.Module:
    def make() -> nn.Module:
        if norm == "batch_no_running":
            return layers.BatchNorm1d(width, track_running_stats=False)
        return norm_factory(norm).features(width)

    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [nn.Linear(width, width), make(), nn.ReLU()]
    return nn.Sequential(*parts)


def _cnn(norm: str, width: int) -> nn.Module:
    def make() -> nn.Module:
        if norm == "batch_no_running":
            return layers.BatchNorm2d(width // 4, track_running_stats=False)
        return norm_factory(norm).image(width // 4)

    c = width // 4
    return nn.Sequential(
        nn.Conv2d(c, c, 3, padding=1), make(), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), make(), nn.ReLU()
    )


class _LSTM(nn.Module):
    def __init__(self, norm: str, width: int) -> None:
        super().__init__()
        self.lstm = norm_factory(norm).lstm(width, width, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


class _Block(nn.Module):
    """The feed-forward half of a transformer block, with the norm before it."""

    def __init__(self, norm: str, width: int) -> None:
        super().__init__()
        if norm == "batch_no_running":
            self.norm: nn.Module = _Tokens(layers.BatchNorm1d(width, track_running_stats=False))
        else:
            self.norm = norm_factory(norm).tokens(width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(self.norm(x))
        return y


class _Tokens(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.flatten(0, 1)).view(x.shape)
        return y


NETWORKS: dict[str, tuple[Network, Callable[[int], tuple[int, ...]]]] = {
    "mlp": (_mlp, lambda width: (width,)),
    "cnn": (_cnn, lambda width: (width // 4, 8, 8)),
    "lstm": (_LSTM, lambda width: (16, width)),
    "block": (_Block, lambda width: (16, width)),
}


def seconds(job: Job) -> float:
    per_step = {"mlp": 2e-6, "cnn": 4e-5, "lstm": 1e-4, "block": 5e-5}[str(job.arm["network"])]
    step = 4e-4 + per_step * int(job.arm["samples"]) * (int(job.arm["width"]) / 64) ** 2
    return 0.3 + len(job.seeds) * 2 * REPETITIONS * 2.2 * max(step, BLOCK_S)


EXPERIMENT = Experiment(
    "E24",
    "What the norms cost",
    "Is LayerNorm cheaper than BatchNorm for small batches, and what does BatchNorm cost once it is trained?",
    jobs,
    measure,
    seconds,
)
