"""The learning page as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normkit.report.render import write_page
