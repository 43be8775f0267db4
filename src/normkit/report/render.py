"""The report as one HTML file that opens offline: template, style, script, plotly.js and data in one."""

from __future__ import annotations

from pathlib import Path

from normkit.lab.comparison import Comparison
from normkit.lab.export import table
from normkit.lab.extras import require
from normkit.report.page import environment, verbatim, write_page
from normkit.report.palette import DARK, LIGHT
from normkit.report.plot import FONT
from normkit.report.view import page

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
    return write_page(render(comparison), path)


def render(comparison: Comparison) -> str:
    """The page's text. The same comparison gives the same text."""
    plotly = require("plotly.offline", extra="lab", call="write_report")
    columns, rows = table(comparison.records)
    return (
        environment(TEMPLATES, "write_report")
        .get_template("page.html")
        .render(
            view=page(comparison),
            runs={"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]},
            light=LIGHT,
            dark=DARK,
            font=verbatim(FONT),
            css=verbatim((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            js=verbatim((TEMPLATES / "page.js").read_text(encoding="utf-8")),
            plotly=verbatim(plotly.get_plotlyjs()),
        )
    )
