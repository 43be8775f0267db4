"""A task file to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from normkit.errors import ArgumentError
from normkit.lab.loading import is_file


def write_template(path: str | Path) -> Path:
    """Writes a commented task that runs as it is.

    Raises:
        ArgumentError: if the name does not end in .py, if something is there already, or if the folder is not
            there or cannot be written to.
    """
    path = Path(path)
    if not is_file(str(path)):
        raise ArgumentError(f"write_template: expected a name that ends in .py, got {str(path)!r}; add it.")
    text = (resources.files("normkit.lab") / "templates" / "my_task.py").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("my_task.py", path.name))
    except FileExistsError:
        raise ArgumentError(
            f"write_template: expected a path where nothing is, got {str(path)!r}; choose another name."
        ) from None
    except OSError as error:
        raise ArgumentError(
            f"write_template: expected a place to write to, got {str(path)!r} ({error.strerror}); choose another."
        ) from None
    return path
