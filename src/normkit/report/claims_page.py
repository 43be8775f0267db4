"""The page of verdicts as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path

from normkit.claims import Verdicts
from normkit.lab.extras import require
from normkit.report.claims_view import claims_page, records_table
from normkit.report.palette import DARK, LIGHT
from normkit.report.plot import FONT
from normkit.report.render import TEMPLATES, environment, write_whole


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
    return write_whole(render_claims(verdicts), Path(path))


def render_claims(verdicts: Verdicts) -> str:
    """The page's text."""
    markup = require("markupsafe", extra="lab", call="write_claims").Markup

    def own(name: str) -> str:
        """A file of ours, which goes in as it is."""
        text: str = markup((TEMPLATES / name).read_text(encoding="utf-8"))
        return text

    return (
        environment()
        .get_template("claims.html")
        .render(
            view=claims_page(verdicts),
            records=records_table(verdicts),
            light=LIGHT,
            dark=DARK,
            font=markup(FONT),
            css=own("style.css") + own("claims.css"),
            js=own("claims.js"),
        )
    )
