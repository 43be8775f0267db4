"""What a forward keeps alive until the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from normkit.bench.contenders import Contender


def saved_bytes(contender: Contender) -> int:
    """Bytes that autograd holds after one forward: each storage once, parameters not counted.

    The input counts where it is held: whoever holds it keeps it from being freed. What a function keeps by other
    means than ``save_for_backward`` is not seen.
    """
    parameters = {p.untyped_storage().data_ptr() for p in contender.module.parameters()}
    held: list[Tensor] = []  # alive to the end, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = contender.forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    del outputs
    return sum(size for address, size in storages.items() if address not in parameters)
