"""normkit: normalization for neural networks, exact in every corner, and a laboratory that compares norms.

``normkit.nn`` holds the layers, ``normkit.functional`` the functions behind them, ``normkit.reference`` their
definition in NumPy; ``normkit.upgrade`` swaps the norms of a model that exists, and ``normkit.lab`` compares norms.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normkit import errors, functional, nn
from normkit._info import info
from normkit._version import __version__
from normkit.errors import NormkitError
from normkit.surgery import UpgradeReport, upgrade

if TYPE_CHECKING:
    from normkit import lab, reference

__all__ = [
    "NormkitError",
    "UpgradeReport",
    "__version__",
    "errors",
    "functional",
    "info",
    "lab",
    "nn",
    "reference",
    "upgrade",
]

# Loaded when first used, so that `import normkit` costs no more than the layers do.
_ON_FIRST_USE = ("lab", "reference")


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"normkit.{name}")
    raise AttributeError(f"module 'normkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
