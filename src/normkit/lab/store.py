"""Finished runs in one SQLite file, each under the key of its spec."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Generic
from uuid import uuid4

from normkit.errors import StoreError
from normkit.lab.encoding import RUNS
from normkit.lab.form import Form, RecordT, SpecT

APPLICATION_ID = 0x6E6F726D  # "norm", in the file's header: what tells a store from any other SQLite file
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 20.0

# Offsets in the header of a SQLite file, https://www.sqlite.org/fileformat2.html section 1.3
_MAGIC = b"SQLite format 3\x00"
_USER_VERSION = slice(60, 64)
_APPLICATION_ID = slice(68, 72)

# Every store has the table of training runs; those of other kinds of work come when they are first asked for.
_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    key TEXT PRIMARY KEY,
    protocol INTEGER NOT NULL,
    task TEXT NOT NULL,
    task_hash TEXT NOT NULL,
    record TEXT NOT NULL
) WITHOUT ROWID;
"""


class Store(Generic[SpecT, RecordT]):
    """Finished runs, each safe on disk as soon as :meth:`add` returns.

    Commands may share a file at the same time, and may be killed at any point: what was added stays. A run
    with status "failed" is not kept, for the machine failed and not the run: the next command tries again.

    Args:
        path: the file, made if there is none; None keeps the runs in memory only.
        form: the kind of work that is kept; each has a table of its own in the file.

    Raises:
        StoreError: the file is something else, newer than this version, damaged or out of reach. It is then
            left as it was.

    Example:
        >>> with Store(None) as store:
        ...     len(store)
        0
    """

    def __init__(
        self,
        path: str | Path | None,
        form: Form[SpecT, RecordT] = RUNS,  # type: ignore[assignment]  # unless another is said
    ) -> None:
        self.path = None if path is None else Path(path)
        self._form = form
        if self.path is not None:
            _prepare_file(self.path)
        with self._explained("read"):
            self._connection = _connect(self.path)
        try:
            with self._explained("read"):
                self._check_content()
        except StoreError:
            self._connection.close()
            raise

    def __enter__(self) -> Store[SpecT, RecordT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._explained("read"):
            (count,) = self._connection.execute(f"SELECT count(*) FROM {self._form.table}").fetchone()
        return int(count)

    def add(self, record: RecordT) -> None:
        """Keep a finished run. If the same run is there already, from another command say, that one stays."""
        if record.status == "failed":
            return
        spec = record.spec
        row = (spec.key, spec.protocol, spec.task, spec.task_hash, self._form.encode_record(record))
        with self._explained("write"):
            self._connection.execute(f"INSERT OR IGNORE INTO {self._form.table} VALUES (?, ?, ?, ?, ?)", row)

    def get(self, spec: SpecT) -> RecordT | None:
        """The outcome of a run, if it is there."""
        with self._explained("read"):
            query = f"SELECT record FROM {self._form.table} WHERE key = ? AND protocol = ?"
            row = self._connection.execute(query, (spec.key, self._form.protocol)).fetchone()
        return None if row is None else self._decoded(spec.key, row[0])

    def records(self, task_hashes: Iterable[str] | None = None) -> Iterator[RecordT]:
        """The runs of this version's protocol: all of them, or those of some tasks."""
        wanted = None if task_hashes is None else set(task_hashes)
        query = f"SELECT key, task_hash, record FROM {self._form.table} WHERE protocol = ? ORDER BY key"
        with self._explained("read"):
            rows = self._connection.execute(query, (self._form.protocol,)).fetchall()
        for key, task_hash, text in rows:
            if wanted is None or task_hash in wanted:
                yield self._decoded(key, text)

    def n_foreign(self, task_hashes: Iterable[str]) -> int:
        """How many runs are of another protocol or of none of these tasks, which may have been edited. They stay."""
        known = set(task_hashes)
        with self._explained("read"):
            rows = self._connection.execute(f"SELECT protocol, task_hash FROM {self._form.table}").fetchall()
        return sum(protocol != self._form.protocol or task_hash not in known for protocol, task_hash in rows)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _check_content(self) -> None:
        """Find damage, or a file that cannot be written, before the training that would have to be saved."""
        self._connection.execute("PRAGMA synchronous = FULL")
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.splitlines()[-1])
        self._connection.execute("SELECT key, protocol, task, task_hash, record FROM runs LIMIT 0")
        self._connection.executescript(_TABLE.format(table=self._form.table))
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("ROLLBACK")

    def _decoded(self, key: str, text: str) -> RecordT:
        try:
            record = self._form.decode_record(text)
            if record.spec.key != key:
                raise ValueError(f"it lies under the key {key[:12]}…, not its own")
            return record
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"store: expected runs in {self.path}, got a row that is none ({error}); "
                "the file is damaged: move it away and start a new one."
            ) from error

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Every error of SQLite as a sentence that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(_explain(self.path, action, error)) from error


def _connect(path: Path | None) -> sqlite3.Connection:
    """A connection in which every statement is its own transaction, on disk when it returns."""
    if path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.executescript(_TABLE.format(table=RUNS.table))
        return connection
    # mode=rw: were the file deleted since it was looked at, SQLite must not make an empty one in its place.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _prepare_file(path: Path) -> None:
    """Make the file if there is none; refuse any that is not a store, without letting SQLite touch it."""
    try:
        if not path.exists():
            _create(path)
        if path.is_dir():
            raise StoreError(f"store: expected a file, got the directory {path}; name a file inside it.")
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise StoreError(_explain_os(path, error)) from error
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(
            f"store: expected a file of runs, got {path}, which is no SQLite file and was left as it is; "
            "name another file."
        )
    if int.from_bytes(header[_APPLICATION_ID], "big") != APPLICATION_ID:
        raise StoreError(
            f"store: expected a file of runs, got {path}, a SQLite file of another program, left as it is; "
            "name another file."
        )
    version = int.from_bytes(header[_USER_VERSION], "big")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"store: expected schema version {SCHEMA_VERSION}, got {version} in {path}, which another version "
            "of normkit wrote; update normkit or name another file."
        )


def _create(path: Path) -> None:
    """Build an empty store beside ``path`` and put it into place whole.

    So nobody ever sees half a store, and of two commands that create it at once one wins and both go on.
    """
    if not path.parent.is_dir():
        raise StoreError(f"store: expected an existing directory, got {path.parent}; make it first.")
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.executescript(_TABLE.format(table=RUNS.table))
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        _link(draft, path)
    except sqlite3.Error as error:
        raise StoreError(_explain(path, "make", error)) from error
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + end).unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> None:
    """Give the draft its name, unless another command has just taken it: that store serves as well."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            draft.rename(path)


def _explain(path: Path | None, action: str, error: sqlite3.Error) -> str:
    """What went wrong in SQLite, in the user's terms. Its codes have no names before Python 3.11, its texts do."""
    text = str(error)
    wanted = f"store: expected to {action} {path}"
    if "disk is full" in text:
        return f"{wanted}, got a full disk; all runs finished before are safe in it: make room and go on."
    if "locked" in text:
        return (
            f"{wanted} within {BUSY_TIMEOUT_S:.0f} s, got a file that another process holds; "
            "end that process or name another file."
        )
    if "readonly" in text or "unable to open" in text:
        return f"{wanted}, got no permission ({text}); make it and its directory writable or name another file."
    if "I/O" in text:
        return f"{wanted}, got an error of the disk ({text}); name a file on another disk."
    return f"{wanted}, got a damaged file ({text}); nothing in it was overwritten: move it away and start a new one."


def _explain_os(path: Path, error: OSError) -> str:
    return f"store: expected to read or make {path}, got {error.strerror or error}; name another file."
