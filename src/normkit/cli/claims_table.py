"""The verdicts for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from normkit.claims import Claim, Verdict, Verdicts
from normkit.report import wording

STYLES = {"holds": "bold green", "fails": "bold red", "depends": "bold yellow", "inconclusive": "", "not run": "dim"}


def verdict_table(verdicts: Verdicts) -> Table:
    """A claim a row, by document."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("evidence", no_wrap=True)
    table.add_column("text", no_wrap=True)
    table.add_column("what is said, and on what it depends")
    document = ""
    for verdict in verdicts.verdicts:
        claim = verdict.claim
        if claim.document.id != document:
            document = claim.document.id
            table.add_row("", "", "", Text(f"{claim.document.name} ({claim.document.publisher})", "bold"))
        table.add_row(
            claim.id, Text(verdict.evidence, STYLES[verdict.evidence]), Text(claim.text, "dim"), _said(verdict)
        )
    return table


def list_table(claims: Sequence[Claim]) -> Table:
    """The claims without any verdict on evidence."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in ("claim", "kind", "text", "literature"):
        table.add_column(title, no_wrap=True)
    table.add_column("what is said")
    for claim in claims:
        table.add_row(claim.id, claim.kind, claim.text, claim.literature, claim.statement)
    return table


def closing_lines(verdicts: Verdicts) -> list[str]:
    """What was left out, where the numbers are from, and how many claims came out how."""
    lines = [""]
    lines += [f"Cut: {sentence}" for sentence in verdicts.cut]
    lines += list(verdicts.notes)
    if verdicts.interrupted:
        lines.append("Interrupted. Every finished job is kept; the same command takes up where this one stopped.")
    lines.append(_origin(verdicts))
    lines.append(count_line(verdicts))
    return lines


def count_line(verdicts: Verdicts) -> str:
    """ "Of 58 claims 30 hold, 9 fail, 12 depend, 5 are inconclusive, 2 were not run."."""
    counts = verdicts.counts()
    total = sum(counts.values())
    said = (
        f"{counts['holds']} hold, {counts['fails']} fail, {counts['depends']} depend, "
        f"{counts['inconclusive']} are inconclusive, {counts['not run']} were not run"
    )
    rest = len(verdicts.verdicts) - total
    of_literature = f"; {rest} more {'is' if rest == 1 else 'are'} for the literature alone" if rest else ""
    return f"Of {wording.count(total, 'claim')} {said}{of_literature}."


def _origin(verdicts: Verdicts) -> str:
    made = verdicts.provenance
    machine = f"{made['processor']}, {made['cores']} cores, torch {made['versions'].get('torch', '?')}"
    if verdicts.is_shipped:
        if not verdicts.records:
            return "No records come with this build of normkit; run `normkit claims --tier quick`."
        return f"Shipped records, measured on {machine}, {made['measured_from'][:10]}."
    found = f"{wording.count(verdicts.n_resumed, 'job')} found finished, " if verdicts.n_resumed else ""
    return f"Tier {verdicts.tier}: {found}{verdicts.n_computed} measured in {wording.duration(verdicts.wall_s)}."


def _said(verdict: Verdict) -> Text:
    said = Text(verdict.claim.statement)
    if verdict.condition:
        said.append(f"\n{verdict.evidence}: {verdict.condition}", "dim")
    return said
