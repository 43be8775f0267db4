"""The page as one HTML file that opens offline: template, style, script, plotly.js and data in one."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normkit.lab.comparison import Comparison
from normkit.lab.export import table
from normkit.lab.extras import require
from normkit.report import wording
from normkit.report.palette import DARK, LIGHT
from normkit.report.plot import FONT
from normkit.report.view import page

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def write_report(comparison: Comparison, path: str | Path) -> Path:
    """Write the report of a comparison as one HTML file, its folders made where missing.

    An older report at ``path`` is replaced, in one move: nobody ever sees half a page.

    Args:
        comparison: what :func:`normkit.lab.compare` returned.
        path: the file to write.

    Returns:
        The path written.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
        OSError: the file cannot be written.
    """
    return write_whole(render(comparison), Path(path))


def write_whole(text: str, target: Path) -> Path:
    """Write a page in one move, its folders made where missing: nobody ever sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # another process may write its own
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return target


def render(comparison: Comparison) -> str:
    """The page's text. The same comparison gives the same text."""
    markup = require("markupsafe", extra="lab", call="write_report").Markup
    plotly = require("plotly.offline", extra="lab", call="write_report")
    columns, rows = table(comparison.records)
    return (
        environment()
        .get_template("page.html")
        .render(
            view=page(comparison),
            runs={"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]},
            light=LIGHT,
            dark=DARK,
            # Our own files and plotly's, not data: they go in as they are.
            font=markup(FONT),
            css=markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            js=markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
            plotly=markup(plotly.get_plotlyjs()),
        )
    )


def environment() -> Environment:
    """Where templates are found and how values go into them: escaped, unless they are our own markup."""
    jinja2 = require("jinja2", extra="lab", call="write_report")
    made: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["embedded"] = embedded
    made.filters["number"] = wording.number
    return made


def embedded(value: Any) -> Any:
    """JSON for inside a script element: no character of it can end the element or start a comment."""
    markup = require("markupsafe", extra="lab", call="write_report").Markup
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for both."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
