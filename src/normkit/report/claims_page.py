"""To come."""

from pathlib import Path

from normkit.claims import Verdicts


def write_claims(verdicts: Verdicts, path: Path) -> Path:
    return path
