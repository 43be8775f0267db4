"""``normkit claims``: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from claims.toy import World
from normkit.claims import register
from normkit.claims.logic import names
from normkit.claims.rulebook import rulebook
from normkit.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was asked to open."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


def test_it_ends_with_the_count(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--tier", "full"]) == 0
    out, err = capsys.readouterr()
    assert "000-01  depends   right" in out
    assert (
        "depends: holds with batch size 2; fails with batch size 50; it turns at a batch size between 2 and 50" in out
    )
    assert "Tier full: 4 measured in" in out
    assert out.splitlines()[-1] == "Of 1 claim 0 hold, 0 fail, 1 depend, 0 are inconclusive, 0 were not run."
    assert "normkit claims: starting" in err
    assert Path("out/normkit.sqlite").exists()
    assert not Path("out/claims.html").exists()


def test_json_is_the_verdicts_and_nothing_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--tier", "full", "--json", "--no-progress"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tier"] == "full"
    assert result["counts"]["depends"] == 1
    (claim,) = result["claims"]
    wanted = {
        "id": "000-01",
        "document": "Made up",
        "statement": "LayerNorm wins.",
        "text": "right",
        "evidence": "depends",
    }
    assert {name: claim[name] for name in wanted} == wanted
    assert claim["condition"].startswith("holds with batch size 2")
    assert {h["hypothesis"]: h["outcome"] for h in claim["hypotheses"]} == {"E05-B2": "holds", "E05-B50": "fails"}
    assert all(h["low"] < h["effect"] < h["high"] and h["p_adjusted"] >= h["p"] for h in claim["hypotheses"])
    assert len(result["provenance"]["rules_hash"]) == 64


def test_open_writes_the_page_and_opens_it(world: World, opened: list[str]) -> None:
    assert main(["claims", "--tier", "quick", "--open", "--no-progress"]) == 0
    assert opened == [Path("out/claims.html").resolve().as_uri()]
    assert "LayerNorm wins." in Path("out/claims.html").read_text(encoding="utf-8")


def test_open_alone_takes_the_shipped_records_and_measures_nothing(
    world: World, opened: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claims", "--tier", "full", "--ship", "shipped", "--no-progress"]) == 0
    monkeypatch.setattr(sys.modules["normkit.claims.shipped"], "FOLDER", Path("shipped"))
    world.ran.clear()
    assert main(["claims", "--open"]) == 0
    assert world.ran == []
    out = capsys.readouterr().out
    assert "Shipped records, measured on " in out
    page = Path("out/claims.html").read_text(encoding="utf-8")
    assert "shipped with normkit" in page
    assert "A toy" in page


def test_an_interrupt_shows_what_is_done_and_is_130(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.interrupt_after = 2
    assert main(["claims", "--tier", "full", "--no-progress"]) == 130
    out = capsys.readouterr().out
    assert "Interrupted. Every finished job is kept" in out
    assert out.splitlines()[-1] == "Of 1 claim 0 hold, 0 fail, 0 depend, 0 are inconclusive, 1 were not run."
    world.interrupt_after = None
    assert main(["claims", "--tier", "full", "--no-progress"]) == 0
    assert "2 jobs found finished, 2 measured" in capsys.readouterr().out


def test_a_failure_is_told_and_is_1(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(outcome="level = 1 / 0")
    assert main(["claims", "--tier", "full", "--no-progress"]) == 1
    assert "normkit: E05, batch 2, norm batch failed: ZeroDivisionError" in capsys.readouterr().err


def test_a_budget_for_nothing_is_1_and_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--tier", "full", "--budget", "2s", "--no-progress"]) == 1
    assert "Nothing could be measured within the budget of 2s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tier", "quik"], "'quik' is not one of"),
        (["--claim", "000-1x"], "got '000-1x'"),
        (["--claim", ""], "--claim: expected at least one value"),
        (["--budget", "soon"], "expected a duration such as 90s"),
        (["--report", "page.txt"], "--report: expected a file that ends in .html"),
        (["--report", "out/normkit.sqlite"], "expected another file than --store"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_usage_is_2_before_any_work(
    world: World, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["claims", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert world.ran == []


def test_a_claim_for_the_literature_alone_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--tier", "instant", "--claim", "001-01", "--no-progress"]) == 0
    assert "1 more is for the literature alone" in capsys.readouterr().out


def test_a_foreign_store_is_1_and_left_as_it_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("my notes\n" * 50)
    assert main(["claims", "--store", "notes.txt", "--no-progress"]) == 1
    assert "which is no SQLite file and was left as it is" in capsys.readouterr().err
    assert Path("notes.txt").read_text() == "my notes\n" * 50


def test_shipped_verdicts_need_no_place_for_a_store(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").write_text("a file where the folder would be")
    assert main(["claims", "--tier", "shipped"]) == 0
    assert "Of 1 claim" in capsys.readouterr().out
    assert main(["claims", "--tier", "full"]) == 2
    assert "--store: expected a place for 'out/normkit.sqlite'" in capsys.readouterr().err
    assert main(["claims", "--tier", "shipped", "--report", "out/claims.html"]) == 2
    assert "--report: expected a place for 'out/claims.html'" in capsys.readouterr().err
    assert world.ran == []


@pytest.mark.parametrize("command", [["claims", "--tier", "shipped"], ["claims", "--open"], ["study"]])
def test_damaged_shipped_records_are_1_and_one_line(
    command: list[str], opened: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shipped").mkdir()
    Path("shipped/E05.jsonl.gz").write_bytes(b"nonsense")
    monkeypatch.setattr(sys.modules["normkit.claims.shipped"], "FOLDER", Path("shipped"))
    assert main(command) == 1
    err = capsys.readouterr().err
    assert err.startswith("normkit: claims: expected records in shipped/E05.jsonl.gz, got a damaged file")
    assert len(err.splitlines()) == 1
    assert opened == []


def test_list_names_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["claims"]
    assert len(listed) == 59
    assert main(["claims", "--list", "--claim", "001-03"]) == 0
    assert "LayerNorm has a mean and a variance for each feature" in capsys.readouterr().out


def test_instant_decides_the_exact_claims_and_no_others_in_real_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normkit", "claims", "--tier", "instant", "--json", "--no-progress"]
    before = cpu_of_children_s()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert cpu_of_children_s() - before < 2 * 10  # ten seconds of two cores, with the start of every process
    assert ids_decided(result) == exact_claims()
    assert result["counts"]["fails"] == 4
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert json.loads(again.stdout)["computed"] == 0
    assert json.loads(again.stdout)["counts"] == result["counts"]


def cpu_of_children_s() -> float:
    """What ended processes used: how busy the machine is else does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ids_decided(result: dict[str, Any]) -> set[str]:
    return {claim["id"] for claim in result["claims"] if claim["evidence"] in ("holds", "fails", "depends")}


def exact_claims() -> set[str]:
    """Claims of which every hypothesis is exact."""
    rules = rulebook()
    return {
        claim.id
        for claim in register().values()
        if claim.conditions
        and all(rules[id_].kind == "exact" for rule in claim.conditions for id_ in names(rule.expression))
    }
