"""From a text to a task: a name with options, or the path of a file. Any process can do it from the text alone."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

from normkit.errors import ArgumentError, NormkitError, TaskError
from normkit.lab.foundation import foundation_hash
from normkit.lab.neighbours import OwnImports, own_files
from normkit.lab.norms import nearest, one_of
from normkit.lab.task import Task
from normkit.lab.tasks import TASKS


def load_task(text: str) -> Task:
    """The task that a text names.

    Args:
        text: a known name, with options if any ("digits-lstm:lengths=variable,sequence=pixels"), or the path of
            a Python file that defines ``task = Task(...)``.

    Raises:
        ArgumentError: for an unknown name, option or value; the message lists the known ones and the nearest.
        TaskError: for a file that is missing, fails or defines no task; the message says where in it.
    """
    if is_file(text):
        return _run_file(Path(text).resolve(), _own_source(text))
    function, options = _known_task(text)
    changed = {key: value for key, value in options.items() if value != _defaults(function)[key]}
    name = text.partition(":")[0]
    if changed:
        name += ":" + ",".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return replace(function(**options), name=name)


def task_hash(text: str) -> str:
    """SHA-256 of all that defines a task: its source, its options, and what every run rests on.

    An edited task is another task; to a user's file belongs what it imports from its own folder. Data that it reads
    from elsewhere are not looked at.

    Raises:
        ArgumentError, TaskError: as :func:`load_task`, except that a file is not run.
    """
    if is_file(text):
        parts = [*_own_source(text)]
    else:
        function, options = _known_task(text)
        source = Path(inspect.getfile(function)).read_text(encoding="utf-8")
        parts = [source, repr(sorted({**_defaults(function), **options}.items()))]
    parts.append(foundation_hash())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_file(text: str) -> bool:
    """Whether a text names a task file rather than a known task."""
    return text.endswith(".py")


def place_of(function: Callable[..., object]) -> str:
    """The file and line of a function, or of a class that stands for one."""
    inner = inspect.unwrap(function)
    code = getattr(inner.__dict__.get("__init__") if isinstance(inner, type) else inner, "__code__", None)
    return repr(function) if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def blame(error: BaseException, text: str, otherwise: str = "") -> str:
    """One line on an error in a task: where in the task's file it came from, and what it says.

    What normkit says before any line of that file has run already is such a sentence, and stays as it is. An error
    from elsewhere, as from inside a model of torch's layers, is put ``otherwise``.
    """
    file = _defining_file(text)
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{Path(file).name}:{error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, NormkitError) and not (lines and is_file(text)):
        return f"{otherwise}: {error}" if otherwise and is_file(text) else str(error)
    place = f"{Path(file).name}:{lines[-1]}" if lines else otherwise or Path(file).name
    return f"{place}: {type(error).__name__}: {error}"


def _defining_file(text: str) -> str:
    function = TASKS.get(text.partition(":")[0])
    return str(Path(text).resolve()) if function is None else inspect.getfile(function)


def _known_task(text: str) -> tuple[Callable[..., Task], dict[str, str]]:
    """The function and the options that a text names, both checked."""
    name, colon, rest = text.partition(":")
    if name not in TASKS:
        hint = nearest(name, TASKS)
        raise ArgumentError(f"task: expected {one_of(TASKS)}, or the path of a file my_task.py, got {name!r}{hint}")
    hints = get_type_hints(TASKS[name])
    known = {key: get_args(hints[key]) for key in inspect.signature(TASKS[name]).parameters}
    options: dict[str, str] = {}
    for item in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not known:
            raise ArgumentError(f"{name}: expected no options, got {item!r}; write {name}.")
        if key not in known or not equals:
            written = [f"{key}={'|'.join(values)}" for key, values in known.items()]
            raise ArgumentError(f"{name}: expected option {one_of(written)}, got {item!r}{nearest(key, known)}")
        if value not in known[key]:
            raise ArgumentError(
                f"{name}: expected {key} to be {one_of(known[key])}, got {value!r}{nearest(value, known[key])}"
            )
        options[key] = value
    return TASKS[name], options


def _defaults(function: Callable[..., Task]) -> dict[str, str]:
    return {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}


def _own_source(text: str) -> tuple[str, ...]:
    """A task file, and the names and texts of what it imports from its own folder."""
    file = Path(text).resolve()
    parts = [_read(text)]
    for neighbour in own_files(file):
        parts += [
            neighbour.relative_to(file.parent).as_posix(),
            neighbour.read_text(encoding="utf-8", errors="replace"),
        ]
    return tuple(parts)


def _read(text: str) -> str:
    try:
        return Path(text).read_text(encoding="utf-8-sig")  # with the mark that some editors begin with
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise TaskError(
            f"task: expected a Python file, got {text!r}, which cannot be read ({reason}); "
            f"normkit compare --init {Path(text).name} writes one to start from."
        ) from error


@lru_cache(maxsize=8)
def _run_file(path: Path, source: tuple[str, ...]) -> Task:
    """The task of a file, by its source; the texts of its neighbours are there so that it runs again after an edit."""
    # As for a script: what it defines can be found by module name.
    module = ModuleType(f"normkit_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    own_imports = OwnImports(path.parent)
    try:
        with own_imports.in_place():
            exec(compile(source[0], str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise TaskError(blame(error, str(path))) from error
    task = getattr(module, "task", None)
    if not isinstance(task, Task):
        got = "no such name" if task is None else type(task).__name__
        raise TaskError(f"{path.name}: expected task = normkit.lab.Task(...), got {got}; define it in the file.")
    return replace(
        task,
        data=own_imports.around(task.data),
        build=own_imports.around(task.build),
        steps=own_imports.around(task.steps),
    )
