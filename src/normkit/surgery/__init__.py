"""Changing the norms of a model that exists."""

from normkit.surgery.upgrade import Left, Swapped, UpgradeReport, upgrade

__all__ = ["Left", "Swapped", "UpgradeReport", "upgrade"]
