"""Compute the running statistics of BatchNorm anew: after averaging weights, loading others, or changing data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parallel import DistributedDataParallel

from normkit._padding import padding_of, positions_of
from normkit.errors import ArgumentError, DtypeError, RankError, StatisticsError
from normkit.nn._policies import TORCH
from normkit.nn._ragged import is_ragged, rows_of
from normkit.nn._ranks import absent
from normkit.nn._step_statistics import StepStatistics
from normkit.pooling import Pooled, nothing, pool
from normkit.surgery.classes import name_of
from normkit.surgery.match import Match, matching
from normkit.surgery.report import Left, MeanAndVar, Recalibrated, RecalibrationReport
from normkit.surgery.snapshot import restored_on_error

Forward = Callable[[torch.nn.Module, Any], object]
Progress = Callable[[int, int | None], object]


def recalibrate(
    model: torch.nn.Module,
    loader: Iterable[Any],
    *,
    forward: Forward | None = None,
    match: Match = None,
    process_group: dist.ProcessGroup | None = None,
    progress: Progress | None = None,
) -> RecalibrationReport:
    """Set the running statistics of BatchNorm layers to those of all the data that the loader gives, in place.

    Every layer gets the mean and the variance of all the values that reached it, the unbiased one unless the layer
    says otherwise (``running_variance``), pooled exactly in float64 over batches of whatever sizes, and
    ``num_batches_tracked`` the number of batches. While the data pass, the recalibrated layers normalize each batch
    by its own statistics, as in training, and a batch of one value a channel, or of weights that add up to no more
    than 1, by what was pooled so far; all else runs as in evaluation, without gradients and uncompiled. Where a layer
    is called with a mask, weights or lengths, or ragged input, padding stays out of its pool.

    Frozen layers (``normkit.surgery.freeze``) are left alone, and so is a layer in evaluation in a model in
    training. All or nothing: whatever is raised, KeyboardInterrupt too, every buffer is as it was to the bit.

    Args:
        model: any module with BatchNorm layers, torch's or normkit's.
        loader: the batches. Without ``forward``, tensors or tuples and lists that begin with one; they are moved
            to the device of the model's first parameter.
        forward: ``forward(model, batch)`` runs a batch of any other kind.
        match: which layers, as for :func:`normkit.surgery.freeze`; None means all.
        process_group: whose ranks pool their data, each with a loader of its own and as many batches as it has,
            for example ``torch.distributed.group.WORLD``; None pools on this process alone. What
            DistributedDataParallel wraps runs without it.
        progress: called with the number of batches done, and of all batches or None, after each.

    Returns:
        for every layer its statistics before and after, and the layers that were left with the reason. ``print``
        it for a table.

    Raises:
        ArgumentError: the loader is empty; the model has no such layer; match means none.
        DtypeError: a batch is no tensor and there is no ``forward``.
        StatisticsError: a layer's statistics come out as NaN or infinite, or of a single value.
        RankError: another rank failed, and which; or is gone, and from which ranks there is no word.

    Example:
        >>> model = torch.nn.Sequential(normkit.nn.BatchNorm1d(1))
        >>> zeros, tens = torch.zeros(98, 1), torch.full((2, 1), 10.0)
        >>> report = recalibrate(model, [zeros, tens])
        >>> model[0].running_mean, model[0].running_var
        (tensor([0.2000]), tensor([1.9798]))

    Differs from torch:
        ``torch.optim.swa_utils.update_bn`` averages the statistics of the batches, whatever their sizes, and so
        loses the variance between them; it overwrites frozen layers, and leaves the model changed after an error.
    """
    layers, left = _choose(model, match)
    run = _default_forward(model) if forward is None else forward
    before = {name: _statistics(layer) for name, layer in layers.items()}
    with restored_on_error(model):
        pools = _agree(lambda: _collect(model, layers, loader, run, progress), process_group)
        recalibrated, idle = _commit(layers, pools, before)
    return RecalibrationReport(tuple(recalibrated), (*left, *idle))


Layers = dict[str, _BatchNorm]


@dataclass
class _Pool:
    """What reached one layer so far."""

    values: Pooled
    calls: int = 0

    def merge(self, other: _Pool) -> _Pool:
        return _Pool(self.values.merge(other.values), self.calls + other.calls)


def _choose(model: torch.nn.Module, match: Match) -> tuple[Layers, list[Left]]:
    layers, left = {}, []
    for name, module in matching("recalibrate", model, match):
        if isinstance(module, StepStatistics):
            left.append(Left(name, name_of(module), "statistics of time steps are not recalibrated"))
        elif not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        elif not isinstance(module, _BatchNorm):
            left.append(Left(name, name_of(module), "statistics of single samples are not recalibrated"))
        elif getattr(module, "frozen_statistics", False):
            left.append(Left(name, name_of(module), "it is frozen"))
        elif model.training and not module.training:
            left.append(Left(name, name_of(module), "it is in evaluation, in a model in training"))
        else:
            layers[name] = module
    if not layers and not left:
        raise ArgumentError(
            "recalibrate: expected a model with BatchNorm layers that track statistics, got none; "
            "other norms have nothing to recalibrate."
        )
    return layers, left


def _default_forward(model: torch.nn.Module) -> Forward:
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)

    def run(model: torch.nn.Module, batch: object) -> object:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor):
            raise DtypeError(
                f"recalibrate: expected batches that are tensors or begin with one, got {type(batch).__name__}; "
                f"say how to run one with forward=lambda model, batch: model(...)."
            )
        return model(x.to(device))

    return run


def _collect(
    model: torch.nn.Module, layers: Layers, loader: Iterable[Any], forward: Forward, progress: Progress | None
) -> dict[str, _Pool]:
    pools = {name: _Pool(nothing(layer.num_features, _device(layer))) for name, layer in layers.items()}
    if isinstance(model, DistributedDataParallel):  # whose forward waits for that of the first rank
        model = model.module
    total = _length(loader)
    done = 0
    with _listening(model, layers, pools), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for done, batch in enumerate(loader, 1):
            forward(model, batch)
            if progress is not None:
                progress(done, total)
    if done == 0:
        raise ArgumentError("recalibrate: expected a loader of at least one batch, got none; an iterator is used up.")
    return pools


def _length(loader: Any) -> int | None:
    """How many batches there are, if that is known: to a DataLoader of an iterable data set only its data can tell."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


@contextmanager
def _listening(model: torch.nn.Module, layers: Layers, pools: dict[str, _Pool]) -> Iterator[None]:
    """The layers in training and all else in evaluation, with an ear at every layer; after it, as it was."""
    modes = [(module, module.training) for module in model.modules()]
    ears = []
    try:
        for name, layer in layers.items():
            ears += [
                layer.register_forward_pre_hook(_before_forward(pools[name]), with_kwargs=True),
                layer.register_forward_hook(_after_forward, always_call=True),
            ]
        for module, _ in modes:
            module.training = False
        for layer in layers.values():
            layer.training = True
        yield
    finally:
        for ear in ears:
            ear.remove()
        for module, training in modes:
            module.training = training


def _before_forward(seen: _Pool) -> Callable[..., None]:
    def hook(layer: _BatchNorm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        said = padding_of(kwargs.get("mask"), kwargs.get("weights"), kwargs.get("lengths"))
        if is_ragged(x):
            x = rows_of(x)
        if not (isinstance(x, Tensor) and x.dim() >= 2 and x.shape[1] == layer.num_features and x.numel() > 0):
            return  # the layer itself says what is wrong with it
        positions = None if said is None else positions_of(type(layer).__name__, x, said)
        values = pool(x.detach(), None if positions is None else positions.weights.detach())
        seen.values = seen.values.merge(values)
        seen.calls += 1
        alone = positions is not None and int(positions.kept.sum()) == 1  # whatever its weight
        if seen.calls > 1 and (alone or bool(((values.n > 0) & (values.n <= 1)).all())):
            _write(layer, seen)
            layer.training = False

    return hook


def _after_forward(layer: _BatchNorm, args: object, y: object) -> None:
    layer.training = True


def _agree(collect: Callable[[], dict[str, _Pool]], group: dist.ProcessGroup | None) -> dict[str, _Pool]:
    """What every rank collected, merged in the order of the ranks; the failure of one is a failure of all."""
    if group is None:
        return collect()
    try:
        pools = collect()
    except Exception as error:
        _exchange(f"{type(error).__name__}: {error}", group)
        raise
    found = _exchange({name: _Pool(Pooled(*(t.cpu() for t in p.values)), p.calls) for name, p in pools.items()}, group)
    for rank, other in enumerate(found):
        if isinstance(other, str):
            raise RankError(f"recalibrate: expected every rank to collect its data, got on rank {rank} {other}")
    return {name: reduce(_Pool.merge, [other[name] for other in found if name in other]) for name in pools}


def _exchange(own: object, group: dist.ProcessGroup) -> list[Any]:
    found: list[Any] = [None] * group.size()
    try:
        dist.all_gather_object(found, own, group=group)
    except RuntimeError as error:
        raise absent("recalibrate", group, error) from error
    return found


def _device(layer: _BatchNorm) -> torch.device:
    assert layer.running_mean is not None
    return layer.running_mean.device


def _statistics(layer: _BatchNorm) -> MeanAndVar:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return MeanAndVar(layer.running_mean.clone(), layer.running_var.clone())


def _write(layer: _BatchNorm, seen: _Pool) -> None:
    """The pooled statistics become the layer's."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(seen.values.mean)
    layer.running_var.copy_(seen.values.variance(getattr(layer, "policy", TORCH).running_variance))
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(seen.calls)


def _commit(
    layers: Layers, pools: dict[str, _Pool], before: dict[str, MeanAndVar]
) -> tuple[list[Recalibrated], list[Left]]:
    """Write what was pooled, after a look at all of it."""
    ran = {name: layer for name, layer in layers.items() if pools[name].calls > 0}
    for name in ran:
        _check(name, pools[name].values)
    done = []
    for name, layer in ran.items():
        _write(layer, pools[name])
        done.append(
            Recalibrated(name, name_of(layer), int(pools[name].values.n.max()), before[name], _statistics(layer))
        )
    return done, [
        Left(name, name_of(layer), "no batch reached it") for name, layer in layers.items() if name not in ran
    ]


def _check(name: str, values: Pooled) -> None:
    mean, var = values.mean, values.variance("unbiased")
    if not bool(mean.isfinite().all() and var.isfinite().all()):
        bad = int((~(mean + var).isfinite()).sum())
        raise StatisticsError(
            f"recalibrate: expected finite input at {name or 'the model'!r}, got NaN or infinity in {bad} of "
            f"{len(mean)} channels; look at the data and the layers before it."
        )
    if bool((values.n < 2).any()):
        raise StatisticsError(
            f"recalibrate: expected more than 1 value per channel at {name or 'the model'!r}, got 1; give more data."
        )
