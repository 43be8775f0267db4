"""A training step over micro-batches that gives what one over the whole batch gives, BatchNorm included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.rnn import PackedSequence

from normkit import _checks
from normkit.composite import under_functorch
from normkit.errors import ArgumentError, DtypeError
from normkit.nn import _policies
from normkit.nn._buffers import BufferState
from normkit.nn._joint_batch import Call
from normkit.nn._policies import TORCH, StatisticsPolicy
from normkit.nn._stage import Stage
from normkit.nn._updates import obeys, step_of
from normkit.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normkit.nn.sync_batch_norm import SyncBatchNorm, _group_of

_FORWARDS = {layer.forward for layer in (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)}


def accumulate(
    model: torch.nn.Module | Sequence[torch.nn.Module], micro_batches: Sequence[Tensor | tuple[Any, ...]]
) -> list[Any]:
    """The outputs of the model for micro-batches that are normalized together, as one batch.

    ``accumulate(model, x.split(8))`` is ``model(x).split(8)`` to rounding: outputs, running statistics, and gradients
    once a loss of the outputs is differentiated, through every BatchNorm's statistics of the whole batch. In memory
    is the graph of one micro-batch at a time, and what must be kept: the inputs of the stages and the outputs.

    A model that is one module is one stage, of which nothing but the inputs is kept. With n calls of BatchNorm a stage
    runs n + 1 times in a forward pass, up to the next BatchNorm each time, and n + 1 times in a backward pass. Of a
    sequence of modules, each called with what the one before returned (a tuple as several arguments), the inputs of
    all are kept, and each runs only as often as its own calls demand: stages of one or two BatchNorms, such as the
    blocks of a ResNet, are the usual choice. ``docs/decisions/0018-gradient-accumulation.md`` measures both.

    Args:
        model: a module, or the modules that make up the model in the order in which they run.
        micro_batches: their inputs, of any sizes: tensors, or tuples of arguments.

    Returns:
        the output for each micro-batch: tensors, or tuples, lists and dictionaries of them. Losses are the caller's: a
        mean over the whole batch is the sum of all micro-batches' losses over the number of all samples.

    Raises:
        ArgumentError: a layer that keeps statistics cannot join in: torch's own, with virtual batches, with a forward
            of its own, over several processes, of recurrent steps; one is called with ``mask=``, ``weights=`` or
            ``lengths=``; micro-batches go different ways through the model; a module writes to its input; no stages
            or micro-batches; inside torch.func transforms.
        DtypeError: what is no module, no sequence, or no tensor where one is due.
        Whatever the model raises. The buffers of the model are then as they were to the bit.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), normkit.nn.BatchNorm1d(4))
        >>> x = torch.randn(6, 4)
        >>> first, second = accumulate(model, x.split(3))
        >>> loss = (first.pow(3).sum() + second.pow(3).sum()) / 6
        >>> loss.backward()
        >>> bool(model[1].num_batches_tracked == 1)
        True

    Differs from torch:
        torch has nothing of the kind; summing the gradients of micro-batches normalizes each by itself.

    Notes:
        Layers in evaluation, frozen ones and norms without a batch run as ever. Ragged input of a BatchNorm
        (PackedSequence, jagged nested tensors) joins in with the values that it has. Dropout draws other masks than
        over the whole batch, the same in every recomputation. Buffers that a module writes in training, such as those
        of spectral_norm, are as after one run. Compiled modules run uncompiled. Gradients are of the first order. One
        micro-batch is an ordinary call of the model.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.disable(_accumulate)(model, micro_batches)  # type: ignore[no-untyped-call,no-any-return]
    return _accumulate(model, micro_batches)


def _accumulate(
    model: torch.nn.Module | Sequence[torch.nn.Module], micro_batches: Sequence[Tensor | tuple[Any, ...]]
) -> list[Any]:
    modules, outputs = _modules(model), _batches(micro_batches)
    layers = [_joining(module) for module in modules]
    if under_functorch():
        raise ArgumentError(
            "accumulate: expected a call outside torch.func transforms, got one inside; call the model on the whole "
            "batch there."
        )
    if len(outputs) == 1:
        for module in modules:
            outputs = [module(*_arguments(outputs[0]))]
        return outputs
    stages: list[Stage] = []
    before = BufferState(m for module in modules for m in module.modules())
    try:
        for module, own in zip(modules, layers, strict=True):
            stages.append(Stage("accumulate", module, own, [_arguments(output) for output in outputs]))
            outputs = stages[-1]()
        _remember(stages)
    except BaseException:
        before.put_back()
        raise
    return outputs


def _arguments(value: Any) -> tuple[Any, ...]:
    """What a module returned, as what the next one takes."""
    return value if isinstance(value, tuple) and not isinstance(value, PackedSequence) else (value,)


def _remember(stages: Sequence[Stage]) -> None:
    """The statistics of the whole batch enter the running ones, call by call, once nothing can fail any more."""
    calls = [call for stage in stages for call in stage.calls if not call.by_itself]
    found = [_batch(call) for call in calls]
    for call, batch in zip(calls, found, strict=True):
        if _policy(call.layer).nonfinite == "raise":
            _policies.check_finite(type(call.layer).__name__, [batch])
    for call, batch in zip(calls, found, strict=True):
        if step_of(call.layer) == "update" and call.layer.track_running_stats:
            _policies.update_running(call.layer, [batch], keep_finite=_policy(call.layer).nonfinite == "skip")


def _batch(call: Call) -> _policies.Batch:
    variance = call.every.variance(_policy(call.layer).running_variance)
    return _policies.Batch(call.every.mean, variance, int(call.every.n.max()))


def _policy(layer: _BatchNorm) -> StatisticsPolicy:
    policy: StatisticsPolicy = getattr(layer, "policy", TORCH)
    return policy


def _modules(model: object) -> list[torch.nn.Module]:
    """The stages of the model."""
    if isinstance(model, torch.nn.Module) and not isinstance(model, torch.nn.ModuleList):
        modules = [model]
    elif isinstance(model, (Sequence, torch.nn.ModuleList)) and not isinstance(model, str):
        modules = list(model)
    else:
        raise DtypeError(
            f"accumulate: expected a torch.nn.Module or a sequence of them, got {type(model).__name__}; "
            f"give the model itself."
        )
    if not modules:
        raise ArgumentError("accumulate: expected at least one module, got an empty sequence; give the model itself.")
    for module in modules:
        _checks.module("accumulate", module)
        if any(isinstance(m, torch.nn.parallel.DistributedDataParallel) for m in module.modules()):
            raise ArgumentError(
                "accumulate: expected a model outside DistributedDataParallel, got one inside; give its .module, and "
                "average the gradients of the ranks after the backward pass."
            )
    return modules


def _batches(micro_batches: object) -> list[Any]:
    if not isinstance(micro_batches, Sequence):
        raise DtypeError(
            f"accumulate: expected a sequence of micro-batches, got {type(micro_batches).__name__}; split a batch "
            f"with x.split(size)."
        )
    if not micro_batches:
        raise ArgumentError(
            "accumulate: expected at least one micro-batch, got none; split a batch with x.split(size)."
        )
    for batch in micro_batches:
        if not isinstance(batch, (Tensor, tuple)):
            raise DtypeError(
                f"accumulate: expected micro-batches that are tensors or tuples of arguments, got "
                f"{type(batch).__name__}; put the arguments of the model in a tuple."
            )
    return list(micro_batches)


def _joining(module: torch.nn.Module) -> list[_BatchNorm]:
    """The layers that normalize with the statistics of their input, all of which can do so over the micro-batches."""
    layers = []
    for name, layer in module.named_modules():
        if _keeps_to_itself(layer):
            continue
        reason = _why_not(layer)
        if reason:
            raise ArgumentError(
                f"accumulate: expected layers whose statistics can be merged over micro-batches, got "
                f"{_checks.kind(type(layer))} at {name or '(the model)'!r}, {reason}."
            )
        assert isinstance(layer, _BatchNorm)
        layers.append(layer)
    return layers


def _keeps_to_itself(layer: torch.nn.Module) -> bool:
    """Whether the layer neither uses nor keeps statistics of its input, or those of single samples only."""
    if not (obeys(layer) or isinstance(layer, _NormBase)):
        return True
    own = getattr(layer, "running_mean", None) is not None
    evaluates = step_of(layer) == "evaluate" if obeys(layer) else not layer.training
    if isinstance(layer, _InstanceNorm):
        return not own or evaluates or (obeys(layer) and step_of(layer) == "observe")
    return own and evaluates


def _why_not(layer: torch.nn.Module) -> str:
    if not obeys(layer):
        return "which is torch's; call normkit.upgrade(model) first"
    if not isinstance(layer, _BatchNorm):
        return "whose running statistics would count every micro-batch; freeze them, or run the batch as a whole"
    if type(layer).forward not in _FORWARDS or "forward" in vars(layer):
        return "which has a forward of its own; put what it adds in another module"
    if _policy(layer).virtual_batch_size is not None:
        return "which has virtual batches; call the model on each micro-batch instead"
    if isinstance(layer, SyncBatchNorm):
        group = _group_of(layer)
        if group is not None and group.size() > 1:
            return "which meets other processes; accumulate on one, or give every process its whole batch"
    return ""
