"""Whether a call takes a compiled kernel, and if not, why.

A kernel reads memory: it needs plain CPU tensors, and nobody who watches operations go by (functorch, forward AD,
tracing, dispatch modes). Everything else takes ``composite``, which is right everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from normkit.kernels import cpu, eager

# Bound once: each attribute on the way costs as much as the call.
_functorch_is_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_jit_state = torch._C._get_tracing_state
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


def accepts_row_norm(x: Tensor, shape: int | Sequence[int], w: Tensor | None, b: Tensor | None, eps: float) -> bool:
    """Whether this is a call, valid beyond doubt, that takes a kernel: the common case, decided in one look.

    False means that the arguments, of whatever type, must be checked; the call may be valid still.
    """
    if not accepts_here(eps):
        return False
    sizes = (shape,) if type(shape) is int else tuple(shape)  # type: ignore[arg-type]
    return cpu.LIBRARY.plain_rows(x, sizes, w, b) >= 0  # type: ignore[no-any-return]


def accepts_channel_norm(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, mean: Tensor | None = None, var: Tensor | None = None
) -> bool:
    """As ``accepts_row_norm``, for a contiguous (N, C, *) with values, and parameters and statistics of (C)."""
    return accepts_here(eps) and cpu.LIBRARY.plain_channels(x, w, b, mean, var)


def accepts_sum(x: Tensor, residual: Tensor) -> bool:
    """Whether a residual may be added to an x that ``accepts_row_norm``."""
    return cpu.LIBRARY.plain_sum(x, residual)  # type: ignore[no-any-return]


def accepts_here(eps: float) -> bool:
    """Whether surroundings and eps leave nothing to be looked at with care."""
    return not torch.compiler.is_compiling() and why_not_here() is None and type(eps) is float and 0.0 <= eps < math.inf


Path = Literal["kernel", "operator", "composite"]


def path_of(*tensors: Tensor | None) -> Path:
    """How a call on these tensors is computed. An operator is the kernel inside a graph that is being made."""
    if torch.compiler.is_compiling():
        if _functorch_is_active():  # operators know nothing of its wrapped tensors
            return "composite"
        usable = cpu.LIBRARY is not None and all(
            t is None or (t.device.type == "cpu" and t.dtype in cpu.DTYPE_CODES) for t in tensors
        )
        return "operator" if usable else "composite"
    return "kernel" if why_not(*tensors) is None else "composite"


def why_not_here() -> str | None:
    """What about the surroundings keeps calls from the kernels; None if nothing does."""
    if cpu.LIBRARY is None:
        return cpu.DESCRIPTION
    if _functorch_is_active():
        return "a torch.func transform is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if _dispatch_modes() > 0:
        return "a dispatch mode is active"
    if _jit_state() is not None:
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
        if t.layout is not torch.strided or t.is_nested or t.is_neg() or t._is_zerotensor():
            return "the tensor is not in plain memory"
    return None


def are_plain_floats(*tensors: Tensor | None) -> bool:
    """Whether each is None, or float32 with values in memory that a kernel may read."""
    return bool(eager.LIBRARY.plain_floats(*tensors)) or (
        why_not_these(*tensors) is None
        and all(t is None or (t.dtype == torch.float32 and t.numel() > 0) for t in tensors)
    )


def wants_composite_backward(gradient: Tensor) -> bool:
    """Whether a backward is itself to be differentiated, or its gradient is not plain memory."""
    return (
        torch.is_grad_enabled()
        or type(gradient) is not Tensor
        or _functorch_is_active()
        or forward_ad._current_level >= 0
        or _dispatch_modes() > 0
        or gradient.layout is not torch.strided
        or gradient.is_neg()
        or gradient._is_zerotensor()
        or _is_legacy_batched(gradient)  # what torch.autograd.grad(is_grads_batched=True) passes
    )
