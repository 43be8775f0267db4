"""The page of verdicts as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normkit.claims import Verdicts
from normkit.report.claims_view import claims_page, records_table
from normkit.report.page import environment, verbatim, write_page
from normkit.report.palette import DARK, LIGHT
from normkit.report.plot import FONT
from normkit.report.render import TEMPLATES


def write_claims(verdicts: Verdicts, path: str | Path) -> Path:
    """Write the page of verdicts as one HTML file, its folders made where missing.

    An older page at ``path`` is replaced, in one move.

    Args:
        verdicts: what :func:`normkit.claims.run` or :func:`normkit.claims.shipped` returned.
        path: the file to write.

    Returns:
        The path written.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OSError: the file cannot be written.
    """
    return write_page(render_claims(verdicts), path)


def render_claims(verdicts: Verdicts) -> str:
    """The page's text."""

    def own(name: str) -> Any:
        return verbatim((TEMPLATES / name).read_text(encoding="utf-8"))

    return (
        environment(TEMPLATES, "write_claims")
        .get_template("claims.html")
        .render(
            view=claims_page(verdicts),
            records=records_table(verdicts),
            light=LIGHT,
            dark=DARK,
            font=verbatim(FONT),
            css=own("style.css") + own("claims.css"),
            js=own("claims.js"),
        )
    )
