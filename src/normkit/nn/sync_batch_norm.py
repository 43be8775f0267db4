"""BatchNorm over the batches of several processes as if they were one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normkit import _checks, composite
from normkit._padding import Padding, Positions, padding_of, positions_of
from normkit.composite import Activation
from normkit.errors import ArgumentError
from normkit.functional import batch_norm
from normkit.nn._batch_norm_step import batch_norm_step, check_input
from normkit.nn._policies import (
    TORCH,
    Batch,
    Nonfinite,
    SingleValue,
    StatisticsPolicy,
    check_finite,
    update_running,
)
from normkit.nn._ragged import is_ragged, through_rows
from normkit.nn._ranks import KnownTotal, Meeting, exchange
from normkit.nn._statistics import apply_keeping_float32, check_arguments, keep_in_float32, with_activation
from normkit.nn._updates import step_of
from normkit.pooling import Pooled, Variance, centred, merge_all

_LAYOUTS = ("N, C", "N, C, L", "N, C, H, W", "N, C, D, H, W")


class SyncBatchNorm(_BatchNorm):
    """Normalizes each channel over the batches of all processes of a group together, and over all positions.

    As :class:`BatchNorm1d`, with the mean and the variance of the values of all ranks: each counts as often as it
    occurs, however many samples a rank has, none included. The statistics of the ranks are merged in float64, in
    the order of the ranks, and so are equal to the bit on all. Gradients are those of the sum of all ranks' losses,
    to any order. Works on every backend that gathers float64 tensors, gloo and NCCL among them, and is a plain
    BatchNorm in evaluation, in a group of one, and where no group exists.

    Every rank must run every layer in forward and backward, one that has no data with an empty batch. If one does
    not, the others raise an error that names the layer and the rank as soon as its connection is lost, or the
    timeout ends.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias, activation: as for BatchNorm1d.
        single_value, nonfinite, running_variance: as for BatchNorm1d, of the values of all ranks together.
        process_group: whose ranks belong together; None takes the default group.
        timeout: how many seconds to wait for the other ranks; None takes the group's own, which NCCL enforces by
            ending the process. With a number, NCCL makes the host wait at every layer.
        name: what errors call the layer, and by which the ranks find out that they are at different ones;
            ``normkit.surgery.synchronize`` sets it to the path in the model.

    Shape:
        input [N, C], [N, C, L], [N, C, H, W] or [N, C, D, H, W] -> output of the same shape; N may be 0. Masks,
        weights, lengths and ragged input as for BatchNorm1d; a rank may have nothing but padding.

    Dtypes:
        As BatchNorm1d. Statistics are merged in float64.

    Raises:
        RankError: a rank does not take part, is at another layer, or has another number of channels.
        SingleValueError: all ranks together have one value per channel, when training, and single_value is "raise".
        StatisticsError: as BatchNorm1d, on every rank.
        ShapeError, DtypeError: as BatchNorm1d.
        ArgumentError: as BatchNorm1d; every rank has nothing but padding; weights require a gradient.

    Example:
        >>> layer = SyncBatchNorm(1)
        >>> layer(torch.tensor([[1.0], [3.0]])).detach().flatten()
        tensor([-1.0000,  1.0000])

    Differs from torch:
        torch's runs on GPUs only, needs an input of more than one value on every rank that has any, and waits
        without saying for whom. This is no subclass of it, since DistributedDataParallel refuses those on the CPU.

    Source:
        Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2018, section 3.3; https://arxiv.org/abs/1711.07240
    """

    activation: Activation | None = None
    frozen_statistics = False
    policy = TORCH

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        single_value: SingleValue = "raise",
        nonfinite: Nonfinite = "propagate",
        running_variance: Variance = "unbiased",
        timeout: float | None = None,
        name: str = "",
    ) -> None:
        check_arguments("SyncBatchNorm", num_features, eps, momentum)
        _checks.activation("SyncBatchNorm", activation)
        _checks.timeout("SyncBatchNorm", timeout)
        policy = StatisticsPolicy(single_value, nonfinite, running_variance).check(
            "SyncBatchNorm", tracks=track_running_stats
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group, self.timeout, self.name = process_group, timeout, name
        self.activation = activation
        if policy != TORCH:
            self.policy = policy
        keep_in_float32(self)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        padding = padding_of(mask, weights, lengths)
        if is_ragged(input):
            ragged: Tensor = through_rows(
                type(self).__name__, self.forward, input, residual, padding
            )  # ragged as the input
            return ragged
        group = _group_of(self)
        uses_batch = step_of(self) != "evaluate" or self.running_mean is None
        if group is None or group.size() == 1 or not uses_batch:
            return batch_norm_step(self, input, residual, _LAYOUTS, padding)
        over_ranks: Callable[..., Tensor] = _over_ranks
        if torch.compiler.is_compiling():  # what ranks tell one another is not part of a graph
            over_ranks = torch.compiler.disable(_over_ranks)  # type: ignore[no-untyped-call]
        return over_ranks(self, input, residual, group, padding)

    def extra_repr(self) -> str:
        parts = with_activation(super().extra_repr(), self.activation) + str(self.policy)  # type: ignore[no-untyped-call]
        return parts if self.timeout is None else f"{parts}, timeout={self.timeout}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SyncBatchNorm:
        apply_keeping_float32(self, super()._apply, fn, recurse)
        return self


def _group_of(layer: SyncBatchNorm) -> dist.ProcessGroup | None:
    if layer.process_group is not None or not (dist.is_available() and dist.is_initialized()):
        return layer.process_group
    return dist.group.WORLD


def _over_ranks(
    layer: SyncBatchNorm, x: Tensor, residual: Tensor | None, group: dist.ProcessGroup, padding: Padding | None
) -> Tensor:
    call = f"SyncBatchNorm {layer.name!r}" if layer.name else f"SyncBatchNorm({layer.num_features})"
    check_input(call, x, _LAYOUTS, layer.num_features)
    if residual is not None:
        _checks.residual(call, x, residual)
    _checks.eps(call, layer.eps, positive=True)
    timeout = None if layer.timeout is None else timedelta(seconds=layer.timeout)
    meeting = Meeting(call, group, timeout)
    positions = None if padding is None else _positions(call, x, padding)
    if positions is not None and residual is not None:
        residual = torch.where(positions.kept, residual, 0)
    c, own = centred(x, None if positions is None else positions.weights)
    every = merge_all([Pooled(*rank) for rank in exchange(torch.stack(own), meeting)])
    n = float(every.n[0]) if len(every.n) else 0.0
    if n == 0 and x.numel() > 0:
        raise ArgumentError(
            f"{call}: expected a position that is not padding on some rank, got none on any, here in input of shape "
            f"{list(x.shape)}; leave out such a batch."
        )
    if n == 0:
        return _finish(layer, c, x, residual, positions)
    if n == 1 and layer.policy.single_value != "raise":
        return _single(call, layer, x, residual, positions, every)
    _checks.values_over_ranks(call, n)
    batch = Batch(every.mean, every.variance(layer.policy.running_variance), every.n)
    if layer.policy.nonfinite == "raise":
        check_finite(call, [batch])
    mean, var = _differentiable(own, every, meeting)
    shape = (-1, *[1] * (x.dim() - 2))
    shift, rstd = (t.to(c.dtype).view(shape) for t in (own.mean - mean, 1 / torch.sqrt(var + layer.eps)))
    y = _finish(layer, (c + shift) * rstd, x, residual, positions)
    if step_of(layer) == "update" and layer.track_running_stats:
        update_running(layer, [batch], keep_finite=layer.policy.nonfinite == "skip")
    return y


def _single(
    call: str, layer: SyncBatchNorm, x: Tensor, residual: Tensor | None, positions: Positions | None, every: Pooled
) -> Tensor:
    """One value a channel on all ranks together, by the layer's policy; it does not enter the statistics."""
    if layer.policy.single_value == "running" and layer.running_mean is not None and layer.running_var is not None:
        mean, var = layer.running_mean, layer.running_var
    else:  # by itself, from which only the bias is left
        mean = every.mean.to(torch.promote_types(x.dtype, torch.float32))
        x, var = x.detach(), torch.ones_like(mean)
    y: Tensor = _checks.as_call(
        call, batch_norm, x, mean, var, layer.weight, layer.bias, False, 0.0, layer.eps,
        activation=layer.activation, residual=residual, mask=None if positions is None else positions.kept.squeeze(1),
    )  # fmt: skip
    return y


def _positions(call: str, x: Tensor, padding: Padding) -> Positions:
    """A gradient of the weights would have to reach every rank's, through the sum of them all."""
    positions = positions_of(call, x, padding)
    if positions.weights.requires_grad:
        raise ArgumentError(
            f"{call}: expected weights without a gradient, got some that require one; give weights.detach()."
        )
    return positions


def _finish(
    layer: SyncBatchNorm, x_hat: Tensor, x: Tensor, residual: Tensor | None, positions: Positions | None
) -> Tensor:
    """The layer's output, 0 in the padding."""
    y = composite.affine(x_hat, layer.weight, layer.bias, x, layer.activation, residual)
    return y if positions is None else composite.in_layout_of(x, torch.where(positions.kept, y, 0))


def _differentiable(own: Pooled, every: Pooled, meeting: Meeting) -> tuple[Tensor, Tensor]:
    """Mean and population variance of all values as functions of what every rank adds to them.

    Over the ranks only sums can be differentiated without knowing the others' terms: of the deviations from any
    constant near the mean, here the mean itself, and of their squares. Their values are known by now.
    """
    constant = every.mean.detach()
    apart = own.mean - constant
    terms = torch.stack([own.n * apart, own.squares + own.n * apart * apart])
    sums = torch.stack([torch.zeros_like(constant), every.squares])
    deviation, squares = KnownTotal.apply(terms, sums, meeting) / every.n  # type: ignore[no-untyped-call]
    return constant + deviation, squares - deviation * deviation
