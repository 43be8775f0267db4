"""The norms for a stack of networks: R replicas side by side, each normalized by itself.

Features are [R, N, C] and tokens [R, N, T, C]; images are [N, R·C, H, W], replicas side by side as channels, for which
a convolution in R groups is R convolutions. The normalization is that of ``normkit.functional``; what is
done here is to give each replica a weight, a bias and running statistics of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normkit import functional
from normkit.errors import ArgumentError

Normalize = Callable[[Tensor], Tensor]


def feature_norm(name: str, n_replicas: int, n_features: int, *, ghost: int | None = None) -> nn.Module:
    """A norm for [R, N, C], and, but for "batch" and "batch_l1", for [R, N, T, C] too, every token by itself.

    Args:
        name: "none", "batch", "layer", "rms", "group" (4 groups), "layer_simple" (LayerNorm without weight and
            bias), "layer_detached" (mean and variance are constants to the backward pass; Xu et al. 2019's
            DetachNorm), "dyt" (tanh(αx), α learned from 0.5; Zhu et al. 2025) or "batch_l1" (``L1BatchNorm``).
        n_replicas, n_features: R and C.
        ghost: for "batch": samples that share a mean and variance; the whole batch by default.
    """
    shape = (n_features,)
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return BatchNorm(n_replicas, n_features, ghost=ghost)
    if name == "batch_l1":
        return L1BatchNorm(n_replicas, n_features)
    if name == "layer_simple":
        return Each(lambda x: functional.layer_norm(x, shape))
    if name == "dyt":
        return DynamicTanh(n_replicas, n_features)
    rows: dict[str, Normalize] = {
        "layer": lambda x: functional.layer_norm(x, shape),
        "rms": lambda x: functional.rms_norm(x, shape),
        "group": lambda x: functional.group_norm(x.reshape(-1, n_features), 4).view_as(x),
        "layer_detached": _layer_norm_detached,
    }
    if name not in rows:
        raise _unknown(name, ["none", "batch", "batch_l1", "layer_simple", "dyt", *rows])
    return Affine(rows[name], n_replicas, n_features, has_bias=name != "rms")


def image_norm(name: str, n_replicas: int, n_channels: int, *, ghost: int | None = None) -> nn.Module:
    """A norm for [N, R·C, H, W]: "none", "batch", "layer" (over C, H and W), "layer_pixel" (over C at each pixel),
    "rms" (the same), "group" (4 groups), "instance", "filter_response" (Singh & Krishnan 2019: over H and W, no mean;
    its activation is ``ThresholdedLinear``) or "batch_renorm" (``ImageBatchRenorm``)."""
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return ImageBatchNorm(n_replicas, n_channels, ghost=ghost)
    if name == "batch_renorm":
        return ImageBatchRenorm(n_replicas, n_channels)
    images: dict[str, Normalize] = {
        "layer": lambda x: functional.group_norm(x, 1),
        "layer_pixel": lambda x: functional.layer_norm2d(x, eps=1e-5),
        "rms": lambda x: functional.rms_norm(x.movedim(1, -1), (n_channels,)).movedim(-1, 1),
        "group": lambda x: functional.group_norm(x, 4),
        "instance": lambda x: functional.group_norm(x, n_channels),
        "filter_response": lambda x: functional.rms_norm(x.flatten(2), x[0, 0].numel(), eps=1e-6).view_as(x),
    }
    if name not in images:
        raise _unknown(name, ["none", "batch", "batch_renorm", *images])
    return ImageAffine(images[name], n_replicas, n_channels, has_bias=name != "rms")


def _unknown(name: str, known: list[str]) -> ArgumentError:
    return ArgumentError(f"norm: expected one of {', '.join(known)}, got {name!r}; use one of these.")


class Each(nn.Module):
    """A normalization without parameters."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x)


class Affine(nn.Module):
    """normalize(x)·weight + bias of each replica, x [R, ..., C]."""

    def __init__(self, normalize: Normalize, n_replicas: int, n_features: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.normalize = normalize
        self.weight = nn.Parameter(torch.ones(n_replicas, n_features))
        self.bias = nn.Parameter(torch.zeros(n_replicas, n_features)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        return affine(self.normalize(x), self.weight, self.bias)


class ImageAffine(Affine):
    """The same for [N, R·C, H, W]; ``normalize`` gets [N·R, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        c = self.weight.shape[1]
        return image_affine(self.normalize(x.view(-1, c, *x.shape[2:])).view_as(x), self.weight, self.bias)


class DynamicTanh(nn.Module):
    """tanh(α·x)·weight + bias, with no statistics. Source: Zhu et al. 2025, https://arxiv.org/abs/2503.10622"""

    def __init__(self, n_replicas: int, n_features: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((n_replicas, 1), 0.5))
        self.weight = nn.Parameter(torch.ones(n_replicas, n_features))
        self.bias = nn.Parameter(torch.zeros(n_replicas, n_features))

    def forward(self, x: Tensor) -> Tensor:
        return affine(torch.tanh(x * _beside(self.alpha, x)), self.weight, self.bias)


class BatchNorm(nn.Module):
    """BatchNorm of each replica of [R, N, C] by itself, with groups of ``ghost`` samples in training.

    The groups' mean and unbiased variance enter the running ones as their average, once a step.
    """

    running_mean: Tensor  # [R, C]
    running_var: Tensor

    def __init__(
        self, n_replicas: int, n_features: int, *, ghost: int | None = None, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.ghost, self.eps, self.momentum = ghost, eps, momentum
        self.weight = nn.Parameter(torch.ones(n_replicas, n_features))
        self.bias = nn.Parameter(torch.zeros(n_replicas, n_features))
        self.register_buffer("running_mean", torch.zeros(n_replicas, n_features))
        self.register_buffer("running_var", torch.ones(n_replicas, n_features))

    def forward(self, x: Tensor) -> Tensor:
        r, n, c = x.shape
        side_by_side = x.transpose(0, 1).reshape(n, r * c)
        return affine(self.normalize(side_by_side).view(n, r, c).transpose(0, 1), self.weight, self.bias)

    def normalize(self, x: Tensor) -> Tensor:
        """x [N, R·C, ...] by the statistics of its groups in training, else by the running ones."""
        mean, var = self.running_mean.flatten(), self.running_var.flatten()
        if not self.training:
            return functional.batch_norm(x, mean, var, eps=self.eps)
        x_hat, batch_mean, batch_var = over_batch(x, self.ghost, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(batch_mean.view_as(self.running_mean), self.momentum)
            self.running_var.lerp_(batch_var.view_as(self.running_var), self.momentum)
        return x_hat


class L1BatchNorm(BatchNorm):
    """BatchNorm by the mean absolute deviation in place of the standard deviation.

    (x - mean) / sqrt(s² + eps) with s = sqrt(π / 2)·mean|x - mean|, which of normal values is the standard deviation.
    ``running_var`` is of s². Source: Hoffer et al. 2018, "Norm matters", https://arxiv.org/abs/1803.01814
    """

    def normalize(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().normalize(x)
        mean = x.mean(0)
        centred = x - mean
        square = centred.abs().mean(0).square() * (math.pi / 2)
        with torch.no_grad():
            self.running_mean.lerp_(mean.view_as(self.running_mean), self.momentum)
            self.running_var.lerp_(square.view_as(self.running_var), self.momentum)
        return centred * torch.rsqrt(square + self.eps)


class ImageBatchNorm(BatchNorm):
    """The same for [N, R·C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return image_affine(self.normalize(x), self.weight, self.bias)


class ImageBatchRenorm(ImageBatchNorm):
    """Batch Renormalization: in training what BatchNorm gives is corrected to what the running statistics would give.

    x̂·r + d, r = σ_B / σ within [1 / r_max, r_max] and d = (μ_B - μ) / σ within [-d_max, d_max]: μ_B and σ_B of the
    batch, μ and σ the running ones before this step; r and d are constants to the backward pass. The limits rise in
    proportion to the steps from BatchNorm's, r_max = 1 and d_max = 0, to r_max = 3 and d_max = 5.

    Differs from the paper in that the limits have risen after ``OPENING`` steps, not tens of thousands, and that the
    running average is of variances, as in BatchNorm.

    Source: Ioffe 2017, "Batch Renormalization", algorithm 1, https://arxiv.org/abs/1702.03275
    """

    OPENING = 30  # by then 0.9^30 = 4 % of what the running statistics started from is left in them

    def __init__(self, n_replicas: int, n_channels: int) -> None:
        super().__init__(n_replicas, n_channels)
        self.steps = 0

    def normalize(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().normalize(x)
        mean, var = self.running_mean.flatten().clone(), self.running_var.flatten() + self.eps
        x_hat = super().normalize(x)
        opened = min(self.steps / self.OPENING, 1.0)
        self.steps += 1
        with torch.no_grad():
            batch_var, batch_mean = torch.var_mean(x, (0, 2, 3), correction=0)
            r_max, d_max = 1 + 2 * opened, 5 * opened
            r = ((batch_var + self.eps) / var).sqrt_().clamp_(1 / r_max, r_max)
            d = ((batch_mean - mean) / var.sqrt()).clamp_(-d_max, d_max)
        return torch.addcmul(d.view(-1, 1, 1), x_hat, r.view(-1, 1, 1))


class ThresholdedLinear(nn.Module):
    """max(y, τ), τ learned from 0 for each channel, on [N, R·C, H, W]: what takes ReLU's place after FRN.

    Where no mean is subtracted, the zero at which a ReLU cuts may lie far off. Source: Singh, Krishnan 2019, "Filter
    Response Normalization Layer", https://arxiv.org/abs/1911.09737
    """

    def __init__(self, n_replicas: int, n_channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(n_replicas, n_channels))

    def forward(self, y: Tensor) -> Tensor:
        return torch.maximum(y, self.threshold.reshape(-1, 1, 1))


def over_batch(x: Tensor, ghost: int | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ of x [N, K, ...] over groups of ``ghost`` samples; mean and unbiased variance [K], averaged over groups."""
    n, k = x.shape[:2]
    group = ghost or n
    if n % group:
        raise ArgumentError(f"ghost: expected a divisor of the batch size, got {group} and {n}; use another.")
    mean, var = x.new_zeros(n // group * k), x.new_ones(n // group * k)
    if group == n:
        return _by_torch(x, mean, var, eps), mean, var
    # The groups, too, are channels side by side: [group, N / group · K, ...].
    grouped = torch.unflatten(x, 0, (n // group, group)).transpose(0, 1).flatten(1, 2)
    x_hat = _by_torch(grouped, mean, var, eps)
    x_hat = torch.unflatten(x_hat, 1, (n // group, k)).transpose(0, 1).flatten(0, 1)
    return x_hat, mean.view(-1, k).mean(0), var.view(-1, k).mean(0)


def _by_torch(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """torch's own function, whose calls cost half of ours where thousands of channels have a few values each."""
    return torch.nn.functional.batch_norm(x, mean, var, training=True, momentum=1.0, eps=eps)


@contextmanager
def population_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, a forward pass in training mode sets running statistics to exactly those of its batch, ungrouped.

    A pass over the whole training set gives "precise" statistics. Source: Wu, Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """
    found = [module for module in model.modules() if hasattr(module, "running_mean")]
    before = [(module.momentum, module.ghost) for module in found]
    for module in found:
        module.momentum, module.ghost = 1.0, None  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, (momentum, ghost) in zip(found, before, strict=True):
            module.momentum, module.ghost = momentum, ghost


def affine(x_hat: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x̂ [R, ..., C] times weight plus bias, both [R, C]."""
    weight = _beside(weight, x_hat)
    return x_hat * weight if bias is None else torch.addcmul(_beside(bias, x_hat), x_hat, weight)


def image_affine(x_hat: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x̂ [N, R·C, H, W] times weight plus bias, both [R, C]."""
    w = weight.reshape(-1, 1, 1)
    return x_hat * w if bias is None else torch.addcmul(bias.reshape(-1, 1, 1), x_hat, w)


def _beside(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter [R, C] in a shape that goes with x [R, ..., C]."""
    return parameter.view(parameter.shape[0], *(1,) * (x.ndim - 2), parameter.shape[1])


def _layer_norm_detached(x: Tensor) -> Tensor:
    with torch.no_grad():
        var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        rstd = torch.rsqrt(var + 1e-5)
    return (x - mean) * rstd
