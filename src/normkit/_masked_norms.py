"""The norms of images and sequences where some positions are padding, for arguments that have been checked.

A mask has kernels that pass over what does not count; weights, and all graphs, go through the composite path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normkit import _channel_norms, composite
from normkit._padding import Padding, Positions, check_values, positions_of, visible
from normkit.composite import Activation
from normkit.kernels import channels, choose
from normkit.kernels.channels import MeanAndVar
from normkit.moments import Moments

Computed = tuple[Tensor, MeanAndVar | None]  # the output, and the new running statistics


def normalize_batch(
    x: Tensor,
    padding: Padding,
    running: MeanAndVar | None,
    w: Tensor | None,
    b: Tensor | None,
    momentum: float | Tensor,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
) -> Tensor:
    """Each channel by the statistics of the positions of the batch that count; running ones are updated in place."""
    positions = positions_of_batch(x, padding, keeps=running is not None)
    if positions.counts is None and _takes_kernel(x, positions.kept, w, b, running, activation, residual):
        return channels.channel_norm(
            x, 0, w, b, eps, activation,
            residual=residual, running=running, momentum=float(momentum), mask=positions.kept,
        )  # fmt: skip
    y, new = train_batch(x, positions, running, w, b, momentum, eps, activation, residual)
    write(running, new)
    return y


def train_batch(
    x: Tensor,
    positions: Positions,
    running: MeanAndVar | None,
    w: Tensor | None,
    b: Tensor | None,
    momentum: float | Tensor,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
) -> Computed:
    """The same without side effects, through the composite path."""
    if residual is not None:
        residual = _only(positions, residual)
    y, moments = composite.batch_norm(x, w, b, eps, activation, residual, positions.weights)
    return _only(positions, y), updated_statistics(running, moments, positions, (0,), momentum)


def positions_of_batch(x: Tensor, padding: Padding, *, keeps: bool) -> Positions:
    """The positions that count, checked to be enough; ``keeps``: for running statistics, too."""
    positions = positions_of("batch_norm", x, padding)
    check_values("batch_norm", x, positions, "channel when training", None, keeps=keeps)
    return positions


def apply_given(
    x: Tensor,
    padding: Padding,
    given: MeanAndVar,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    call: str = "batch_norm",
) -> Tensor:
    """Each channel by the given statistics."""
    positions = positions_of(call, x, padding)
    needs_composite = any(t.requires_grad for t in given)
    if not needs_composite and _takes_kernel(x, positions.kept, w, b, given, activation, residual):
        return channels.channel_norm(x, 0, w, b, eps, activation, residual=residual, given=given, mask=positions.kept)
    x = composite.with_mean_as_padding(x, positions.kept, given[0].detach())
    if residual is not None:
        residual = _only(positions, residual)
    return _only(positions, _channel_norms.normalize_with(x, given, w, b, eps, activation, residual))


def normalize_groups(
    x: Tensor,
    padding: Padding,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
) -> Tensor:
    """Each group of channels of each sample over the positions of the sample that count."""
    positions = positions_of("group_norm", x, padding)
    check_values("group_norm", x, positions, "group", x.shape[1] // n_groups, keeps=False)
    if positions.counts is None and _takes_kernel(x, positions.kept, w, b, None, activation):
        return channels.channel_norm(x, n_groups, w, b, eps, activation, mask=positions.kept)
    return _only(positions, composite.group_norm(x, n_groups, w, b, eps, activation, positions.weights))


def normalize_instances(
    x: Tensor,
    padding: Padding,
    running: MeanAndVar | None,
    w: Tensor | None,
    b: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Each channel of each sample over the positions that count in it; running statistics are updated in place."""
    positions = positions_of_samples(x, padding, keeps=running is not None)
    if positions.counts is None and _takes_kernel(x, positions.kept, w, b, running):
        return channels.channel_norm(x, x.shape[1], w, b, eps, running=running, momentum=momentum, mask=positions.kept)
    y, new = train_instances(x, positions, running, w, b, momentum, eps)
    write(running, new)
    return y


def positions_of_samples(x: Tensor, padding: Padding, *, keeps: bool) -> Positions:
    """As ``positions_of_batch``, for statistics of each channel of each sample."""
    positions = positions_of("instance_norm", x, padding)
    check_values("instance_norm", x, positions, "channel of a sample", 1, keeps=keeps)
    return positions


def train_instances(
    x: Tensor,
    positions: Positions,
    running: MeanAndVar | None,
    w: Tensor | None,
    b: Tensor | None,
    momentum: float,
    eps: float,
) -> Computed:
    """The same without side effects, through the composite path."""
    y, moments = composite.instance_norm(x, w, b, eps, positions.weights)
    return _only(positions, y), updated_statistics(running, moments, positions, (), momentum)


def updated_statistics(
    running: MeanAndVar | None,
    moments: Moments | None,
    positions: Positions,
    over: tuple[int, ...],
    momentum: float | Tensor,
) -> MeanAndVar | None:
    """The running statistics after one more batch, averaged over the samples that have any position that counts.

    ``over`` is the axis of the samples where these share their statistics. The unbiased variance is
    population variance · count / (count - 1), and the count the sum of the weights. A batch of padding changes nothing.
    """
    if running is None or moments is None:
        return None
    moments, count = moments.detached(), positions.weights.detach().flatten(1).sum(1, keepdim=True)  # [samples, 1]
    if over:
        count = count.sum(over, keepdim=True)
    counts = count > 0
    bessel = torch.where(count > 1, count / torch.where(count > 1, count - 1, 1), 1)
    of_samples = moments.mean().flatten(1), moments.population_variance().flatten(1) * bessel  # [samples, C]
    new = []
    for old, of_sample in zip(running, of_samples, strict=True):
        mean = torch.where(counts, of_sample, 0).sum(0) / counts.sum(0).clamp(min=1)
        new.append(torch.where(counts.any(), old * (1 - momentum) + mean * momentum, old).to(old.dtype))
    return new[0], new[1]


def write(running: MeanAndVar | None, new: MeanAndVar | None) -> None:
    """The new statistics, if there are any, take the place of the running ones."""
    if running is None or new is None:
        return
    with torch.no_grad():
        for old, value in zip(running, new, strict=True):
            old.copy_(value)


def _only(positions: Positions, y: Tensor) -> Tensor:
    """y, and 0 where nothing counts."""
    return composite.in_layout_of(y, torch.where(positions.kept, y, 0))


def _takes_kernel(
    x: Tensor,
    kept: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    running: MeanAndVar | None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> bool:
    """A graph does not know how many positions count; the kernels add a residual before relu or nothing."""
    return (
        x.numel() > 0
        and visible(x)
        and type(kept) is Tensor  # a subclass may keep its values elsewhere
        and (residual is None or activation in (None, "relu"))
        and choose.path_of(x, w, b, residual, *(running or ())) == "kernel"
    )
