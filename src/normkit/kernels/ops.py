"""The kernels as operators of torch, for graphs: ``torch.compile``, ``torch.export`` and what else reads schemas.

Eager calls go past the dispatcher (``rows``); these serve where a graph is made. The schemas are in
csrc/torch_ops.cpp; here are the shapes of the results and the derivatives. Importing this module registers them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normkit.composite import Activation
from normkit.kernels import channels, cpu


def row_norm(norm: cpu.Norm, x: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """The operator that stands for ``rows.row_norm`` in a graph."""
    y: Tensor
    if norm == "layer_norm":
        y = torch.ops.normkit.layer_norm(x, w, b, n_axes, eps)[0]
    else:
        y = torch.ops.normkit.rms_norm(x, w, n_axes, eps)[0]
    return y


def add_row_norm(
    norm: cpu.Norm, x: Tensor, residual: Tensor, n_axes: int, w: Tensor | None, b: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The operator that stands for ``rows.add_row_norm`` without dropout in a graph."""
    if norm == "layer_norm":
        y, z, _ = torch.ops.normkit.add_layer_norm(x, residual, w, b, n_axes, eps)
    else:
        y, z, _ = torch.ops.normkit.add_rms_norm(x, residual, w, n_axes, eps)
    return y, z


def channel_norm(
    x: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    given: channels.MeanAndVar | None = None,
) -> tuple[Tensor, Tensor]:
    """The operator that stands for ``channels.channel_norm`` in a graph; its statistics are those of ``cpu``."""
    mean, var = given or (None, None)
    y, stats = torch.ops.normkit.channel_norm(x, w, b, mean, var, n_groups, eps, cpu.ACTIVATION_CODES[activation])
    return y, stats


def layer_norm2d(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """The operator that stands for ``layer_norm2d.layer_norm2d`` in a graph."""
    y: Tensor = torch.ops.normkit.layer_norm2d(x, w, b, eps)[0]
    return y


def _stats_like(x: Tensor, n_axes: int, per_row: int) -> Tensor:
    n_rows = math.prod(x.shape[: x.dim() - n_axes])
    return x.new_empty((n_rows, per_row) if per_row > 1 else (n_rows,), dtype=cpu.STATS_DTYPES[x.dtype])


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _layer_norm_fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n_axes: int, eps: float
) -> tuple[Tensor, Tensor]:
    return _like(x), _stats_like(x, n_axes, 3)


def _add_layer_norm_fake(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, n_axes: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x), _like(x), _stats_like(x, n_axes, 3)


def _layer_norm_backward_fake(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    d_sum: Tensor | None,
    n_axes: int,
    eps: float,
    need_dx: bool,
    need_dw: bool,
    need_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _wanted(x, x, need_dx), _wanted(x, weight, need_dw), _wanted(x, bias, need_db)


def _rms_norm_fake(x: Tensor, weight: Tensor | None, n_axes: int, eps: float) -> tuple[Tensor, Tensor]:
    return _like(x), _stats_like(x, n_axes, 1)


def _add_rms_norm_fake(
    x: Tensor, residual: Tensor, weight: Tensor | None, n_axes: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x), _like(x), _stats_like(x, n_axes, 1)


def _rms_norm_backward_fake(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    d_sum: Tensor | None,
    n_axes: int,
    eps: float,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor]:
    return _wanted(x, x, need_dx), _wanted(x, weight, need_dw)


def _wanted(x: Tensor, like: Tensor | None, need: bool) -> Tensor:
    """A gradient that is not needed is an empty tensor."""
    return _like(like) if need and like is not None else x.new_empty(0)


def _save_layer_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, b, ctx.n_axes, ctx.eps = inputs
    ctx.save_for_backward(x, w, b, output[1])


def _layer_norm_gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, w, b, stats = ctx.saved_tensors
    return *_layer_norm_backward(ctx, dy, x, stats, w, b, None, ctx.needs_input_grad[:3]), None, None


def _save_add_layer_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, w, b, ctx.n_axes, ctx.eps = inputs
    ctx.save_for_backward(output[1], w, b, output[2])


def _add_layer_norm_gradients(ctx: Any, dy: Tensor, d_sum: Tensor, _: Tensor) -> tuple[Any, ...]:
    z, w, b, stats = ctx.saved_tensors
    need_dx, need_dr, need_dw, need_db = ctx.needs_input_grad[:4]
    dz, dw, db = _layer_norm_backward(ctx, dy, z, stats, w, b, d_sum, (need_dx or need_dr, need_dw, need_db))
    return dz, dz, dw, db, None, None


def _layer_norm_backward(
    ctx: Any,
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    d_sum: Tensor | None,
    need: tuple[bool, bool, bool],
) -> list[Tensor | None]:
    found = torch.ops.normkit.layer_norm_backward(dy, x, stats, w, b, d_sum, ctx.n_axes, ctx.eps, *need)
    return [g if needed else None for g, needed in zip(found, need, strict=True)]


def _save_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, ctx.n_axes, ctx.eps = inputs
    ctx.save_for_backward(x, w, output[1])


def _rms_norm_gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, w, stats = ctx.saved_tensors
    return *_rms_norm_backward(ctx, dy, x, stats, w, None, ctx.needs_input_grad[:2]), None, None


def _save_add_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, w, ctx.n_axes, ctx.eps = inputs
    ctx.save_for_backward(output[1], w, output[2])


def _add_rms_norm_gradients(ctx: Any, dy: Tensor, d_sum: Tensor, _: Tensor) -> tuple[Any, ...]:
    z, w, stats = ctx.saved_tensors
    need_dx, need_dr, need_dw = ctx.needs_input_grad[:3]
    dz, dw = _rms_norm_backward(ctx, dy, z, stats, w, d_sum, (need_dx or need_dr, need_dw))
    return dz, dz, dw, None, None


def _rms_norm_backward(
    ctx: Any,
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    w: Tensor | None,
    d_sum: Tensor | None,
    need: tuple[bool, bool],
) -> list[Tensor | None]:
    found = torch.ops.normkit.rms_norm_backward(dy, x, stats, w, d_sum, ctx.n_axes, ctx.eps, *need)
    return [g if needed else None for g, needed in zip(found, need, strict=True)]


def _channel_norm_fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    num_groups: int,
    eps: float,
    activation: int = 0,
) -> tuple[Tensor, Tensor]:
    slabs = x.shape[1] if num_groups == 0 else x.shape[0] * num_groups
    return _laid_out_like(x), x.new_empty((slabs, 4), dtype=cpu.STATS_DTYPES[x.dtype])


def _channel_norm_backward_fake(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_groups: int,
    constant_stats: bool,
    eps: float,
    need_dx: bool,
    need_dw: bool,
    need_db: bool,
    activation: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = _laid_out_like(x) if need_dx else x.new_empty(0)
    return dx, _wanted(x, weight, need_dw), _wanted(x, bias, need_db)


def _laid_out_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=channels.memory_format(x))


def _save_channel_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, b, mean, _, ctx.n_groups, ctx.eps, ctx.activation = inputs
    ctx.constant_stats = mean is not None
    ctx.save_for_backward(x, w, b, output[1])


def _channel_norm_gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, w, b, stats = ctx.saved_tensors
    need = ctx.needs_input_grad[:3]
    found = torch.ops.normkit.channel_norm_backward(
        dy, x, stats, w, b, ctx.n_groups, ctx.constant_stats, ctx.eps, *need, ctx.activation
    )
    return *(g if needed else None for g, needed in zip(found, need, strict=True)), *(None,) * 5


def _layer_norm2d_fake(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    n, _, height, width = x.shape
    return _like(x), x.new_empty((n, 3, height * width), dtype=cpu.STATS_DTYPES[x.dtype])


def _layer_norm2d_backward_fake(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    need_dx: bool,
    need_dw: bool,
    need_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _wanted(x, x, need_dx), _wanted(x, weight, need_dw), _wanted(x, bias, need_db)


def _save_layer_norm2d(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, b, ctx.eps = inputs
    ctx.save_for_backward(x, w, b, output[1])


def _layer_norm2d_gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, w, b, stats = ctx.saved_tensors
    need = ctx.needs_input_grad[:3]
    found = torch.ops.normkit.layer_norm2d_backward(dy, x, stats, w, b, ctx.eps, *need)
    return *(g if needed else None for g, needed in zip(found, need, strict=True)), None


def _register() -> None:
    fakes: dict[str, Callable[..., Any]] = {
        "layer_norm": _layer_norm_fake,
        "add_layer_norm": _add_layer_norm_fake,
        "layer_norm_backward": _layer_norm_backward_fake,
        "rms_norm": _rms_norm_fake,
        "add_rms_norm": _add_rms_norm_fake,
        "rms_norm_backward": _rms_norm_backward_fake,
        "channel_norm": _channel_norm_fake,
        "channel_norm_backward": _channel_norm_backward_fake,
        "layer_norm2d": _layer_norm2d_fake,
        "layer_norm2d_backward": _layer_norm2d_backward_fake,
    }
    derivatives: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "layer_norm": (_layer_norm_gradients, _save_layer_norm),
        "add_layer_norm": (_add_layer_norm_gradients, _save_add_layer_norm),
        "rms_norm": (_rms_norm_gradients, _save_rms_norm),
        "add_rms_norm": (_add_rms_norm_gradients, _save_add_rms_norm),
        "channel_norm": (_channel_norm_gradients, _save_channel_norm),
        "layer_norm2d": (_layer_norm2d_gradients, _save_layer_norm2d),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"normkit::{name}", fake)
    for name, (gradients, save) in derivatives.items():
        torch.library.register_autograd(f"normkit::{name}", gradients, setup_context=save)


if cpu.LIBRARY is not None:
    _register()
