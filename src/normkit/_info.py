"""Which path runs here, and why."""

from __future__ import annotations

import platform

import numpy
import torch

from normkit._version import __version__
from normkit.kernels import cpu, eager


def info() -> str:
    """A few lines for a person or a bug report: versions, the machine, and which path the layers take.

    Example:
        >>> print(info().splitlines()[0].split()[0])
        normkit
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return "\n".join(
        [
            f"normkit {__version__}",
            f"torch {torch.__version__} · numpy {numpy.__version__} · Python {platform.python_version()}",
            f"{platform.machine()} · {torch.get_num_threads()} threads · CUDA device: {device}",
            f"path: {_path()}",
            *([] if cpu.LIBRARY is None else _memory(cpu.LIBRARY.stream_bytes())),
        ]
    )


def _memory(stream_bytes: int) -> list[str]:
    return [f"outputs: {_outputs(stream_bytes)}", f"freed memory: {_kept()}"]


def _kept() -> str:
    if not cpu.KEEPS_FREED_MEMORY:
        return "as the C library has it (NORMKIT_KEEP_FREED)"
    if cpu.HEAP_LIMITS:
        return f"as {', '.join(cpu.HEAP_LIMITS)} has it"
    if platform.libc_ver()[0] != "glibc":
        return "as the C library has it"
    return "the heap keeps up to 64 MiB, and that of each further thread 32 (NORMKIT_KEEP_FREED)"


def _outputs(stream_bytes: int) -> str:
    if stream_bytes > 2**60:
        return "all written to the caches"
    return f"written past the caches from {stream_bytes / 2**20:.4g} MiB on (NORMKIT_STREAM_BYTES)"


def _path() -> str:
    everywhere = "composite (torch operations, every device and dtype)"
    if cpu.LIBRARY is None:
        return f"{everywhere}; {cpu.DESCRIPTION}"
    return f"{cpu.DESCRIPTION} on the CPU, {eager.DESCRIPTION}; elsewhere {everywhere}"
