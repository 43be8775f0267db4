"""The same numbers in other places: every kind of stride that a tensor of some shape can have."""

from collections.abc import Callable

import torch
from torch import Tensor


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() in formats:
        return x.contiguous(memory_format=formats[x.dim()])
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() == 3 else x  # (N, L, C) seen as (N, C, L)


def strided(x: Tensor) -> Tensor:
    """Every second element along every axis of a tensor that holds NaN between them."""
    host = torch.full([2 * size for size in x.shape], float("nan"), dtype=x.dtype, device=x.device)
    view = host[tuple(slice(None, None, 2) for _ in x.shape)]
    return view.copy_(x)


def permuted(x: Tensor) -> Tensor:
    """The axes lie in memory in reverse order."""
    axes = tuple(reversed(range(x.dim())))
    return x.permute(axes).contiguous().permute(axes)


def first_axes_swapped(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x


def misaligned(x: Tensor) -> Tensor:
    """Starts one element after an allocation's start, so that no wide vector is aligned."""
    host = torch.full((x.numel() + 1,), float("nan"), dtype=x.dtype, device=x.device)
    return host[1:].view(x.shape).copy_(x)


def expanded_over_samples(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape)


def expanded_over_the_last_axis(x: Tensor) -> Tensor:
    return x[..., :1].expand(x.shape)


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    contiguous,
    channels_last,
    strided,
    permuted,
    first_axes_swapped,
    misaligned,
    expanded_over_samples,
    expanded_over_the_last_axis,
)


def strides(x: Tensor) -> tuple[int, ...]:
    """The strides that matter: along axes with more than one element, of tensors with elements."""
    return tuple(s for s, size in zip(x.stride(), x.shape, strict=True) if size > 1) if x.numel() else ()
