"""A copy of one norm to experiment on: nothing that happens to it reaches the model."""

from __future__ import annotations

import copy
from typing import Any

import torch

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)

_PLAIN = (bool, int, float, str, type(None), tuple, list, dict, set)


def replica(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """A copy without hooks, whose floating parameters and buffers are random numbers between 0.5 and 1.5.

    The values a norm starts with hide what it does with them: with a weight of ones, w and w² are the same, and with
    one of zeros, 1 + w and 1.
    """
    twin = copy.deepcopy(_without_hooks(module))
    with torch.no_grad():
        for t in (*twin.parameters(), *twin.buffers()):
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape, generator=generator) + 0.5)
                t.requires_grad_(isinstance(t, torch.nn.Parameter))
    return twin


def _without_hooks(module: torch.nn.Module) -> torch.nn.Module:
    """A shallow copy. A hook may hold on to anything, a trainer or a data set, which a deep copy would follow."""
    twin = copy.copy(module)
    for name in _HOOKS:
        setattr(twin, name, type(getattr(module, name))())
    twin._modules = {name: None if m is None else _without_hooks(m) for name, m in module._modules.items()}
    return twin


def plain_state(module: torch.nn.Module) -> dict[str, Any]:
    """What the module stores beside parameters, buffers and children, as far as it can be compared."""
    return copy.deepcopy({k: v for k, v in _own_attributes(module).items() if isinstance(v, _PLAIN)})


def signature(module: torch.nn.Module) -> str | None:
    """The same for two modules whose replicas are the same; None where that cannot be told."""
    own = _own_attributes(module)
    children = [None if m is None else signature(m) for m in module._modules.values()]
    if not all(isinstance(v, _PLAIN) for v in own.values()) or None in children:
        return None
    tensors = [
        (name, t.dtype, tuple(t.shape), t.device, isinstance(t, torch.nn.Parameter))
        for name, t in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]
    return repr((type(module), id(type(module)), own, tensors, list(module._modules), children))


def _own_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """What is in its __dict__ and not in every module's."""
    common = vars(torch.nn.Module())
    return {k: v for k, v in vars(module).items() if k not in common}
