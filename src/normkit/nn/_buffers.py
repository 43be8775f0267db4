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

    @torch.no_grad()
    def put_back(self) -> None:
        """Every buffer is the same tensor with the same bits again. Those that have them are not written to.

        By their bits, since torch's own BatchNorm does not count what it writes as a version of the tensor.
        """
        for module, name, buffer, value in self._held:
            if buffer is not None and value is not None and not _same_bits(buffer, value):
                buffer.copy_(value)
            module._buffers[name] = buffer


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Also of NaN and −0. Sparse tensors are never taken for the same."""
    dense = a.layout == b.layout == torch.strided
    return dense and torch.equal(*(t.detach().reshape(-1).view(torch.uint8) for t in (a, b)))
