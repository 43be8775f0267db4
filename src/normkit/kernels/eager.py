"""Calls without Python in between: ``normkit._eager`` looks at the tensors, computes, and records the backward in C++.

It is built with libtorch's C++ and so for one torch. Where it is not there, or was built for another torch, the same
calls go through ``cpu``, and nothing but their overhead differs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from normkit.kernels import cpu


def _declines(*_: object) -> None:
    return None


# Stands for the library where there is none.
ABSENT = SimpleNamespace(
    **dict.fromkeys(
        (
            "layer_norm",
            "rms_norm",
            "add_layer_norm",
            "add_rms_norm",
            "batch_norm",
            "group_norm",
            "instance_norm",
            "layer_norm2d",
            "plain_floats",
        ),
        _declines,
    )
)


def _load() -> tuple[Any, str]:
    """The library, or one that declines; and how calls go, for ``normkit info``."""
    if cpu.LIBRARY is None:
        return ABSENT, cpu.DESCRIPTION
    try:
        return import_module("normkit._eager"), "calls by libtorch"
    except ImportError as error:
        note = Path(__file__).parents[1] / "_eager.reason"
        reason = note.read_text().strip() if note.exists() else str(error)
        return ABSENT, f"calls by Python, which is slower on small inputs: {reason}"


# Found once, at import. Each function returns None or False where the call, valid or not, must be looked at with care.
LIBRARY, DESCRIPTION = _load()
