"""A comparison as JSON: what the table says, without the runs behind it (``--export`` writes those)."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

from normkit.lab.comparison import Comparison


def as_json(comparison: Comparison, files: dict[str, str | None]) -> str:
    """Strict JSON: a number that is not finite becomes null."""
    result = {f.name: _plain(getattr(comparison, f.name)) for f in fields(comparison) if f.name != "records"}
    return json.dumps(result | files, indent=2, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
