"""Take a model back to what it was when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from normkit.nn._buffers import BufferState


@contextmanager
def restored_on_error(model: torch.nn.Module) -> Iterator[None]:
    """Every buffer of the model is the same tensor with the same bits again after whatever exception."""
    before = BufferState(model.modules())
    try:
        yield
    except BaseException:
        before.put_back()
        raise
