"""The code that an experiment goes through, as a hash: measurements of other code are never used."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from normkit.claims.experiments import files
from normkit.lab.foundation import CODE, foundation_hash

_ROOT = Path(__file__).parents[1]

# Of the package, what an experiment may import beside what every run rests on; the rest tells of runs only.
_COUNTED = ("claims/experiments/", "lab/tasks/", "reference/")


@cache
def code_hash(experiment: str) -> str:
    """SHA-256 of what every run rests on, of the experiment's file and of what it imports from this package."""
    digest = hashlib.sha256(foundation_hash().encode())
    for file in sorted(_reached(files()[experiment])):
        digest.update(f"{file.parent.name}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _reached(start: Path) -> set[Path]:
    """The file and those that it imports, directly or through one another, as far as they count."""
    found, waiting = {start}, [start]
    while waiting:
        new = {file for file in _imported(waiting.pop()) if _counts(file)} - found
        found |= new
        waiting += new
    return found


def _counts(file: Path) -> bool:
    name = file.relative_to(_ROOT).as_posix()
    in_foundation = any(name == entry or name.startswith(f"{entry}/") for entry in CODE)
    return not in_foundation and name.startswith(_COUNTED) and name != "claims/experiments/__init__.py"


def _imported(file: Path) -> set[Path]:
    """The files of this package that a file's import statements name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    paths = (_ROOT.joinpath(*name.split(".")[1:]) for name in names if name.split(".")[0] == "normkit")
    return {found for path in paths for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()}
