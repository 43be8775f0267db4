"""What an install without a working compiler leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(os.name != "posix", reason="names the compiler as POSIX systems do")
def test_without_a_compiler_the_package_installs_and_says_why(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "*.reason", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "normkit"
    of_before = [package / "_C.abi3.so", package / f"_eager{sysconfig.get_config_var('EXT_SUFFIX')}"]
    for library in of_before:
        library.write_bytes(b"a library of an earlier build")
    here = {**os.environ, "CC": "false", "CXX": "false", "PYTHONPATH": str(tmp_path / "src")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=here, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("setup.py", "-q", "build_ext", "--inplace")  # as an editable install does
    assert not any(library.exists() for library in of_before)
    assert "CompileError" in (package / "_eager.reason").read_text()
    path = run("-m", "normkit", "info").splitlines()[3]
    expected = (
        "path: composite (torch operations, every device and dtype); the compiled library is not there: CompileError"
    )
    assert path.startswith(expected), path
    assert "'false'" in path, path
