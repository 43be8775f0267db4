"""What the machine can do at best: a copy that moves as many bytes."""

from __future__ import annotations

import torch

from normkit.bench.timing import Call


def copy_of(n_bytes: int) -> Call:
    """A copy into memory that is already there, reading and writing ``n_bytes`` in all.

    What it does not pay is the first touch of a new output, which every contender that allocates one does.
    """
    source = torch.ones(max(n_bytes // 8, 1), dtype=torch.float32)
    target = torch.zeros_like(source)

    def copy() -> object:
        return target.copy_(source)

    return copy
