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


def test_only_a_full_run_of_all_claims_is_shipped_and_only_into_a_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["claims", "--tier", "quick", "--ship", "shipped", "--no-progress"]) == 1
    assert "--ship: expected the full tier and every claim" in capsys.readouterr().err
    Path("shipped").write_text("mine", "utf-8")
    assert main(["claims", "--tier", "full", "--ship", "shipped", "--no-progress"]) == 1
    assert "--ship: expected a folder, got the file 'shipped'" in capsys.readouterr().err
    assert Path("shipped").read_text("utf-8") == "mine"


def test_nothing_is_shipped_into_a_folder_whose_records_are_damaged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shipped").mkdir()
    Path("shipped/experiments.json").write_text("[", "utf-8")
    assert main(["claims", "--tier", "full", "--ship", "shipped", "--no-progress"]) == 1
    assert "--ship: shipped could not be written (claims: expected records in" in capsys.readouterr().err
    assert [path.name for path in Path("shipped").iterdir()] == ["experiments.json"]


def test_a_run_that_lacks_something_is_not_shipped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world.interrupt_after = 2
    assert main(["claims", "--tier", "full", "--ship", "shipped", "--no-progress"]) == 130
    assert not Path("shipped").exists()
    assert "--ship: expected a whole run, got one that lacks something (Not finished" in capsys.readouterr().err
