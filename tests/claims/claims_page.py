"""docs/claims.md, from the records that come with the package.

Write it again with ``PYTHONPATH=tests python -m claims.claims_page``.
"""

from __future__ import annotations

from pathlib import Path

from normkit.claims import Finding, Verdicts, shipped
from normkit.claims.pilots import PilotVerdict, put_to_test
from normkit.claims.register import pilots
from normkit.claims.rulebook import rulebook
from normkit.cli.claims_table import count_line

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"

TEXT = """# Five surprises, put to the test again

Small trials of two to four seeds, made before the experiments of `normkit claims` were written, showed five things that
the textbooks do not lead one to expect. Here is what the run of 12 seeds that comes with normkit says of each: it
*reproduces*, it is *refuted*, or it stays *open* where the run does not decide at 5 % among the {judged} hypotheses of
these five alone ([why alone](decisions/0023-pilots-are-a-family-of-their-own.md)); *in part* it does where it is so in
one condition and not in another. Under each stand the hypotheses that it comes to, with effect, 95 % interval and what
was found. The effect counts in the direction of the sentence and must exceed the sentence's margin (0.02 nats of a
loss, say): one that does not *fails*, and only below 0 was the opposite seen.

{table}

{origin} {counts}

`normkit claims --open` has the figures, and every seed.
"""


def render() -> str:
    verdicts = shipped()
    found, findings = put_to_test(pilots(), rulebook(), verdicts.measurements)
    lines = ["| hypothesis | effect | found |", "| --- | --- | --- |"]
    for verdict in found:
        lines += _rows(verdict, findings)
    n_judged = sum(finding.p is not None for finding in findings.values())
    return TEXT.format(judged=n_judged, table="\n".join(lines), origin=_origin(verdicts), counts=count_line(verdicts))


def _rows(verdict: PilotVerdict, findings: dict[str, Finding]) -> list[str]:
    """The sentence with the trial's numbers, and under it each condition with its hypotheses."""
    rules = rulebook()
    rows = [f"| **{verdict.pilot.statement}** Trial: {verdict.pilot.trial} | | **{verdict.outcome}** |"]
    for condition in verdict.conditions:
        if condition.name:
            rows.append(f"| *{condition.name}* | | *{condition.outcome}* |")
        for id_ in condition.hypotheses:
            effect = _effect(findings[id_], rules[id_].unit)
            rows.append(f"| {id_}: {rules[id_].statement} | {effect} | {findings[id_].outcome} |")
    return rows


def _effect(finding: Finding, unit: str) -> str:
    assert finding.effect is not None
    if finding.low is None or finding.high is None:
        return f"off by {finding.effect:.1g} at most"
    effect, low, high = (f"{value:.4g}".replace("-", "−") for value in (finding.effect, finding.low, finding.high))
    return f"{effect} [{low}, {high}] {unit}".rstrip()


def _origin(verdicts: Verdicts) -> str:
    made = verdicts.provenance
    minutes = made["elapsed_s"] / 60
    return (
        f"{len(verdicts.records)} pieces of work, {minutes:.0f} minutes on {made['cores']} cores ({made['processor']}, "
        f"torch {made['versions']['torch']}), {made['measured_to'][:10]}."
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
