"""Changing the norms of a model that exists."""

from normkit.surgery.freeze import FreezeReport, Frozen, freeze, frozen, unfreeze
from normkit.surgery.recalibrate import recalibrate
from normkit.surgery.report import Left, Recalibrated, RecalibrationReport, Swapped, UpgradeReport
from normkit.surgery.synchronize import SyncReport, desynchronize, synchronize
from normkit.surgery.upgrade import upgrade

__all__ = [
    "FreezeReport",
    "Frozen",
    "Left",
    "Recalibrated",
    "RecalibrationReport",
    "Swapped",
    "SyncReport",
    "UpgradeReport",
    "desynchronize",
    "freeze",
    "frozen",
    "recalibrate",
    "synchronize",
    "unfreeze",
    "upgrade",
]
