"""Whether a call of a layer with running statistics uses them, and whether it changes them.

Three things keep a training layer from changing its statistics: they are frozen (``normkit.surgery.freeze``), the
caller asked for it (``no_stat_update``), or the call is a recomputation. Every layer with running statistics asks
``step_of`` at each call, and declares ``frozen_statistics = False`` on its class, which says that it does.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Literal

import torch

from normkit import _checks
from normkit.errors import ArgumentError

Step = Literal["evaluate", "observe", "update"]


class _Held(threading.local):
    """The layers whose statistics this thread leaves alone: of this thread only, so that others go on updating."""

    layers: tuple[torch.nn.Module, ...] = ()


_held = _Held()


def step_of(layer: torch.nn.Module) -> Step:
    """What a call of the layer is to do.

    "evaluate" normalizes with the running statistics, "observe" with those of the input, and "update" with those
    of the input, which then enter the running ones.
    """
    if not layer.training or layer.frozen_statistics:
        return "evaluate"
    if _is_held(layer) or in_backward():
        return "observe"
    return "update"


def in_backward() -> bool:
    """Whether this call is part of a backward pass: what runs there was run before, in the forward pass.

    Activation checkpoints, reentrant or not, and reversible networks run a forward a second time, from inside
    autograd. In a compiled graph nothing does: there the compiler recomputes, and mutations are not repeated.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _is_held(layer: torch.nn.Module) -> bool:
    return any(held is layer for held in _held.layers)


def obeys(module: torch.nn.Module) -> bool:
    """Whether the module keeps running statistics and asks ``step_of`` what to do with them."""
    return hasattr(type(module), "frozen_statistics")


def check_all_obey(call: str, found: list[tuple[str, torch.nn.Module]]) -> None:
    """Every one of the norms with running statistics is one that can leave them alone."""
    for name, module in found:
        if not obeys(module):
            raise ArgumentError(
                f"{call}: expected norms whose statistics can be held still, got {_checks.kind(type(module))} at "
                f"{name or '(the model)'!r}; call normkit.upgrade(model) first, or leave it out."
            )


def with_running_statistics(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Every norm of the model that keeps running statistics, shared ones once, with its path."""
    return [(name, m) for name, m in model.named_modules() if has_running_statistics(m)]


def has_running_statistics(module: torch.nn.Module) -> bool:
    is_norm = obeys(module) or isinstance(module, torch.nn.modules.batchnorm._NormBase)
    return is_norm and getattr(module, "running_mean", None) is not None


class no_stat_update:  # noqa: N801 (a context manager, spelled as torch.no_grad is)
    """``with no_stat_update(model):`` training forwards that leave the running statistics alone.

    The norms of the model normalize with the statistics of their input, as in training, and neither their running
    statistics nor ``num_batches_tracked`` change: for a second forward on perturbed input or weights, a teacher,
    a probe. Contexts nest, end in any order and with whatever exception, hold for the thread that entered them alone,
    and work around and inside ``torch.compile``.

    Args:
        model: any module; a norm itself will do.

    Raises:
        ArgumentError: the model has a norm of torch's own, which cannot be kept from updating; names it.
        DtypeError: model is not a torch.nn.Module.

    Example:
        >>> layer = normkit.nn.BatchNorm1d(1)
        >>> with no_stat_update(layer):
        ...     y = layer(torch.tensor([[1.0], [3.0]]))
        >>> y.detach().flatten(), layer.running_mean
        (tensor([-1.0000,  1.0000]), tensor([0.]))

    Differs from torch:
        torch has no such context. ``momentum=0`` counts the batch, ``eval()`` computes another function, and
        under ``no_grad`` the statistics move.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        _checks.module("no_stat_update", model)
        found = with_running_statistics(model)
        check_all_obey("no_stat_update", found)
        self._layers = tuple(module for _, module in found)

    def __enter__(self) -> None:
        _held.layers = (*_held.layers, *self._layers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = list(_held.layers)
        for layer in reversed(self._layers):  # its own, as contexts need not end in the order in which they began
            places = [i for i, other in enumerate(held) if other is layer]
            del held[places[-1]]
        _held.layers = tuple(held)
