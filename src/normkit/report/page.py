"""What every page of normkit is made with: templates, JSON inside a page, and a file that is never half written."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normkit.lab.extras import require
from normkit.report import wording

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, its folders made where missing; one that is there is replaced in one move."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # another process may write its own
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return target


def environment(templates: Path, call: str) -> Environment:
    """Jinja with every value escaped, and no name that is missing passed over."""
    jinja2 = require("jinja2", extra="lab", call=call)
    made: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["embedded"] = embedded
    made.filters["number"] = wording.number
    return made


def verbatim(text: str) -> Any:
    """A text of our own, or of plotly's, that goes into a page as it is."""
    return require("markupsafe", extra="lab", call="write_page").Markup(text)


def embedded(value: Any) -> Any:
    """JSON for inside a script element: no character of it can end the element or start a comment."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return verbatim(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for both."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
