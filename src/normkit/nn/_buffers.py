"""Take the buffers of modules back to what they were."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class BufferState:
    """Every buffer of some modules: which tensor it is, and its bits."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._held: list[tuple[torch.nn.Module, str, Tensor | None, Tensor | None]] = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module in modules
            for name, buffer in module._buffers.items()
        ]
        self._versions = [_version(buffer) for _, _, buffer, _ in self._held]

    @torch.no_grad()
    def put_back(self) -> None:
        """Every buffer is the same tensor with the same bits again. Those that nothing wrote to are not touched."""
        for i, (module, name, buffer, value) in enumerate(self._held):
            if buffer is not None and value is not None and _version(buffer) != self._versions[i]:
                buffer.copy_(value)
                self._versions[i] = _version(buffer)
            module._buffers[name] = buffer


def _version(buffer: Tensor | None) -> int:
    """How often the buffer was written to."""
    return 0 if buffer is None else buffer._version
