"""What makes a finished run another run: every module that it goes through, and nothing that only tells of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import normkit
from normkit.lab import foundation

PACKAGE = Path(normkit.__file__).parent

# Modules that are imported on the way to a run and do not decide its outcome: messages, plans, transport, storage.
# The definitions of the known tasks are in the hash of each task.
TELLING = {
    "normkit",
    "normkit._C",
    "normkit._eager",  # calls the kernels of _C; what comes out is the same to the bit without it
    "normkit._call_checks",
    "normkit._checks",
    "normkit._sequence_checks",
    "normkit._version",
    "normkit.errors",
    "normkit.lab",
    *(
        f"normkit.lab.{name}"
        for name in (
            "account",
            "canonical",
            "compare",
            "comparison",
            "costs",
            "encoding",
            "engines",
            "engines.base",
            "engines.choice",
            "engines.local",
            "engines.ray",
            "engines.worker",
            "extras",
            "form",
            "foundation",
            "loading",
            "neighbours",
            "outcome",
            "planner",
            "planning",
            "provenance",
            "records",
            "request",
            "schedule",
            "session",
            "statistics",
            "store",
            "tasks",
            "tasks.digits_cnn",
            "tasks.digits_recurrent",
            "tasks.digits_mlp",
            "tasks.digits_transformer",
            "tasks.memory",
            "tuning",
        )
    ),
}


def in_the_hash(module: str) -> bool:
    path = module.removeprefix("normkit.").replace(".", "/")
    return any(path == entry.removesuffix(".py") or path.startswith(f"{entry}/") for entry in foundation.CODE)


def test_every_module_that_a_run_imports_is_in_the_hash_or_known_not_to_matter() -> None:
    code = "import sys, normkit.lab.training; print(*(m for m in sys.modules if m.partition('.')[0] == 'normkit'))"
    imported = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert {module for module in imported - TELLING if not in_the_hash(module)} == set()
    assert [module for module in TELLING if in_the_hash(module)] == []
    assert [entry for entry in foundation.CODE if not (PACKAGE / entry).exists()] == []


@pytest.fixture
def a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that the hash is taken of."""
    copy = tmp_path / "normkit"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(foundation, "__file__", str(copy / "lab" / "foundation.py"))
    library = copy / "_C.abi3.so"
    library.write_bytes(b"machine code")
    monkeypatch.setattr(foundation, "library_file", lambda: library)
    return copy


def computed() -> str:
    return foundation.foundation_hash.__wrapped__()


@pytest.mark.parametrize(
    "name",
    [
        "nn/layer_norm.py",
        "functional.py",
        "composite.py",
        "moments.py",
        "kernels/rows.py",
        "lab/training.py",
        "lab/task.py",
        "_C.abi3.so",
    ],
)
def test_an_edit_of_what_a_run_goes_through_makes_another_run(name: str, a_copy: Path) -> None:
    before = computed()
    with (a_copy / name).open("ab") as file:
        file.write(b"\n# a word\n")
    assert computed() != before


@pytest.mark.parametrize("name", ["report/answer.py", "lab/planning.py", "lab/store.py", "cli/compare.py", "errors.py"])
def test_an_edit_of_what_tells_of_runs_does_not(name: str, a_copy: Path) -> None:
    before = computed()
    with (a_copy / name).open("ab") as file:
        file.write(b"\n# a word\n")
    assert computed() == before


def test_without_the_library_it_is_another_run(a_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = computed()
    monkeypatch.setattr(foundation, "library_file", lambda: None)
    assert computed() != before


@pytest.mark.parametrize("package", foundation.PACKAGES)
def test_another_version_below_it_makes_another_run(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = computed()
    versions = {**foundation.environment()["versions"], package: "999"}
    monkeypatch.setattr(foundation, "environment", lambda: {"versions": versions})
    assert computed() != before
