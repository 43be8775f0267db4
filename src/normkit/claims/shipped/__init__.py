"""The records of a full run that come with the package: one file of JSON lines an experiment, compressed."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from normkit.claims.archive import Archive, changed_rules
from normkit.claims.records import PROTOCOL, JobRecord, decode_record, encode_record
from normkit.claims.register import claim, register
from normkit.claims.rulebook import rulebook
from normkit.claims.run import provenance
from normkit.claims.verdicts import Verdicts, decide
from normkit.errors import StoreError
from normkit.lab.extras import require
from normkit.lab.provenance import timestamp

FOLDER = Path(__file__).parent
ABOUT = "experiments.json"


def shipped(claims: Sequence[str] | None = None, folder: Path | None = None) -> Verdicts:
    """The verdicts on the measurements that come with the package: nothing is computed.

    Args:
        claims: ids; None for all.
        folder: where the records lie; None for those of the package.

    Raises:
        ArgumentError: there is no such claim.
        StoreError: a file of records is damaged.
    """
    started = time.monotonic()
    require("scipy.special", extra="lab", call="claims")
    chosen = [claim(id_) for id_ in dict.fromkeys(claims)] if claims is not None else list(register().values())
    folder = folder or FOLDER
    records = read(folder)
    measurements = Archive(records).everything()
    verdicts, findings = decide(chosen, rulebook(), measurements)
    return Verdicts(
        verdicts=verdicts,
        findings=findings,
        measurements=measurements,
        records=tuple(records),
        experiments=_experiments(folder),
        tier="full",
        is_shipped=True,
        notes=changed_rules(records),
        n_resumed=len(records),
        wall_s=time.monotonic() - started,
        provenance=provenance(records, timestamp()),
    )


def read(folder: Path) -> list[JobRecord]:
    """Every record of a folder.

    Raises:
        StoreError: a file is damaged, or of another version.
    """
    records = []
    for path in sorted(folder.glob("E[0-9][0-9].jsonl.gz")):
        with _undamaged(path), gzip.open(path, "rt", encoding="utf-8") as file:
            found = [decode_record(line) for line in file]
            if not found:
                raise EOFError("it is empty")
        records += found
        if others := {record.spec.protocol for record in found} - {PROTOCOL}:
            raise StoreError(
                f"claims: expected records of protocol {PROTOCOL} in {path}, got {min(others)}, of another version of "
                "normkit; install normkit again."
            )
    return records


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Within: whatever a damaged file can give rise to is one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"claims: expected records in {path}, got a damaged file ({error}); install normkit again."
        ) from error


def write(verdicts: Verdicts, folder: Path) -> list[Path]:
    """Write the records behind some verdicts, a file an experiment; older ones of the same experiments are replaced.

    The same records give the same bytes.

    Returns:
        The files.

    Raises:
        StoreError: what the folder has of experiments is damaged; nothing is written.
        OSError: the folder cannot be written.
    """
    about = _experiments(folder) | dict(verdicts.experiments)
    by_experiment: dict[str, list[str]] = {}
    for record in verdicts.records:
        by_experiment.setdefault(record.spec.task, []).append(encode_record(record) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for id_, lines in sorted(by_experiment.items()):
        path = folder / f"{id_}.jsonl.gz"
        path.write_bytes(gzip.compress("".join(sorted(lines)).encode(), mtime=0))
        written.append(path)
    (folder / ABOUT).write_text(json.dumps(dict(sorted(about.items())), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return written


def _experiments(folder: Path) -> dict[str, tuple[str, str]]:
    """Title and question of each experiment: without importing them, which takes seconds."""
    path = folder / ABOUT
    with _undamaged(path):
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {id_: (title, question) for id_, (title, question) in found.items()}
