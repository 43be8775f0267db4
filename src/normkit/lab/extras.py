"""Packages that only some calls need: imported where they are used, with a plain sentence when missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from normkit.errors import MissingExtraError


def require(module: str, *, extra: str, call: str) -> ModuleType:
    """Import ``module``, or say which extra of normkit brings it.

    Args:
        module: what to import, ``"scipy.stats"``.
        extra: the extra that installs it, ``"lab"``.
        call: what the user called, for the message.

    Raises:
        MissingExtraError: the package is not installed.

    Example:
        >>> require("json", extra="lab", call="compare").dumps([1])
        '[1]'
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there; something that it imports is broken, which is not ours to word
        raise _missing(package, extra, call) from None


def check_installed(package: str, *, extra: str, call: str) -> None:
    """As :func:`require`, without importing: for what only other processes are going to use.

    Raises:
        MissingExtraError: the package is not installed.
    """
    if find_spec(package) is None:
        raise _missing(package, extra, call)


def _missing(package: str, extra: str, call: str) -> MissingExtraError:
    return MissingExtraError(f'{call}: expected the package {package}, got none; run `pip install "normkit[{extra}]"`.')
