"""docs/claims.md, from the records that come with the package.

Write it again with ``PYTHONPATH=tests python -m claims.claims_page``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normkit.claims import Finding, Verdicts, shipped
from normkit.claims.judge import judge
from normkit.claims.rulebook import rulebook
from normkit.cli.claims_table import count_line

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"


@dataclass(frozen=True)
class Surprise:
    """What a trial showed, and what would come out of the full run if it were so."""

    seen: str
    expected: tuple[tuple[str, str], ...]  # hypothesis -> outcome


SURPRISES = (
    Surprise(
        "LayerNorm does not rescue a deep sigmoid network.",
        (("E14-H11", "fails"), ("E14-H12", "holds"), ("E14-H14", "fails")),
    ),
    Surprise("BatchNorm at batch size 2 in an MLP is a sign function.", (("E01-H23", "holds"),)),
    Surprise(
        "Statistics grouped by class destroy BatchNorm on the very same gradient set.",
        (("E09-H1", "holds"), ("E09-H2", "holds"), ("E09-H3", "holds")),
    ),
    Surprise(
        "Recurrent BatchNorm wins at batch size 50 and loses at 4.",
        (("E16-H2", "holds"), ("E16-H11", "holds"), ("E16-H3", "holds")),
    ),
    Surprise("BatchNorm enlarges ReLU gradients by about 1.21 a layer.", (("E14-H1", "holds"), ("E14-H2", "fails"))),
)

TEXT = """# Five surprises, put to the test again

Small trials of two to four seeds, made before the experiments of `normkit claims` were written, showed five things that
the textbooks do not lead one to expect. Here is what the run of 12 seeds that comes with normkit says of each: the
hypotheses that it comes to, each with its effect, the 95 % interval and what was found. The effect counts in the
direction of the sentence: below 0 the opposite was seen. *As expected* compares with the trial: yes, no, or open where
the run does not decide at 5 % among the {judged} hypotheses judged together.

{table}

{origin} {counts}

`normkit claims --open` has the figures, and every seed.
"""


def render() -> str:
    verdicts = shipped()
    rules = rulebook()
    judged = dict.fromkeys([*verdicts.findings, *(id_ for surprise in SURPRISES for id_, _ in surprise.expected)])
    found = judge([rules[id_] for id_ in judged], verdicts.measurements)
    lines = ["| hypothesis | effect | found | as expected |", "| --- | --- | --- | --- |"]
    for surprise in SURPRISES:
        lines.append(f"| **{surprise.seen}** | | | **{_whole(surprise, found)}** |")
        for id_, outcome in surprise.expected:
            row = (rules[id_].statement, _effect(found[id_], rules[id_].unit), found[id_].outcome)
            lines.append(f"| {id_}: {' | '.join(row)} | {_as_expected(found[id_], outcome)} |")
    n_judged = sum(finding.p is not None for finding in found.values())
    return TEXT.format(judged=n_judged, table="\n".join(lines), origin=_origin(verdicts), counts=count_line(verdicts))


def _as_expected(finding: Finding, outcome: str) -> str:
    if finding.outcome == outcome:
        return "yes"
    return "no" if finding.outcome in ("holds", "fails") else "open"


def _whole(surprise: Surprise, found: dict[str, Finding]) -> str:
    """Of a surprise: "no" if any part is not so, else "open" if any is."""
    words = {_as_expected(found[id_], outcome) for id_, outcome in surprise.expected}
    return next(word for word in ("no", "open", "yes") if word in words) + (" in part" if len(words) > 1 else "")


def _effect(finding: Finding, unit: str) -> str:
    assert finding.effect is not None
    if finding.low is None or finding.high is None:
        return f"off by {finding.effect:.1g} at most"
    effect, low, high = (f"{value:.4g}".replace("-", "−") for value in (finding.effect, finding.low, finding.high))
    return f"{effect} [{low}, {high}] {unit}".rstrip()


def _origin(verdicts: Verdicts) -> str:
    made = verdicts.provenance
    minutes = made["measured_s"] / made["cores"] / 60
    return (
        f"{len(verdicts.records)} pieces of work, {minutes:.0f} minutes on {made['cores']} cores ({made['processor']}, "
        f"torch {made['versions']['torch']}), {made['measured_to'][:10]}."
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
