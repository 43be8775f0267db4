"""What every run rests on: the code that it goes through, and the packages whose arithmetic it does."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from normkit.kernels.cpu import library_file
from normkit.lab.provenance import environment

# In the package's folder; of a folder every file counts. Not in it: what only chooses runs, keeps them or tells of
# them, so that a better plan, table or report makes no run invalid.
CODE = (
    "_channel_norms.py",
    "_masked_norms.py",
    "_padding.py",
    "_with_statistics.py",
    "composite.py",
    "functional.py",
    "kernels",
    "moments.py",
    "nn",
    "pooling.py",
    "recurrence.py",
    "lab/data.py",
    "lab/evaluation.py",
    "lab/norms.py",
    "lab/task.py",
    "lab/training.py",
)

# torch computes; the data of tasks come through the others.
PACKAGES = ("torch", "numpy", "scikit-learn")


@cache
def foundation_hash() -> str:
    """SHA-256 of this code, of the compiled library if there is one, and of the versions of these packages."""
    root = Path(__file__).parents[1]
    paths = [root / name for name in CODE]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    library = library_file()
    digest.update(b"no library" if library is None else library.read_bytes())
    versions = environment()["versions"]
    digest.update(repr([(package, versions.get(package)) for package in PACKAGES]).encode())
    return digest.hexdigest()
