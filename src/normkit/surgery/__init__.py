"""Changing the norms of a model that exists."""

from normkit.surgery.report import Left, Swapped, UpgradeReport
from normkit.surgery.upgrade import upgrade

__all__ = ["Left", "Swapped", "UpgradeReport", "upgrade"]
