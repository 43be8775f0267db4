"""A module of another library that keeps its class and gets another forward.

The new class derives from the old one: code that asks ``isinstance(m, LlamaRMSNorm)``, loads an old ``state_dict``
or prints the module goes on working, and only ``forward`` is ours.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

Bases = tuple[type[Any], ...]  # of modules


def adopted(original: type[Any], bases: Bases) -> type[torch.nn.Module]:
    """The class that computes by the first of ``bases`` and otherwise is ``original``: one for the same arguments.

    Two modules of one class stay of one class, which compiled graphs compare.
    """
    key: Any = original  # mypy takes the __hash__ of its instances for its own
    return _adopted(key, bases)


@cache
def _adopted(original: type[Any], bases: Bases) -> type[torch.nn.Module]:
    namespace = {
        "__module__": __name__,
        "__doc__": original.__doc__,
        "__reduce_ex__": _reduce,
        "adopted_from": original,
        "adopted_bases": bases,
    }
    return type(original.__name__, (*bases, original), namespace)


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickled as what it is made of: the class itself has no name that could be imported."""
    return _empty, (self.adopted_from, self.adopted_bases), vars(self).copy()


def _empty(original: type[Any], bases: Bases) -> torch.nn.Module:
    cls = adopted(original, bases)
    return cls.__new__(cls)
