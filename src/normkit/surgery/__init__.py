"""Changing the norms of a model that exists."""

from normkit.surgery.freeze import FreezeReport, Frozen, freeze, frozen, unfreeze
from normkit.surgery.report import Left, Swapped, UpgradeReport
from normkit.surgery.upgrade import upgrade

__all__ = [
    "FreezeReport",
    "Frozen",
    "Left",
    "Swapped",
    "UpgradeReport",
    "freeze",
    "frozen",
    "unfreeze",
    "upgrade",
]
