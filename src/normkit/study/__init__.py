"""The learning page: what norms do, with live arithmetic, real runs and every sentence tested."""

from __future__ import annotations

from normkit.study.render import write_study

__all__ = ["write_study"]
