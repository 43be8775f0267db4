"""The learning page as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path

from normkit.claims.verdicts import Verdicts
from normkit.report import render as report
from normkit.report.page import environment, verbatim, write_page
from normkit.report.palette import DARK, LIGHT
from normkit.report.plot import FONT
from normkit.study.view import page

TEMPLATES = Path(__file__).with_name("templates")
# In the order in which they use each other.
SCRIPTS = ("state", "norms", "chart", "tensor", "running", "map", "runs", "questions")


def write_study(verdicts: Verdicts, path: str | Path) -> Path:
    """Write the learning page as one HTML file, its folders made where missing; one that is there is replaced.

    Args:
        verdicts: whose evidence and runs it shows, of all claims.
        path: the file to write.

    Returns:
        The path written.

    Raises:
        MissingExtraError: jinja2 or scikit-learn is not installed.
        OSError: the file cannot be written.
    """
    return write_page(render(verdicts), path)


def render(verdicts: Verdicts) -> str:
    """The page's text. The same verdicts give the same text."""
    css = (report.TEMPLATES / "style.css").read_text(encoding="utf-8")
    return (
        environment(TEMPLATES, "write_study")
        .get_template("page.html")
        .render(
            view=page(verdicts),
            light=LIGHT,
            dark=DARK,
            font=verbatim(FONT),
            css=verbatim(css + (TEMPLATES / "study.css").read_text(encoding="utf-8")),
            scripts=[verbatim((TEMPLATES / f"{name}.js").read_text(encoding="utf-8")) for name in SCRIPTS],
        )
    )
