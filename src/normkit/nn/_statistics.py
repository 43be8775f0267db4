"""What the layers of images share: checks of their arguments, running statistics kept in float32, and their repr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normkit import _checks

STATISTICS = ("running_mean", "running_var")


def check_arguments(call: str, num_features: object, eps: float, momentum: object) -> None:
    _checks.size(call, "num_features", num_features)
    _checks.eps(call, eps)
    _checks.momentum(call, momentum)


def keep_in_float32(module: torch.nn.Module) -> None:
    """Hold running statistics in float32 where the module is 16-bit: in bfloat16 a running mean stops moving
    as soon as an update is smaller than 1/256 of it."""
    for name in STATISTICS:
        value = module._buffers.get(name)
        if value is not None and value.dtype in _checks.LOW_PRECISION:
            module._buffers[name] = value.float()


def apply_keeping_float32(
    module: torch.nn.Module, apply: Callable[..., Any], fn: Callable[[Tensor], Tensor], recurse: bool
) -> None:
    """``module._apply``, after which float32 statistics that fn would round to 16 bits have only moved."""
    before = {name: module._buffers.get(name) for name in STATISTICS}
    apply(fn, recurse)
    for name, old in before.items():
        new = module._buffers.get(name)
        if old is None or new is None or new.dtype not in _checks.LOW_PRECISION:
            continue
        if old.dtype not in _checks.LOW_PRECISION:
            module._buffers[name] = old.to(new.device, torch.float32)


def share_of_next(tracked: Tensor) -> Tensor:
    """1/k for the k-th batch, in float64 where there is any: in float32 a float64 average was right to 1e-8 only."""
    return 1.0 / (tracked + 1).to(torch.float32 if tracked.device.type == "mps" else torch.float64)


def with_activation(text: str, activation: str | None) -> str:
    """A layer's extra_repr, which names the activation where there is one."""
    return text if activation is None else f"{text}, activation={activation!r}"
