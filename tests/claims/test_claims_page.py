"""docs/claims.md and the README give the numbers of the records that come with the package."""

from __future__ import annotations

from claims import claims_page
from normkit.claims import shipped
from normkit.claims.pilots import put_to_test
from normkit.claims.register import pilots
from normkit.claims.rulebook import rulebook

README = (claims_page.PAGE.parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_page_has_the_numbers_of_the_shipped_records() -> None:
    page = claims_page.PAGE.read_text(encoding="utf-8")
    assert page == claims_page.render(), "run PYTHONPATH=tests python -m claims.claims_page"


def test_the_readme_says_how_many_surprises_came_out_the_same() -> None:
    found, _ = put_to_test(pilots(), rulebook(), shipped().measurements)
    outcomes = [verdict.outcome for verdict in found]
    assert f"{outcomes.count('reproduces')} came out the same, {outcomes.count('in part')} in part" in README


def test_the_readme_says_how_large_the_shipped_run_was() -> None:
    verdicts = shipped()
    seeds = {m.seed for m in verdicts.measurements if m.experiment == "E05"}
    minutes = verdicts.provenance["elapsed_s"] / 60
    assert (
        f"are of {len(seeds)} seeds a condition: {len(verdicts.records)} pieces of work in {minutes:.0f} minutes on "
        f"{verdicts.provenance['cores']} cores." in README
    )
