"""One call of a BatchNorm layer: which statistics it uses, which it changes, and by which function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from normkit import _checks
from normkit._padding import Padding, keywords, positions_of, resolved, visible
from normkit.composite import Activation, under_functorch
from normkit.functional import batch_norm, batch_norm_with_statistics
from normkit.nn import _policies
from normkit.nn._policies import TORCH, StatisticsPolicy
from normkit.nn._statistics import share_of_next
from normkit.nn._updates import step_of

if TYPE_CHECKING:
    from normkit.nn.batch_norm import _BatchNormLayer
    from normkit.nn.sync_batch_norm import SyncBatchNorm

    Layer: TypeAlias = "_BatchNormLayer | SyncBatchNorm"


def batch_norm_step(
    layer: Layer, x: Tensor, residual: Tensor | None, layouts: tuple[str, ...], padding: Padding | None = None
) -> Tensor:
    """What the layers do with an input that has one of the layouts."""
    mean, var = layer.running_mean, layer.running_var
    needs_channels = layer.num_features if layer.affine or mean is not None else None
    step = step_of(layer)
    if step == "observe" or (step == "update" and not layer.track_running_stats):  # they are neither used nor changed
        mean = var = None
    policy = getattr(layer, "policy", TORCH)
    if step != "evaluate" and policy is not TORCH:
        check_input(type(layer).__name__, x, layouts, needs_channels)
        if x.numel() > 0:
            return _step_by_policy(layer, policy, x, residual, padding, update=step == "update")
    if step == "update" and mean is not None and var is not None and under_functorch():
        check_input(type(layer).__name__, x, layouts, needs_channels)
        return _train_in_transform(layer, x, residual, mean, var, padding)
    tracked, momentum = layer.num_batches_tracked, layer.momentum
    return checked_batch_norm(
        type(layer).__name__,
        layouts,
        x,
        needs_channels,
        mean,
        var,
        tracked if step == "update" and layer.track_running_stats else None,
        layer.weight,
        layer.bias,
        step != "evaluate",
        momentum,
        layer.eps,
        layer.activation,
        residual,
        padding,
    )


def _step_by_policy(
    layer: Layer, policy: StatisticsPolicy, x: Tensor, residual: Tensor | None, padding: Padding | None, *, update: bool
) -> Tensor:
    """A training step on input that has been checked; what goes with it is, before virtual batches take their parts."""
    if residual is not None:
        _checks.residual(type(layer).__name__, x, residual)
    if padding is not None:
        padding = resolved(type(layer).__name__, x, padding)
    return _policies.step(layer, policy, x, _normalize(layer, residual, padding), update=update)


def _normalize(layer: Layer, residual: Tensor | None, padding: Padding | None) -> _policies.Normalize:
    """How the layer normalizes some rows of its input."""
    call, w, b, eps, activation = type(layer).__name__, layer.weight, layer.bias, layer.eps, layer.activation

    def beside(rows: slice) -> dict[str, Any]:
        return {"activation": activation, "residual": None if residual is None else residual[rows]}

    def count(x: Tensor, rows: slice) -> _policies.Count:
        if padding is None:
            n = x.numel() // x.shape[1]
            return _policies.Count(n, n, None)
        positions = positions_of(call, x, padding.of_rows(rows))
        n_kept = int(positions.kept.sum()) if visible(x) else None
        return _policies.Count(n_kept, positions.weights.detach().sum(), positions.kept)

    def own(x: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = x.new_zeros(x.shape[1], dtype=dtype), x.new_ones(x.shape[1], dtype=dtype)
        part = None if padding is None else padding.of_rows(rows)
        if under_functorch():
            return _checks.as_call(
                call, batch_norm_with_statistics, x, mean, var, w, b, 1.0, eps, padding=part, **beside(rows)
            )
        y = _checks.as_call(
            call, batch_norm, x, mean, var, w, b, True, 1.0, eps, **beside(rows), **keywords(part)
        )  # fmt: skip
        return y, mean, var

    def given(x: Tensor, rows: slice, mean: Tensor, var: Tensor) -> Tensor:
        part = keywords(None if padding is None else padding.of_rows(rows))
        return _checks.as_call(call, batch_norm, x, mean, var, w, b, False, 0.0, eps, **beside(rows), **part)

    return _policies.Normalize(count, own, given)


def checked_batch_norm(
    call: str,
    layouts: tuple[str, ...],
    x: Tensor,
    num_features: int | None,
    mean: Tensor | None,
    var: Tensor | None,
    tracked: Tensor | None,
    w: Tensor | None,
    b: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
    padding: Padding | None = None,
) -> Tensor:
    """One step of the layer. torch.fx records it as one call, as it records torch's own layer."""
    check_input(call, x, layouts, num_features)
    own_statistics = training or (mean is None and var is None)
    weight_of_batch = averaging_weight(momentum, tracked, training)
    y = _checks.as_call(
        call, batch_norm, x, mean, var, w, b, own_statistics, weight_of_batch, eps,
        activation=activation, residual=residual, **keywords(padding),
    )  # fmt: skip
    if training and tracked is not None:
        tracked.add_(1)
    return y


torch.fx.wrap("checked_batch_norm")


def averaging_weight(momentum: float | None, tracked: Tensor | None, training: bool = True) -> float | Tensor:
    """momentum, or 1/k for the k-th batch where it is None: as a tensor, so that compiled graphs stay whole."""
    if momentum is not None:
        return momentum
    if tracked is None or not training:
        return 0.0
    return share_of_next(tracked)


def check_input(call: str, x: Tensor, layouts: tuple[str, ...], num_features: int | None) -> None:
    _checks.tensor(call, "input", x)
    _checks.rank(call, x, layouts)
    if num_features is not None:
        _checks.channels(call, x, num_features)


def _train_in_transform(
    layer: Layer, x: Tensor, residual: Tensor | None, mean: Tensor, var: Tensor, padding: Padding | None
) -> Tensor:
    """A training step inside torch.func: statistics that the transform was given are replaced, never written to.

    torch.func.functional_call hands the replaced buffers back in its dictionary and restores the layer's own.
    A buffer that is not an input of the transform cannot take a value from inside it, and stays as it is.
    """
    tracked = layer.num_batches_tracked
    momentum = averaging_weight(layer.momentum, tracked)
    call = type(layer).__name__
    y, new_mean, new_var = _checks.as_call(
        call, batch_norm_with_statistics, x, mean, var, layer.weight, layer.bias, momentum, layer.eps,
        activation=layer.activation, residual=residual, padding=padding,
    )  # fmt: skip
    if torch._C._functorch.is_functorch_wrapped_tensor(mean):
        layer.running_mean, layer.running_var = new_mean, new_var
        if tracked is not None:
            layer.num_batches_tracked = tracked + 1
    return y
