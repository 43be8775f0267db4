"""normkit: normalization for neural networks, exact in every corner, and a laboratory that compares norms.

``normkit.nn`` holds the layers, ``normkit.functional`` the functions behind them, ``normkit.reference`` their
definition in NumPy; ``normkit.upgrade`` swaps the norms of a model that exists, ``normkit.surgery`` changes them,
``normkit.lab`` compares norms, and ``normkit.claims`` puts what is said of them to the test.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normkit import errors
from normkit._version import __version__
from normkit.errors import NormkitError

if TYPE_CHECKING:
    from normkit import claims, functional, lab, nn, reference, surgery
    from normkit._info import info
    from normkit.nn._updates import no_stat_update
    from normkit.surgery.report import UpgradeReport
    from normkit.surgery.upgrade import upgrade

__all__ = [
    "NormkitError",
    "UpgradeReport",
    "__version__",
    "claims",
    "errors",
    "functional",
    "info",
    "lab",
    "nn",
    "no_stat_update",
    "reference",
    "surgery",
    "upgrade",
]

# Name -> the module it is, or comes from. Loaded when first used, so that the command line, which imports this
# package before any file of its own, answers `--help` without waiting for torch.
_ON_FIRST_USE = {
    "claims": "normkit.claims",
    "functional": "normkit.functional",
    "lab": "normkit.lab",
    "nn": "normkit.nn",
    "reference": "normkit.reference",
    "surgery": "normkit.surgery",
    "no_stat_update": "normkit.nn._updates",
    "info": "normkit._info",
    "UpgradeReport": "normkit.surgery",
    "upgrade": "normkit.surgery",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'normkit' has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name])
    return module if module.__name__ == f"normkit.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
