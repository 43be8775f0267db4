"""The core without torch: memory and arithmetic under the sanitizers, and nothing shared between instruction sets."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = runpy.run_path(str(ROOT / "setup.py"))
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(os.name != "posix", reason="the kernels are built with gcc or clang on POSIX systems"),
]


def build(folder: Path, *extra: str) -> list[Path]:
    """The core's object files, compiled with the flags of the real build and, if they can run here, some more."""
    cpuinfo = Path("/proc/cpuinfo")
    here = cpuinfo.read_text() if cpuinfo.exists() else ""
    macros = [f"-D{name}" for name, _ in BUILD["core_macros"]()]

    def compile_one(source: str) -> Path:
        target = folder / (Path(source).stem + ".o")
        own = BUILD["ISA_FLAGS"].get(Path(source).name, [])
        more = extra if all(flag.removeprefix("-m") in here for flag in own) else ["-O0"]
        command = [COMPILER, *BUILD["COMMON_FLAGS"], *own, *macros, *more, "-c", source, "-o", str(target)]
        subprocess.run(command, cwd=ROOT, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, BUILD["core_sources"]()))


@pytest.mark.timeout(1500)  # compiling takes most of it: four minutes of a core for each instruction set
def test_every_kernel_under_the_sanitizers(tmp_path: Path) -> None:
    # Unoptimized: with these flags the optimizer takes four times as long to compile as everything takes to run.
    flags = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = [str(COMPILER), *flags, "-x", "c++", "-", "-o", str(tmp_path / "probe")]
    if subprocess.run(probe, input=b"int main() {}", check=False).returncode:
        pytest.skip("the compiler has no sanitizers")
    objects = build(tmp_path, *flags)
    driver = tmp_path / "driver"
    source = str(Path(__file__).with_name("driver.cpp"))
    subprocess.run(
        [str(COMPILER), "-std=c++20", "-pthread", *flags, source, *map(str, objects), "-o", str(driver)], check=True
    )
    done = subprocess.run([str(driver)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok: ")
    if shutil.which("nm"):
        assert shared_code(objects) == {}


def shared_code(objects: list[Path]) -> dict[str, list[str]]:
    """Functions that objects for one instruction set share with others: the linker keeps one, perhaps AVX-512 code."""
    special = {str(Path(source).with_suffix(".o")) for source, flags in BUILD["ISA_FLAGS"].items() if flags}
    weak: dict[str, list[str]] = {}
    for path in objects:
        listing = subprocess.run(["nm", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            _, kind, name = line.split(maxsplit=2)
            if kind in "Ww":
                weak.setdefault(name, []).append(path.name)
    return {name: where for name, where in weak.items() if len(where) > 1 and special.intersection(where)}
