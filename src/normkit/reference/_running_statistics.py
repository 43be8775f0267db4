"""Running statistics: what a norm with batch statistics remembers of its batches, for inference."""

from typing import NamedTuple

import numpy.typing as npt

from normkit.errors import ArgumentError
from normkit.reference._arguments import Array, as_float64, like


class RunningStatistics(NamedTuple):
    """A channel's mean and sample variance over the batches seen so far, and how many those are."""

    mean: Array
    var: Array
    num_batches_tracked: int


def batch_norm_running_update(
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    num_batches_tracked: int,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    count: int,
    momentum: float | None = 0.1,
) -> RunningStatistics:
    """The running statistics after one more batch; the arguments are not changed.

        m = momentum, or 1 / (num_batches_tracked + 1) if momentum is None        (the plain average)
        running_mean <- (1 - m) * running_mean + m * mean
        running_var  <- (1 - m) * running_var  + m * var * count / (count - 1)    (sample variance)

    The batch is normalized by the population variance, but the running one is the unbiased estimate.

    Args:
        running_mean: before the batch.
        running_var: before the batch.
        num_batches_tracked: how many batches came before this one.
        mean: of the batch, `batch_norm`'s cache.mean.
        var: population variance of the batch, `batch_norm`'s cache.var.
        count: how many elements each mean is over, x.size // C. With 0, the statistics stay as they are.
        momentum: the weight of the *new* batch, as in torch (1 minus what other libraries call momentum).

    Shape:
        running_mean, running_var, mean and var [C].

    Raises:
        ArgumentError: count is 1, which has no sample variance.
        ShapeError: the shapes differ.

    Example:
        >>> after = batch_norm_running_update([0.0], [1.0], 0, mean=[2.0], var=[3.0], count=4)
        >>> after.mean, after.var.round(3), after.num_batches_tracked
        (array([0.2]), array([1.3]), 1)

    Differs from torch:
        Returns the new values where torch overwrites the old.

    Source:
        Ioffe, Szegedy, 2015, algorithm 2, step 10, for the sample variance; torch.nn.BatchNorm2d for momentum.
    """
    call = "batch_norm_running_update"
    if count == 1:
        raise ArgumentError(
            f"{call}: expected a count other than 1, got 1: one value has no sample variance; "
            "use a larger batch, or normalize by the running statistics."
        )
    running_mean = as_float64(running_mean)
    channels = running_mean.shape
    running_var = like(call, "running_var", running_var, channels)
    mean, var = like(call, "mean", mean, channels), like(call, "var", var, channels)
    seen = num_batches_tracked + 1
    if count == 0:
        return RunningStatistics(running_mean.copy(), running_var.copy(), seen)

    m = 1 / seen if momentum is None else momentum
    sample_var = var * (count / (count - 1))
    return RunningStatistics(
        (1 - m) * running_mean + m * mean,
        (1 - m) * running_var + m * sample_var,
        seen,
    )
