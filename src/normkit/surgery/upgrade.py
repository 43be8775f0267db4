"""Swap the norms of a model for normkit's, in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from normkit import _checks
from normkit.surgery import classes
from normkit.surgery.report import Left, Swapped, UpgradeReport


class _Plan(NamedTuple):
    name: str
    module: torch.nn.Module
    target: type[torch.nn.Module]


def upgrade(model: torch.nn.Module) -> UpgradeReport:
    """Swap every norm that normkit computes for normkit's, in place.

    Known are torch's own classes, and by their names those of timm, torchvision and transformers and the LayerNorm
    with ``data_format`` of ConvNeXt. torch's become the class of the same name in ``normkit.nn``. Of the others a
    copy is run beside ours first, on random input and with random parameters, forward and backward, and only where
    both agree within rounding does the module get our forward; it stays an instance of its class.

    Each module stays the same object: parameters, buffers, hooks, names, train or eval mode, requires_grad and
    modules that are shared stay what they are, and an optimizer that holds the parameters goes on. Subclasses that
    are not known, parametrized and lazy modules, and modules whose ``forward`` was replaced are left alone.

    Args:
        model: any module; a norm itself will do.

    Returns:
        what was swapped, and what was left with the reason. A second call swaps nothing.

    Raises:
        DtypeError: model is not a torch.nn.Module. Any error leaves the model as it was.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        >>> print(upgrade(model))
        normkit.upgrade: 1 norms swapped, 0 left alone
          swapped  1: torch.nn.LayerNorm -> normkit.nn.LayerNorm
    """
    _checks.module("upgrade", model)
    left, planned = [], []
    compared: dict[str, classes.Target] = {}
    bypassed = _bypassed_at_inference(model)
    for name, module in _norms(model):
        target = classes.target_of(module, compared)
        if isinstance(target, str):
            left.append(Left(name, classes.name_of(module), target))
        else:
            planned.append(_Plan(name, module, target))
    return UpgradeReport(tuple(_swap_all(planned, bypassed)), tuple(left))


def _norms(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every norm that is not ours yet, shared ones once."""
    for name, module in model.named_modules():
        if classes.is_foreign_norm(module):
            yield name, module


def _bypassed_at_inference(model: torch.nn.Module) -> set[torch.nn.Module]:
    """Norms whose parameters, and not whose forward, the fused kernel of torch's encoder layer uses."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.TransformerEncoderLayer)]
    return {norm for layer in layers if layer.self_attn.batch_first for norm in (layer.norm1, layer.norm2)}


def _swap_all(planned: list[_Plan], bypassed: set[torch.nn.Module]) -> list[Swapped]:
    """Change every class, or none."""
    done: list[tuple[torch.nn.Module, type[torch.nn.Module]]] = []
    report = []
    try:
        for name, module, target in planned:
            before, was = classes.name_of(module), type(module)
            module.__class__ = target
            done.append((module, was))
            report.append(Swapped(name, before, classes.name_of(module), _note(module, bypassed)))
    except BaseException:
        for module, was in done:
            module.__class__ = was
        raise
    return report


def _note(module: torch.nn.Module, bypassed: set[torch.nn.Module]) -> str:
    if module in bypassed:
        return (
            "inference bypasses it on the fused path of nn.TransformerEncoderLayer, "
            "unless torch.backends.mha.set_fastpath_enabled(False)"
        )
    running_mean = module.running_mean if isinstance(module, torch.nn.modules.batchnorm._NormBase) else None
    if running_mean is not None and running_mean.dtype in _checks.LOW_PRECISION:
        return f"its running statistics stay {_checks.dtype_name(running_mean)}, which updates round to"
    return ""
