"""Where a result comes from: versions and machine, as plain data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("normkit", "torch", "numpy", "scikit-learn", "scipy")


def environment() -> dict[str, Any]:
    """Versions and machine of this process: ``versions``, ``platform``, ``processor`` and ``cores``.

    Nothing that names a person or a host: records are meant to be shared.

    Example:
        >>> sorted(environment())
        ['cores', 'platform', 'processor', 'versions']
    """
    return {
        "versions": dict(_versions()),
        "platform": platform.platform(aliased=True, terse=True),
        "processor": _processor(),
        "cores": available_cores(),
    }


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two environments describe like machines, so that times of one predict times of the other."""
    return all(one.get(name) == other.get(name) for name in ("platform", "processor", "cores"))


def available_cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def timestamp() -> str:
    """The time now in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """The installed versions, read from package metadata so that nothing heavy is imported."""
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


@cache
def _processor() -> str:
    """The processor's model name; Linux has it in /proc only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
