"""The core without torch: memory and arithmetic under the sanitizers; nothing shared between instruction sets."""

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


SANITIZED = [
    "-O0",  # with the rest the optimizer takes four times as long to compile as everything takes to run
    "-DNK_OUTLINED",
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size",  # AddressSanitizer finds the former; the latter needs the optimizer
    "-fno-sanitize-recover=all",
]
OUTLINED = ["--param", "asan-instrumentation-with-call-threshold=0"]  # gcc: half the time to compile


def runnable() -> list[str]:
    """The instruction sets of this processor, the best one last."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [
        isa
        for isa, needed in BUILD["isas"]().items()
        if all(flag.removeprefix("-m") in flags for flag in needed if flag.startswith("-m"))
    ]


def compile_core(folder: Path, isas: list[str], flags: list[str], files: str = "") -> list[Path]:
    """The core's object files for some instruction sets, with what the real build asks of any compiler, and more."""
    macros = [f"-D{name}" for name, _ in BUILD["core_macros"]()]

    def compile_one(source: Path, isa: str, own: list[str]) -> Path:
        target = folder / f"{isa}-{source.stem}.o"
        command = [COMPILER, *BUILD["COMMON_FLAGS"], *own, *macros, *flags, "-c", source, "-o", target]
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
        return target

    units = [(unit.source, unit.isa, unit.flags) for unit in BUILD["core_units"]() if unit.isa in ("", *isas)]
    units = [unit for unit in units if files in unit[0].stem]
    absent = [isa for isa in BUILD["isas"]() if isa not in isas]
    units += [(Path(__file__).with_name("absent.cpp"), isa, [f"-DNK_ISA={isa}"]) for isa in absent]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda unit: compile_one(*unit), units))


def compiles(tmp_path: Path, flags: list[str]) -> bool:
    command = [str(COMPILER), *flags, "-x", "c++", "-", "-o", str(tmp_path / "probe")]
    return subprocess.run(command, input=b"int main() {}", capture_output=True, check=False).returncode == 0


@pytest.mark.timeout(1500)  # compiling takes most of it
def test_every_kernel_under_the_sanitizers(tmp_path: Path) -> None:
    # All instruction sets are compiled from the same source. NORMKIT_SANITIZE names those to take: avx2,portable.
    isas = os.environ.get("NORMKIT_SANITIZE", runnable()[-1]).split(",")
    if not compiles(tmp_path, SANITIZED):
        pytest.skip("the compiler has no sanitizers")
    flags = SANITIZED + (OUTLINED if compiles(tmp_path, SANITIZED + OUTLINED) else [])
    objects = compile_core(tmp_path, isas, flags)
    driver = tmp_path / "driver"
    command = [
        COMPILER,
        "-std=c++20",
        "-pthread",
        *flags,
        Path(__file__).with_name("driver.cpp"),
        *objects,
        "-o",
        driver,
    ]
    subprocess.run(list(map(str, command)), check=True)
    done = subprocess.run([str(driver), *isas], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok: ")
    assert done.stdout.split(", on ")[1].split() == isas

    assert lent(objects, isas) == []


def test_no_instruction_set_lends_its_code_to_another(tmp_path: Path) -> None:
    isa = [*BUILD["isas"]()][-1]
    assert lent(compile_core(tmp_path, [isa], ["-O0"], files="rows"), [isa]) == []


def test_flags_that_a_compiler_does_not_know_are_left_out() -> None:
    assert BUILD["takes"]([COMPILER], ["-O1"])
    assert not BUILD["takes"]([COMPILER], ["-mno-such-flag"])


def lent(objects: list[Path], isas: list[str]) -> list[str]:
    """Functions outside the namespace of their instruction set: the linker keeps one for all, perhaps AVX-512 code."""
    if shutil.which("nm") is None:
        pytest.skip("there is no nm")
    found = []
    for path in objects:
        isa = path.stem.partition("-")[0]
        if isa in isas:
            listing = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True)
            weak = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
            found += [name for _, kind, name in weak if kind in "Ww" and f"normkit::{isa}::" not in name]
    return found
