"""Which norms of a model a change is meant for."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch.nn.modules.batchnorm import _NormBase

import normkit.nn as nk
from normkit import _checks
from normkit.errors import ArgumentError, DtypeError
from normkit.nn._updates import obeys

Match: TypeAlias = (
    type[torch.nn.Module] | tuple[type[torch.nn.Module], ...] | str | Callable[[str, torch.nn.Module], bool] | None
)

_NORMS = (_NormBase, torch.nn.LayerNorm, torch.nn.RMSNorm, torch.nn.GroupNorm, nk.LayerNorm2d)


def norms(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Every norm of the model with its path, shared ones once."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, _NORMS) or obeys(m)]


def matching(call: str, model: torch.nn.Module, match: Match) -> list[tuple[str, torch.nn.Module]]:
    """The norms that ``match`` means: a class or several, a pattern of paths, or a function of path and module.

    None means all. A match that means none of the model's norms is an error: it was meant to mean some.
    """
    _checks.module(call, model)
    found = norms(model)
    if match is None:
        return found
    chosen = [(name, m) for name, m in found if _means(call, match, name, m)]
    if not chosen:
        known = ", ".join(repr(name) for name, _ in found) or "none"
        raise ArgumentError(
            f"{call}: expected match to mean a norm of the model, got {match!r}; the norms are {known}."
        )
    return chosen


def _means(call: str, match: Match, name: str, module: torch.nn.Module) -> bool:
    if isinstance(match, str):
        return fnmatchcase(name, match)
    if isinstance(match, (type, tuple)):
        return isinstance(module, match)
    if callable(match):
        return bool(match(name, module))
    raise DtypeError(
        f"{call}: expected match to be a class, a tuple of classes, a pattern such as 'backbone.*' or a function of "
        f"path and module, got {match!r}; None means every norm."
    )
