"""What users type, as values: lists, and files that may or may not be written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from normkit.errors import ArgumentError


class Engine(str, Enum):
    local = "local"
    ray = "ray"


EngineChoice = Annotated[Engine, typer.Option(help="Worker processes here, or a Ray cluster.")]
Address = Annotated[str | None, typer.Option(help="An existing Ray cluster. [default: start one here]")]


def words(texts: Sequence[str], option: str) -> list[str]:
    """Repeated options and comma lists alike: ["a,b", "c"] is a, b, c. Each is kept once.

    An option that is given and names nothing (``--task "$UNSET"``) is refused: it was not meant to say everything.

    A task's own options hold commas too: in "digits-lstm:lengths=variable,sequence=pixels" the second part
    has an equals sign and no colon, and so belongs to the first.
    """
    found: list[str] = []
    for text in texts:
        if not text.isprintable():  # bytes that are no text, a control character: it could not be shown again
            raise ArgumentError(f"{option}: expected readable text, got {text!a}; rename what it names.")
        parts: list[str] = []
        for part in (piece.strip() for piece in text.split(",")):
            if parts and ":" in parts[-1] and "=" in part and ":" not in part:
                parts[-1] += f",{part}"
            elif part:
                parts.append(part)
        if not parts:
            raise ArgumentError(f"{option}: expected at least one value, got {text!r}; give one or leave {option} out.")
        found.extend(parts)
    return list(dict.fromkeys(found))


def whole_numbers(texts: Sequence[str], option: str) -> list[int]:
    """As :func:`words`, for numbers of at least 1."""
    found = words(texts, option)
    for text in found:
        if not _is_whole_number(text):
            raise ArgumentError(
                f"{option}: expected whole numbers of at least 1, got {text!r}; write {option} 2,16,128."
            )
    return [int(text) for text in found]


def _is_whole_number(text: str) -> bool:
    try:
        return text.isdecimal() and int(text) >= 1
    except ValueError:  # thousands of digits, which int() refuses to read
        return False


def check_file(path: Path, option: str) -> None:
    """Refuse, before any work is done, a place where no file can be written; its folder is made."""
    if path.is_dir():
        raise ArgumentError(f"{option}: expected a file, got the folder {str(path)!r}; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ArgumentError(f"{option}: expected a place for {str(path)!r}, got {reason}; choose another.") from None


def check_different(files: Mapping[str, Path]) -> None:
    """Refuse one file for two purposes, of which the later would replace the earlier."""
    taken: dict[Path, str] = {}
    for option, path in files.items():
        first = taken.setdefault(path.resolve(), option)
        if first != option:
            raise ArgumentError(
                f"{option}: expected another file than {first}, got {str(path)!r} for both; rename one."
            )


def check_page(path: Path, option: str) -> None:
    """Refuse to replace what is no page, or one that somebody else made."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"{option}: expected a file that ends in .html, got {str(path)!r}; change its name.")
    if path.is_file() and path.stat().st_size and not _is_ours(path):
        raise ArgumentError(
            f"{option}: expected a new file or a page that normkit made, got {str(path)!r}; choose another name, or "
            "remove it."
        )


def _is_ours(page: Path) -> bool:
    """Whether its title ends as those of our pages do."""
    with page.open("rb") as file:
        _, _, rest = file.read(1 << 16).partition(b"<title>")
    title, _, _ = rest.partition(b"</title>")
    return title.rpartition(" · ".encode())[2].startswith(b"normkit ")


def check_new_file(path: Path, option: str, suffixes: Sequence[str], *, may_replace: bool) -> None:
    """Refuse another kind of file, and one that is there already."""
    if path.suffix.lower() not in suffixes:
        *most, last = suffixes
        rule = f"{', '.join(most)} or {last}" if most else last
        raise ArgumentError(f"{option}: expected a file that ends in {rule}, got {str(path)!r}; change its name.")
    if path.exists() and not may_replace:
        raise ArgumentError(
            f"{option}: expected a path where nothing is, got {str(path)!r}; choose another name or add --force."
        )
