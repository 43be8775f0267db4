"""Builds the package, and its compiled kernels where a compiler and torch are at hand.

Two libraries: `_C`, the kernels, by torch's stable ABI, for every torch from 2.10 and every Python; and `_eager`, which
calls them without Python in between, by libtorch's C++, for the torch and the Python that it is built with. Both are
optional: without them the package installs and computes through torch operations, and the files `_C.reason` and
`_eager.reason` beside the package's modules say why, for `normkit info`. Everything else is in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("csrc/core")
COMMON_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-ffp-contract=off",  # fused only where the source says so: the same bits on every instruction set
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-uninitialized",  # false alarms inside gcc's own AVX-512 headers
    "-Wno-maybe-uninitialized",
]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
# The instruction sets, each with its flags: the files of ISA_SOURCES are compiled once for each.
X86_ISAS = {
    "portable": ["-O1"],  # for processors before 2013: sooner compiled
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-DNK_BFLOAT16_ALONE"],  # the rest comes from avx512 (kernels.cpp)
}
# Where the compiler knows them (gcc from 12 on). Else it may copy a vector through memory in halves, and what reads it
# whole waits until both are written: short planes took up to 1.6 times as long.
FLAGS_IF_KNOWN = {"avx2": ["-mmove-max=256", "-mstore-max=256"]}
# At -O3 gcc takes three times as long for these, makes three times the code, and their kernels gain nothing by it.
FLAGS_OF_FILES = {"pixels_backward": ["-O2"], "masked_pixels": ["-O2"]}
OTHER_ISAS: dict[str, list[str]] = {"portable": []}
ISA_SOURCES = sorted((CORE / "isa").glob("*.cpp"))
CORE_SOURCES = sorted(CORE.glob("*.cpp"))
TORCH_SOURCES = ["csrc/module.cpp", "csrc/torch_ops.cpp"]
EAGER_FLAGS = ["-Wno-unused-parameter", "-Wno-attributes"]  # torch's own headers have many
EAGER_SOURCES = ["csrc/eager/module.cpp", "csrc/eager/nodes.cpp"]
LEAST_TORCH = "0x020a000000000000"  # TORCH_TARGET_VERSION: 2.10
# What the two libraries must agree about.
SHARED_HEADERS = [
    *(CORE / f"{name}.h" for name in ("types", "row_norm", "channel_norm", "layer_norm2d")),
    "csrc/table.h",
]


def on_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def isas() -> dict[str, list[str]]:
    return X86_ISAS if on_x86() else OTHER_ISAS


@dataclass(frozen=True)
class Unit:
    """A file to compile; those of ISA_SOURCES are compiled for one instruction set at a time."""

    source: Path
    isa: str = ""

    @property
    def flags(self) -> list[str]:
        own = FLAGS_OF_FILES.get(self.source.stem, [])
        return [f"-DNK_ISA={self.isa}", *own, *isas()[self.isa]] if self.isa else []


def core_units() -> list[Unit]:
    """All of the core for this machine, what takes longest first."""
    by_isa = [
        Unit(source, isa)
        for source in sorted(ISA_SOURCES, key=lambda path: "masked" not in path.name)
        for isa in isas()
        if isa != "avx512_bf16" or source.stem not in ("product", "recurrent")  # have no bfloat16
    ]
    return [*by_isa, *map(Unit, CORE_SOURCES)]


def takes(compiler: list[str], flags: list[str]) -> bool:
    """Whether a compiler is there and knows these flags."""
    command = [*compiler, *flags, "-x", "c++", "-E", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def core_macros() -> list[tuple[str, str | None]]:
    return [("NORMKIT_X86_KERNELS", None)] if on_x86() else []


def shared_macros() -> list[tuple[str, str | None]]:
    digest = hashlib.sha256(b"".join(Path(header).read_bytes() for header in SHARED_HEADERS)).hexdigest()
    return [("NORMKIT_HEADERS", f'"{digest[:16]}"')]


def reason_of(library: Path) -> Path:
    """The file that says why a library is not there."""
    return library.with_name(f"{library.name.partition('.')[0]}.reason")


class BuildKernels(build_ext):
    """Compiles all files at once, each with its own flags; a failure leaves a reason, not an error."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # both libraries at once

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        reason = reason_of(library)
        try:
            self._build(ext, library)
        except Exception as error:
            library.unlink(missing_ok=True)
            library.parent.mkdir(parents=True, exist_ok=True)
            reason.write_text(f"{type(error).__name__} when the package was built: {str(error)[:200]}\n")
            self.warn(f"{ext.name} was not built ({error}); the package works without it")
        else:
            reason.unlink(missing_ok=True)

    def copy_extensions_to_source(self) -> None:
        """What this build left, library or reason, goes beside the sources; nothing of an earlier one stays."""
        sources = Path(self.get_finalized_command("build_py").get_package_dir("normkit"))
        for ext in self.extensions:
            library = Path(self.build_lib, self.get_ext_filename(ext.name))
            for built in (library, reason_of(library)):
                (sources / built.name).unlink(missing_ok=True)
                if built.exists():
                    self.copy_file(str(built), str(sources))

    def _build(self, ext: Extension, library: Path) -> None:
        try:
            from torch.utils import cpp_extension
        except ImportError:
            raise RuntimeError(
                "torch was not installed in the build environment; install with --no-build-isolation"
            ) from None
        if self.compiler.compiler_type != "unix":
            raise RuntimeError(f"the kernels need gcc or clang, not {self.compiler.compiler_type}")

        macros = ext.define_macros + (macros_of_torch() if ext is eager else [])
        macos = sys.platform == "darwin"
        torch_libraries = ["c10", "torch_cpu", "torch_python"] if ext is eager else ["torch_cpu"]

        units = [*(core_units() if ext is kernels else []), *(Unit(Path(source)) for source in ext.sources)]

        # That of C++, which old versions of setuptools do not tell from that of C.
        compiler = getattr(self.compiler, "compiler_so_cxx", None) or self.compiler.compiler_so
        wanted = {unit.isa for unit in units} & FLAGS_IF_KNOWN.keys()
        if_known = {isa: FLAGS_IF_KNOWN[isa] for isa in wanted if takes(compiler, FLAGS_IF_KNOWN[isa])}

        def compile_one(unit: Unit) -> str:
            flags = [*COMMON_FLAGS, *unit.flags, *if_known.get(unit.isa, []), *(EAGER_FLAGS if ext is eager else [])]
            return self.compiler.compile(
                [str(unit.source)],
                output_dir=str(Path(self.build_temp, unit.isa)),
                macros=macros,
                include_dirs=[*cpp_extension.include_paths("cpu"), *self.include_dirs],
                extra_postargs=flags,
                depends=ext.depends,
            )[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, units))
        library.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            str(library),
            libraries=[] if macos else torch_libraries,
            library_dirs=cpp_extension.library_paths("cpu"),
            extra_postargs=["-undefined", "dynamic_lookup"] if macos else [],
            target_lang="c++",
        )


def macros_of_torch() -> list[tuple[str, str | None]]:
    """The one torch that the library will serve."""
    import torch

    return [
        ("NORMKIT_TORCH_VERSION", f'"{torch.__version__}"'),
        ("NORMKIT_TORCH_COMMIT", f'"{torch.version.git_version}"'),
        ("_GLIBCXX_USE_CXX11_ABI", str(int(torch.compiled_with_cxx11_abi()))),
    ]


HEADERS = [str(path) for path in sorted(Path("csrc").rglob("*.h"))]

kernels = Extension(
    "normkit._C",
    sources=TORCH_SOURCES,  # and the core: core_units()
    depends=[*HEADERS, *map(str, (*ISA_SOURCES, *CORE_SOURCES))],
    define_macros=[*core_macros(), *shared_macros(), ("TORCH_TARGET_VERSION", LEAST_TORCH)],
    py_limited_api=True,
    language="c++",
    optional=True,
)
eager = Extension(
    "normkit._eager",
    sources=EAGER_SOURCES,
    depends=HEADERS,
    define_macros=shared_macros(),
    language="c++",
    optional=True,
)

if __name__ == "__main__":
    setup(
        ext_modules=[kernels, eager],
        cmdclass={"build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
