"""Which modules are norms, which class each becomes, and why some stay."""

from __future__ import annotations

import inspect
import re

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

import normkit.nn as nk
from normkit import _checks
from normkit.errors import ArgumentError
from normkit.surgery import known, probe
from normkit.surgery.adoption import Bases, adopted
from normkit.surgery.replica import signature

# Each of ours subclasses torch's and adds no attribute, so a module becomes ours by changing its class.
_OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.BatchNorm1d: nk.BatchNorm1d,
    torch.nn.BatchNorm2d: nk.BatchNorm2d,
    torch.nn.BatchNorm3d: nk.BatchNorm3d,
    torch.nn.LayerNorm: nk.LayerNorm,
    torch.nn.RMSNorm: nk.RMSNorm,
    torch.nn.GroupNorm: nk.GroupNorm,
    torch.nn.InstanceNorm1d: nk.InstanceNorm1d,
    torch.nn.InstanceNorm2d: nk.InstanceNorm2d,
    torch.nn.InstanceNorm3d: nk.InstanceNorm3d,
}
_TORCH_NORMS = (
    *_OURS,
    torch.nn.modules.batchnorm._NormBase,  # SyncBatchNorm, lazy ones, and subclasses
)
# Normalize is another thing, and a NormalCell is a convolution.
_NORM_NAME = re.compile(r"norm(?!al)", re.IGNORECASE)


def is_foreign_norm(module: torch.nn.Module) -> bool:
    """Whether this is a norm, and not ours already. A block that only has norms inside is none."""
    cls = type(module)
    if cls.__module__.startswith(("normkit.nn.", "normkit.surgery.")):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in {norm.__name__ for norm in _OURS} or _is_called_norm(
            module.original_name, module
        )
    return isinstance(module, _TORCH_NORMS) or _is_called_norm(cls.__name__, module)


def _is_called_norm(name: str, module: torch.nn.Module) -> bool:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    computes = len(tensors) > 0 or parametrize.is_parametrized(module) or next(module.children(), None) is None
    return computes and bool(_NORM_NAME.search(name))


def name_of(module: torch.nn.Module) -> str:
    """torch.nn.LayerNorm for torch.nn.modules.normalization.LayerNorm; what computes it, for one that is adopted."""
    cls = type(module)
    bases = getattr(cls, "adopted_bases", ())
    if bases:
        return ", ".join(getattr(base, "computed_by", "") or f"normkit.nn.{base.__name__}" for base in reversed(bases))
    return _checks.kind(cls)


Target = type[torch.nn.Module] | str


def target_of(module: torch.nn.Module, compared: dict[str, Target]) -> Target:
    """The class that the module becomes, or why it stays what it is.

    ``compared`` holds the outcome for modules that differ in nothing but the values of their parameters.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted or traced: upgrade the model it was made from"
    if parametrize.is_parametrized(module):
        return "it is parametrized: its parameters are computed on access"
    if isinstance(module, LazyModuleMixin):
        return "it is lazy: run one batch through the model, then upgrade"
    if type(module) is torch.nn.SyncBatchNorm:
        return "it computes its statistics over several processes"
    if "forward" in vars(module):
        return "its forward was replaced on the module"
    if type(module) in _OURS:
        return _wrong_eps(module) or _OURS[type(module)]
    candidates = known.candidates_for(module)
    if candidates:
        alike = signature(module)
        if alike is None:
            return _first_equal(module, candidates)
        if alike not in compared:
            compared[alike] = _first_equal(module, candidates)
        return compared[alike]
    if isinstance(module, _TORCH_NORMS):
        own = "with its own forward" if "forward" in vars(type(module)) else "whose class would be lost"
        return f"it is a subclass {own}"
    return "normkit does not know this class"


def _wrong_eps(module: torch.nn.Module) -> str:
    eps = getattr(module, "eps", None)
    try:
        if eps is not None:
            _checks.eps("upgrade", eps)
    except ArgumentError:
        return f"its eps is {eps!r}, with which normkit does not normalize"
    return ""


def _first_equal(module: torch.nn.Module, candidates: tuple[Bases, ...]) -> Target:
    """The class with the first of the forwards that computes what the module computes."""
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return "its parameters are on the meta device: load them, then upgrade"
    if getattr(module, "_fast_norm", False):
        return "it is in timm's fast mode, which rounds to autocast's dtype"
    if len(inspect.signature(module.forward).parameters) != 1:
        return "its forward takes more than the input"
    mismatches = []
    for bases in candidates:
        mismatch = probe.compare(module, bases)
        if mismatch is None:
            return adopted(type(module), bases)
        mismatches.append(mismatch)
    return str(min(mismatches, key=lambda m: m.excess))
