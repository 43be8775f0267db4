"""The modules that a task file imports from its own folder: which they are, and how it gets these and no others."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def own_files(file: Path) -> list[Path]:
    """The files of its own folder that a file imports, directly or through one another.

    Import statements are read, wherever they stand; nothing is run. Of a package every file counts.
    """
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        for name in _imported(waiting.pop()):
            new = set(_files_of(name, file.parent)) - found - {file}
            found |= new
            waiting += new
    return sorted(found)


class OwnImports:
    """Imports as for a script: those of a folder come first. And each folder has modules of its own.

    Two folders may hold different modules of one name. So each keeps what it imported, and puts it in place only
    while its own code is imported or called.

    Args:
        folder: where the task file lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within: import statements find this folder's modules. After: all is as before."""
        names = {name for name in _names(self._folder) if not self._holds(sys.modules.get(name))}
        others = _taken_out(names)
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self._folder))
        importlib.invalidate_caches()  # the folder may have changed within the clock of the file system
        try:
            yield
        finally:
            sys.path.remove(str(self._folder))
            self._modules.update(_taken_out(names))
            sys.modules.update(others)

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function that may import when it is called."""

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.in_place():
                return function(*args, **kwargs)

        return call

    def _holds(self, module: ModuleType | None) -> bool:
        """Whether a module is the folder's already, as where the caller's own program lies beside the task."""
        file = getattr(module, "__file__", None)
        return file is not None and self._folder in Path(file).parents


def _taken_out(names: set[str]) -> dict[str, ModuleType]:
    """These modules and their parts, which are no longer in ``sys.modules`` then."""
    gone = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in gone}


def _names(folder: Path) -> Iterator[str]:
    """What ``import`` finds in a folder."""
    for path in folder.iterdir():
        if path.suffix == ".py" or os.path.isfile(path / "__init__.py"):  # False, too, where it may not be looked into
            yield path.stem


def _files_of(name: str, folder: Path) -> Iterator[Path]:
    """The files behind an import of a name, if the folder has it."""
    if (folder / f"{name}.py").exists():
        yield folder / f"{name}.py"
    yield from (folder / name).rglob("*.py")


def _imported(file: Path) -> set[str]:
    """The first parts of the names that a file imports; none if it cannot be read, which loading it will say."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
