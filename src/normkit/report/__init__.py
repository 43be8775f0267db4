"""The report: from a comparison to one self-contained HTML page. It computes no run and times nothing."""

from normkit.report.render import write_report

__all__ = ["write_report"]
