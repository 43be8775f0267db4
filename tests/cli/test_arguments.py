"""What users type, as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from normkit.cli.arguments import check_different, check_file, check_new_file, check_page, whole_numbers, words
from normkit.errors import ArgumentError


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ([], []),
        (["a,b", "c"], ["a", "b", "c"]),
        (["a, b ,"], ["a", "b"]),
        (["a", "b,a"], ["a", "b"]),
        (
            ["digits-mlp,digits-lstm:lengths=variable,sequence=pixels,digits-cnn"],
            ["digits-mlp", "digits-lstm:lengths=variable,sequence=pixels", "digits-cnn"],
        ),
        (["a:x=1,b:y=2"], ["a:x=1", "b:y=2"]),
    ],
)
def test_commas_and_repetition_mean_the_same(typed: list[str], found: list[str]) -> None:
    assert words(typed, "--task") == found


@pytest.mark.parametrize("typed", [[""], [" ,"], ["a", ""]])
def test_an_option_that_names_nothing_is_refused(typed: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        words(typed, "--task")
    message = f"--task: expected at least one value, got {typed[-1]!r}; give one or leave --task out."
    assert str(caught.value) == message


def test_whole_numbers() -> None:
    assert whole_numbers(["2,16", "128"], "--batch-size") == [2, 16, 128]


@pytest.mark.parametrize("typed", ["0", "-4", "2.5", "many", "²", "9" * 5000])
def test_other_numbers_are_refused(typed: str) -> None:
    message = f"--batch-size: expected whole numbers of at least 1, got '{typed}'; write --batch-size 2,16,128."
    with pytest.raises(ArgumentError) as caught:
        whole_numbers(["2", typed], "--batch-size")
    assert str(caught.value) == message


def test_a_file_gets_its_folder(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "report.html", "--report")
    assert (tmp_path / "new").is_dir()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"--report: expected a file, got the folder '.*'; name a file in it\."):
        check_file(tmp_path, "--report")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"--store: expected a place for '.*', got .*; choose another\."):
        check_file(tmp_path / "file" / "runs.sqlite", "--store")


def test_a_place_that_takes_no_file_is_refused_before_the_work() -> None:
    if not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    with pytest.raises(
        ArgumentError, match=r"--report: expected a place for '/proc/r\.html', got .*; choose another\."
    ):
        check_file(Path("/proc/r.html"), "--report")


def test_one_file_for_two_purposes_is_refused(tmp_path: Path) -> None:
    files = {"--task a.py": tmp_path / "a.py", "--store": tmp_path / "x" / ".." / "a.py"}
    with pytest.raises(
        ArgumentError, match=r"--store: expected another file than --task a\.py, got '.*' for both; rename"
    ):
        check_different(files)
    check_different(files | {"--store": tmp_path / "b"})


def test_a_page_must_have_its_ending() -> None:
    check_page(Path("r.HTML"), "--report")
    with pytest.raises(
        ArgumentError, match=r"--report: expected a file that ends in \.html, got 'my\.py'; change its name"
    ):
        check_page(Path("my.py"), "--report")


def test_a_page_that_somebody_else_made_is_not_replaced(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    for ours in ("", "<title>BatchNorm 3 : 2 · normkit compare</title>"):
        page.write_text(ours, "utf-8")
        check_page(page, "--report")
    for foreign in ("<title>On normkit</title>", "no page at all"):
        page.write_text(foreign, "utf-8")
        with pytest.raises(ArgumentError, match="--report: expected a new file or a page that normkit made, got"):
            check_page(page, "--report")
        assert page.read_text("utf-8") == foreign


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"--task: expected readable text, got 'bad\\udcff\.py'; rename what it names"
    ):
        words(["bad\udcff.py"], "--task")


def test_an_export_must_have_a_known_ending() -> None:
    message = r"--export: expected a file that ends in \.csv or \.jsonl, got 'runs\.xls'; change its name\."
    with pytest.raises(ArgumentError, match=message):
        check_new_file(Path("runs.xls"), "--export", (".csv", ".jsonl"), may_replace=True)


def test_what_is_there_stays_unless_force_is_given(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    check_new_file(path, "--export", (".csv",), may_replace=False)
    path.write_text("mine")
    with pytest.raises(ArgumentError, match=r"choose another name or add --force\."):
        check_new_file(path, "--export", (".csv",), may_replace=False)
    check_new_file(path, "--export", (".csv",), may_replace=True)
    assert path.read_text() == "mine"
