"""What the ranks do. Every function runs on each rank, and returns what the test compares."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import normkit
from normkit import nn
from normkit.errors import NormkitError
from normkit.surgery import recalibrate, synchronize
from ranks.launch import KILLED

# How many samples each rank has at a step, in turn: unequal, one, none.
SHARDS = {2: ((3, 6), (1, 8), (0, 9)), 4: ((2, 3, 1, 4), (5, 0, 4, 1), (1, 1, 1, 7), (0, 0, 3, 7))}
STEPS = 20


def network(dtype: torch.dtype) -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        nn.BatchNorm2d(2),
        torch.nn.Conv2d(2, 3, 2),
        nn.BatchNorm2d(3),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 5),
        nn.BatchNorm1d(5, momentum=None),
        torch.nn.Linear(5, 1),
    ).to(dtype)


def batch(step: int, n: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The input of each rank at a step."""
    generator = torch.Generator().manual_seed(step)
    sizes = SHARDS[n][step % len(SHARDS[n])]
    x = torch.randn(sum(sizes), 2, 3, 3, generator=generator, dtype=torch.float64) * 2 + 3
    return torch.split(x.to(dtype), sizes)


def train(model: torch.nn.Module, inputs: Callable[[int], Tensor], scale: Callable[[int], float]) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        x = inputs(step)
        loss = ((model(x) - x.flatten(1).sum(1, keepdim=True) / 10) ** 2).sum() * scale(step)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def alone(n: int, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What one process gets with the whole batch."""
    model = network(dtype)
    whole = [torch.cat(batch(step, n, dtype)) for step in range(STEPS)]
    return train(model, lambda step: whole[step], lambda step: 1 / len(whole[step])), model.state_dict()


def twenty_steps(rank: int, n: int) -> dict[str, tuple[list[Tensor], dict[str, Tensor]]]:
    """With DistributedDataParallel, which averages the gradients of the ranks: each weighs its loss by n / samples."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        model = network(dtype)
        synchronize(model)
        parallel = DistributedDataParallel(model)
        sizes = [sum(len(x) for x in batch(step, n, dtype)) for step in range(STEPS)]
        shards = [batch(step, n, dtype)[rank] for step in range(STEPS)]
        losses = train(parallel, shards.__getitem__, [n / size for size in sizes].__getitem__)
        results[str(dtype)] = ([loss / n for loss in losses], model.state_dict())
    return results


def derivatives(rank: int, n: int) -> dict[str, list[Tensor]]:
    """Gradients of a gradient penalty, of a checkpointed layer, in 16 bits and far from zero; subgroups; statistics."""
    found: dict[str, list[Tensor]] = {}
    shards = batch(1, n, torch.float64)
    layer = nn.SyncBatchNorm(2, dtype=torch.float64)
    found["penalty"] = list(gradient_penalty(layer, shards[rank]))
    x = shards[rank].clone().requires_grad_()
    layer = nn.SyncBatchNorm(2, dtype=torch.float64)
    y = checkpoint(layer, x, use_reentrant=False)
    y.pow(3).sum().backward()
    found["checkpoint"] = [y.detach(), x.grad, layer.running_mean, layer.running_var, layer.num_batches_tracked]
    for dtype, offset in ((torch.float32, 1e4), (torch.bfloat16, 0.0)):
        layer = nn.SyncBatchNorm(2, dtype=dtype)
        found[f"{dtype}"] = [layer((shards[rank] + offset).to(dtype)).detach(), layer.running_mean, layer.running_var]
    halves = [dist.new_group([0, 1]), dist.new_group([2, 3])] if n == 4 else [dist.group.WORLD]
    layer = nn.SyncBatchNorm(2, process_group=halves[rank // 2], dtype=torch.float64)
    found["group"] = [layer(shards[rank] + 1).detach()]
    layer = nn.SyncBatchNorm(2, dtype=torch.float64)
    with normkit.no_stat_update(layer):
        found["observe"] = [layer(shards[rank]).detach(), layer.num_batches_tracked.clone()]
    normkit.surgery.freeze(layer)
    found["frozen"] = [layer(shards[rank]).detach()]
    layer = nn.SyncBatchNorm(2, dtype=torch.float64)
    found["compiled"] = [torch.compile(layer, backend="eager")(shards[rank]).detach(), layer.num_batches_tracked]
    block = nn.BatchNorm2d(2, dtype=torch.float64, activation="relu")
    synchronize(block)
    found["activation"] = [block(shards[rank], shards[rank].flip(1)).detach()]
    layer = nn.SyncBatchNorm(2, dtype=torch.float64)
    x, mask = padded(n, rank)
    x.requires_grad_()
    y = layer(x, mask=mask)
    y.pow(3).sum().backward()
    found["masked"] = [y.detach(), x.grad, layer.running_mean, layer.running_var]
    many = nn.SyncBatchNorm(700, dtype=torch.float64)  # more than the first message holds
    found["many"] = [many(torch.arange(1400.0, dtype=torch.float64).view(2, 700) * (rank + 1)).detach()]
    one = nn.SyncBatchNorm(2, dtype=torch.float64)
    found["one value a rank"] = [one(torch.tensor([[1.0, 2.0 * rank]], dtype=torch.float64) * rank).detach()]
    try:
        one(torch.ones(1 if rank == 1 else 0, 2, dtype=torch.float64))
    except NormkitError as error:
        found["one value"] = [type(error).__name__, str(error)]  # type: ignore[list-item]
    try:
        one(torch.ones(3, 2, dtype=torch.float64), mask=torch.zeros(3, dtype=torch.bool))
    except NormkitError as error:
        found["all padding"] = [type(error).__name__, str(error)]  # type: ignore[list-item]
    try:
        one(torch.ones(3, 2, dtype=torch.float64), mask=torch.zeros(2 + rank % 2 * 2, dtype=torch.bool))
    except NormkitError as error:
        found["wrong mask"] = [type(error).__name__, str(error)]  # type: ignore[list-item]
    try:
        one(torch.ones(3, 2, dtype=torch.float64), weights=torch.tensor([1.0, torch.nan, -1.0]))
    except NormkitError as error:
        found["wrong weights"] = [type(error).__name__, str(error)]  # type: ignore[list-item]
    for choice in ("running", "skip"):  # one value on all ranks together
        layer = nn.SyncBatchNorm(2, dtype=torch.float64, single_value=choice)
        layer.running_mean.fill_(3.0)
        value = torch.full((1 if rank == 1 else 0, 2), 5.0, dtype=torch.float64, requires_grad=True)
        y = layer(value)
        y.sum().backward()
        found[f"single value, {choice}"] = [y.detach(), value.grad, *layer.buffers()]
    x = shards[rank].clone()
    if rank == 0:
        x.view(-1)[:1] = torch.nan  # in the first channel
    for choice in ("skip", "raise"):
        layer = nn.SyncBatchNorm(2, dtype=torch.float64, nonfinite=choice)
        try:
            layer(x)
        except NormkitError as error:
            found["nonfinite"] = [type(error).__name__, str(error)]  # type: ignore[list-item]
        found[f"nonfinite, {choice}"] = list(layer.buffers())
    layer = nn.SyncBatchNorm(2, dtype=torch.float64, momentum=1.0, running_variance="biased")
    found["biased"] = [layer(shards[rank]).detach(), layer.running_var]
    nothing = one(torch.ones(0, 2, dtype=torch.float64))
    found["nothing"] = [nothing.detach(), one.num_batches_tracked]
    pooled = nn.BatchNorm2d(2, dtype=torch.float64)
    recalibrate(
        pooled, [s for s in torch.split(shards[rank], 2) if len(s)] or [shards[rank]], process_group=dist.group.WORLD
    )
    found["recalibrated"] = [pooled.running_mean, pooled.running_var, pooled.num_batches_tracked]
    pooled = nn.BatchNorm2d(2, dtype=torch.float64)
    recalibrate(pooled, [some_padded(n, rank)], forward=lambda m, b: m(b[0], mask=b[1]), process_group=dist.group.WORLD)
    found["recalibrated, masked"] = [pooled.running_mean, pooled.running_var]
    return found


def some_padded(n: int, rank: int) -> tuple[Tensor, Tensor]:
    """As ``padded``, but the last rank has no padding."""
    x, mask = padded(n, rank)
    return (batch(1, n, torch.float64)[rank], mask | True) if rank == n - 1 else (x, mask)


def padded(n: int, rank: int) -> tuple[Tensor, Tensor]:
    """The shard of a rank with NaN in its padding, and its mask; the last rank has nothing but padding."""
    x = batch(1, n, torch.float64)[rank]
    mask = torch.zeros(len(x), 3, 3, dtype=torch.bool)
    mask[:, : rank + 1, 1:] = rank < n - 1
    return torch.where(mask[:, None], x, torch.nan), mask


def gradient_penalty(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of Σ(dΣf(y)/dx)², where every sum goes over all ranks' samples."""
    x = x.clone().requires_grad_()
    weight = torch.linspace(1, 2, 9, dtype=x.dtype).view(3, 3)
    (dx,) = torch.autograd.grad((layer(x).pow(3) * weight).sum(), x, create_graph=True)
    return torch.autograd.grad(dx.pow(2).sum(), [x, layer.weight])


def caught(step: Callable[[], Any]) -> tuple[str, str, float]:
    """The error of a step, and the seconds until it came."""
    start = time.monotonic()
    try:
        step()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return "none", "", time.monotonic() - start


def two_layers(timeout: float) -> torch.nn.Sequential:
    model = torch.nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    synchronize(model, timeout=timeout)
    return model


def a_rank_skips_a_layer(rank: int, n: int) -> Any:
    model = two_layers(5)
    x = torch.randn(4, 3)
    if rank == 1:
        model[0](x)
        time.sleep(12)
        return None
    return caught(lambda: model(x))


def a_rank_is_at_another_layer(rank: int, n: int) -> Any:
    model = two_layers(5)
    x = torch.randn(4, 3)
    return caught(lambda: (model[1] if rank == 1 else model)(x))


def a_rank_is_killed_in_its_backward(rank: int, n: int) -> Any:
    model = two_layers(5)
    x = torch.randn(4, 3, requires_grad=True)
    y = model(x)
    if rank == 1:
        y.register_hook(lambda _: os._exit(KILLED))
    return caught(y.pow(3).sum().backward)


def ranks_with_different_models(rank: int, n: int) -> Any:
    return caught(lambda: nn.SyncBatchNorm(3 + rank, name="a.b", timeout=5)(torch.randn(4, 3 + rank)))


def micro_batches_of_several_ranks(rank: int, n: int) -> Any:
    """Refused before anything meets; in a group of one rank they are those of a layer by itself."""
    model = two_layers(5)
    x = torch.randn(5, 3)
    found = caught(lambda: nn.accumulate(model, x.split(2)))
    alone = [dist.new_group([r]) for r in range(n)][rank]
    model[0].process_group = model[1].process_group = alone
    return found, len(nn.accumulate(model, x.split(2))), int(model[0].num_batches_tracked)


def a_rank_fails_to_recalibrate(rank: int, n: int) -> Any:
    model = nn.BatchNorm1d(3)
    loader = [torch.randn(4, 3 + (rank == 1))]
    before = copy.deepcopy(model.state_dict())
    result = caught(lambda: recalibrate(model, loader, process_group=dist.group.WORLD))
    same = all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    return *result, same


def recalibrated_in_parallel(rank: int, n: int) -> Any:
    """Inside DistributedDataParallel: the first rank fails before its first batch; then it has fewer than the other."""
    model = nn.BatchNorm1d(3)
    parallel = DistributedDataParallel(model)
    batches = torch.arange(36.0).view(4, 3, 3).unbind()
    failed = caught(lambda: recalibrate(parallel, [] if rank == 0 else [batches[0]], process_group=dist.group.WORLD))
    report = recalibrate(parallel, batches[:1] if rank == 0 else batches[1:], process_group=dist.group.WORLD)
    return failed, [layer.name for layer in report.layers], model.running_mean, model.running_var


def a_rank_is_killed_while_it_recalibrates(rank: int, n: int) -> Any:
    model = nn.BatchNorm1d(3)
    before = copy.deepcopy(model.state_dict())

    def loader() -> Iterator[Tensor]:
        yield torch.randn(4, 3)
        if rank == 1:
            os._exit(KILLED)

    result = caught(lambda: recalibrate(model, loader(), process_group=dist.group.WORLD))
    same = all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    return *result, same


def frozen_in_parallel(rank: int, n: int) -> Any:
    """Three steps of DistributedDataParallel over a model with a frozen norm and one that goes on."""
    torch.manual_seed(rank)
    model = torch.nn.Sequential(nn.BatchNorm1d(3), torch.nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0](torch.randn(8, 3) + 1 + rank)
    normkit.surgery.freeze(model, "0", "both")
    before: list[Tensor] = []
    parallel = DistributedDataParallel(model)  # which gives all ranks the state of the first
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        before = before or [t.detach().clone() for t in model[0].state_dict().values()]
        optimizer.zero_grad()
        parallel.train()(torch.randn(8, 3) + rank).pow(3).sum().backward()
        optimizer.step()
    return before, [*model[0].state_dict().values()], int(model[2].num_batches_tracked)
