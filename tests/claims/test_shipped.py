"""The records that come with the package are of the whole full tier, and only a whole run is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims.toy import World
from normkit.claims.archive import Archive
from normkit.claims.experiments import experiment, files
from normkit.claims.shipped import FOLDER, read
from normkit.cli import main


@pytest.mark.parametrize("id_", files())
def test_every_seed_of_the_full_tier_is_there(id_: str) -> None:
    """So nothing that the judge does not see could turn a trend, or be the counterexample of a search."""
    archive = Archive(record for record in read(FOLDER) if record.spec.task == id_)
    jobs = experiment(id_).jobs("full")
    assert [job.conditions for job in jobs if not archive.covers(job)] == []
    assert len(archive.everything()) == sum(len(job.seeds) for job in jobs)


def test_a_run_that_lacks_something_is_not_shipped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world.interrupt_after = 2
    assert main(["claims", "--tier", "full", "--ship", "shipped", "--no-progress"]) == 130
    assert not Path("shipped").exists()
    assert "--ship: expected a whole run, got one that lacks something (Not finished" in capsys.readouterr().err
