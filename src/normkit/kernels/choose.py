"""Whether a call takes a compiled kernel, and if not, why.

A kernel reads memory: it needs plain CPU tensors, and nobody who watches operations go by (functorch, forward AD,
tracing, dispatch modes). Everything else takes ``composite``, which is right everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from normkit.kernels import cpu


def why_not_here() -> str | None:
    """What about the surroundings keeps calls from the kernels; None if nothing does."""
    if cpu.LIBRARY is None:
        return cpu.DESCRIPTION
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a dispatch mode is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit is tracing"
    return None


def why_not(*tensors: Tensor | None) -> str | None:
    """Why a call on these tensors does not take a kernel; None if it does."""
    return why_not_here() or why_not_these(*tensors)


def why_not_these(*tensors: Tensor | None) -> str | None:
    """What about the tensors keeps them from a kernel; None if nothing does."""
    for t in tensors:
        if t is None:
            continue
        if type(t) is not Tensor and type(t) is not Parameter:
            return f"{type(t).__name__} is a tensor subclass"
        if not t.is_cpu:
            return f"there is no kernel for device {t.device.type}"
        if t.dtype not in cpu.DTYPE_CODES:
            return f"there is no kernel for {t.dtype}"
        if t.layout is not torch.strided or t.is_neg():
            return "the tensor is not in plain memory"
    return None


def wants_composite_backward(*gradients: Tensor | None) -> bool:
    """Whether a backward is itself to be differentiated, or its gradients are not plain memory."""
    return torch.is_grad_enabled() or why_not(*gradients) is not None
