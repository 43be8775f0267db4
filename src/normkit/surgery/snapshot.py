"""Take a model back to what it was when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def restored_on_error(model: torch.nn.Module) -> Iterator[None]:
    """Every buffer of the model is the same tensor with the same bits again after whatever exception."""
    before = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for module, name, buffer, value in before:
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                module._buffers[name] = buffer
        raise
