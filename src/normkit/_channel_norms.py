"""The norms of images and sequences for arguments that have been checked: by kernel, operator or composite.

The three paths return the same numbers within rounding; ``kernels.choose`` says which one a call takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normkit import composite
from normkit.composite import Activation
from normkit.kernels import channels, choose, cpu, layer_norm2d, ops, rows
from normkit.kernels.channels import MeanAndVar
from normkit.moments import Moments


def normalize_batch(
    x: Tensor,
    running: MeanAndVar | None,
    w: Tensor | None,
    b: Tensor | None,
    momentum: float | Tensor,
    eps: float,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Each channel by its own statistics over the batch; running ones are updated in place."""
    path = _path_with_residual(x, w, b, running, activation, residual)
    if path == "kernel":
        return channels.channel_norm(
            x, 0, w, b, eps, activation, residual=residual, running=running, momentum=float(momentum)
        )
    if path == "operator":
        y, moments = _by_operator(x, 0, w, b, eps, activation)
    else:
        y, moments = composite.batch_norm(x, w, b, eps, activation, residual)
    _update(running, moments, x.numel() // x.shape[1] if x.shape[1] else 0, momentum)
    return y


def normalize_with(
    x: Tensor,
    given: MeanAndVar,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Each channel by the given statistics."""
    path = _path_with_residual(x, w, b, given, activation, residual)
    if path == "composite" or any(t.requires_grad for t in given):
        return composite.apply_statistics(x, *given, w, b, eps, activation, residual)
    if path == "kernel":
        return channels.channel_norm(x, 0, w, b, eps, activation, residual=residual, given=given)
    return ops.channel_norm(x, 0, w, b, eps, activation, given)[0]


def normalize_groups(
    x: Tensor, n_groups: int, w: Tensor | None, b: Tensor | None, eps: float, activation: Activation | None = None
) -> Tensor:
    """Each group of channels of each sample."""
    path = _path_of(x, w, b, None)
    if path == "kernel":
        return channels.channel_norm(x, n_groups, w, b, eps, activation)
    if path == "operator":
        return ops.channel_norm(x, n_groups, w, b, eps, activation)[0]
    return composite.group_norm(x, n_groups, w, b, eps, activation)


def normalize_instances(
    x: Tensor, running: MeanAndVar | None, w: Tensor | None, b: Tensor | None, momentum: float, eps: float
) -> Tensor:
    """Each channel of each sample; running statistics are updated in place with the average over the samples."""
    path = _path_of(x, w, b, running)
    if path == "kernel":
        return channels.channel_norm(x, x.shape[1], w, b, eps, running=running, momentum=momentum)
    if path == "operator":
        y, moments = _by_operator(x, x.shape[1], w, b, eps)
    else:
        y, moments = composite.instance_norm(x, w, b, eps)
    _update(running, moments, x[0, 0].numel() if x.numel() else 0, momentum)
    return y


def normalize_pixels(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Each position of each sample over its channels."""
    path = _path_of(x, w, b, None)
    if path == "composite":
        return composite.layer_norm2d(x, w, b, eps)
    if channels.memory_format(x) is torch.contiguous_format and x.shape[2:].numel() > 1:
        if path == "operator":
            return ops.layer_norm2d(x, w, b, eps)
        w, b = cpu.contiguous(w, b)
        return layer_norm2d.layer_norm2d(x.contiguous(), w, b, eps)
    return rows.by_any("layer_norm", x.permute(0, 2, 3, 1), 1, w, b, eps).permute(0, 3, 1, 2)


def updated_statistics(
    running: MeanAndVar, moments: Moments, count: int, momentum: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The running statistics after one more batch, averaged over whatever samples the moments keep apart.

    ``count`` is the number of values behind each statistic. The unbiased variance is
    population variance · count / (count - 1); computed in the wider of the buffer's and the moments' dtype.
    """
    moments, bessel = moments.detached(), count / max(count - 1, 1)
    new = []
    for old, batch in zip(running, (moments.mean(), moments.population_variance() * bessel), strict=True):
        batch = batch.flatten(1).mean(0)  # [samples or 1, channels] -> [channels]
        new.append((old * (1 - momentum) + batch * momentum).to(old.dtype))
    return new[0], new[1]


def _update(running: MeanAndVar | None, moments: Moments | None, count: int, momentum: float | Tensor) -> None:
    if running is None or moments is None:
        return
    new = updated_statistics(running, moments, count, momentum)
    with torch.no_grad():
        for old, value in zip(running, new, strict=True):
            old.copy_(value)


def _path_of(x: Tensor, w: Tensor | None, b: Tensor | None, statistics: MeanAndVar | None) -> choose.Path:
    """Input without elements has nothing for a kernel to do."""
    return choose.path_of(x, w, b, *(statistics or ())) if x.numel() > 0 else "composite"


def _path_with_residual(
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    statistics: MeanAndVar | None,
    activation: Activation | None,
    residual: Tensor | None,
) -> choose.Path:
    """The kernels add a residual before relu or nothing; the operators, which meet a compiler that does, never."""
    path = _path_of(x, w, b, statistics)
    if residual is None or path == "composite":
        return path
    takes_kernel = path == "kernel" and activation in (None, "relu") and choose.why_not_these(residual) is None
    return "kernel" if takes_kernel else "composite"


def _by_operator(
    x: Tensor, n_groups: int, w: Tensor | None, b: Tensor | None, eps: float, activation: Activation | None = None
) -> tuple[Tensor, Moments | None]:
    y, stats = ops.channel_norm(x, n_groups, w, b, eps, activation)
    m0, dm, _, var = stats.view(-1, x.shape[1], 4).unbind(-1)
    return y, Moments(torch.ones_like(m0), m0, dm, var)
