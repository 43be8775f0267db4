"""The laboratory's engines under the claims: chosen by name, the same verdicts from each."""

from __future__ import annotations

from pathlib import Path

import pytest

from normkit import claims
from normkit.cli import main
from normkit.errors import ArgumentError, EngineError


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"engine": "rey"}, r"^claims: expected engine local or ray, got 'rey'; did you mean ray\?"),
        ({"address": "auto"}, "^claims: expected no address with engine 'local', got 'auto'"),
        ({"workers": 0}, "^claims: expected workers to be a positive integer, got 0"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_in_the_name_of_the_call(choices: dict[str, object], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        claims.run("instant", claims=["001-06"], **choices)  # type: ignore[arg-type]


def test_a_machine_that_starts_no_process_is_told_in_the_name_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(EngineError, match=r"^claims: expected to start a worker process"):
        claims.run("instant", claims=["001-06"])


def test_an_address_without_ray_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["claims", "--tier", "instant", "--address", "auto", "--no-progress"]) == 2
    assert "claims: expected no address with engine 'local'" in capsys.readouterr().err
    assert not Path("out/normkit.sqlite").exists()


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_ray_cluster_gives_the_verdicts_of_local_workers(tmp_path: Path) -> None:
    store = tmp_path / "runs.sqlite"
    asked = ["000-07", "001-06", "001-16"]
    # A cluster takes its time to start on a machine that is busy: without the tier's budget of a minute.
    by_ray = claims.run("instant", claims=asked, engine="ray", workers=1, store=store, budget=None)
    assert by_ray.failures == ()
    assert by_ray.n_computed >= 1
    assert {verdict.evidence for verdict in by_ray.verdicts} == {"holds"}
    here = claims.run("instant", claims=asked, workers=1, budget=None)
    assert (here.verdicts, here.findings) == (by_ray.verdicts, by_ray.findings)
    assert claims.run("instant", claims=asked, store=store).n_computed == 0
