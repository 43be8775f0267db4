"""The first derivative as a kernel, and what its backward hands over to where more is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class KernelFunction(torch.autograd.Function):
    """A Function for calls of which ``choose`` has said that no torch.func transform is active.

    Looking for one again takes torch longer than a small norm.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


def through(
    compute: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    dy: Tensor,
    needed: tuple[bool, bool, bool],
) -> list[Tensor | None]:
    """The gradients of x, w and b of y = compute(x, w, b), differentiable with respect to x, w and dy.

    Without an activation the value of b enters none of them: any tensor like it will do.
    """
    with torch.enable_grad():
        # Views, so that one tensor given twice keeps two gradients.
        views = [None if t is None else t.view_as(t) for t in (x, w, b)]
        for view, need in zip(views, needed, strict=True):
            if need and view is not None and not view.requires_grad:
                view.requires_grad_()
        xi, wi, bi = views
        assert xi is not None
        wanted = [t for t, need in zip(views, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(compute(xi, wi, bi), wanted, dy, create_graph=True))
    return [next(found) if need and t is not None else None for t, need in zip(views, needed, strict=True)]
