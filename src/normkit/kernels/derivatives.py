"""The first derivative as a kernel, and what its backward hands over to where more is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normkit.kernels import choose


class KernelFunction(torch.autograd.Function):
    """A Function for calls of which ``choose`` has said that no torch.func transform is active.

    Looking for one again takes torch longer than a small norm.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keeps tensors for a backward that reads their memory."""
    ctx.save_for_backward(*tensors)
    ctx.forms = [_form_of(t) for t in tensors]


def saved(ctx: Any) -> tuple[tuple[Tensor | None, ...], bool]:
    """What ``save`` kept, and whether it is still what a kernel may read, but for its strides.

    Hooks on saved tensors may give back anything. They run at each look, and a checkpoint's only once.
    """
    tensors: tuple[Tensor | None, ...] = ctx.saved_tensors
    plain = choose.are_plain_floats(*tensors) or all(map(_is_plain, tensors))
    return tensors, plain and [_form_of(t) for t in tensors] == ctx.forms


def _is_plain(t: Tensor | None) -> bool:
    if t is not None and t.dtype is torch.bool:  # a mask
        return type(t) is Tensor and t.is_cpu and t.layout is torch.strided and not t._is_zerotensor()
    return choose.why_not_these(t) is None


def _form_of(t: Tensor | None) -> tuple[torch.Size, torch.dtype] | None:
    return None if t is None else (t.shape, t.dtype)


def through(
    composite: Callable[..., Any],
    arguments: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of the arguments that are needed, as differentiable functions of arguments and ``gradients``.

    ``gradients`` are those of what ``composite`` of the arguments returns: a tensor or several. An argument whose value
    enters no gradient, as a norm's bias without an activation, may be any tensor like it.
    """
    with torch.enable_grad():
        # Views, so that one tensor given twice keeps two gradients.
        views = [None if t is None else t.view_as(t) for t in arguments]
        for view, need in zip(views, needed, strict=True):
            if need and view is not None and not view.requires_grad:
                view.requires_grad_()
        wanted = [view for view, need in zip(views, needed, strict=True) if need and view is not None]
        found = iter(torch.autograd.grad(composite(*views), wanted, gradients, create_graph=True, allow_unused=True))
    return [next(found) if need and view is not None else None for view, need in zip(views, needed, strict=True)]
