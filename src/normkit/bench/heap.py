"""The C library's heap, told to keep what is freed.

glibc gives the top of the heap back to the system whenever much of it is free. Whether an output of some 25 MB then
finds its memory or page faults (thousands a call, more time than the norm itself) is a matter of what was allocated
before, and falls on one contender and not on another.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # as high as glibc's own goes by itself, and no higher
KEPT = 2**30


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation, for all contenders alike and for the rest of the process.

    Outputs above 32 MiB are mapped anew each time even so, as they are for every user.

    Returns:
        False where the C library is not glibc: then nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, KEPT))
