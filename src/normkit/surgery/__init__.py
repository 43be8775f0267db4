"""Changing the norms of a model that exists."""

from normkit.surgery.freeze import FreezeReport, Frozen, freeze, frozen, unfreeze
from normkit.surgery.upgrade import Left, Swapped, UpgradeReport, upgrade

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
