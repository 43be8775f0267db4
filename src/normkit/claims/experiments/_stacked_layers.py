"""The layers of a stack of networks: R replicas of one layer, each with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normkit.lab.data import stream


class Draws:
    """Initial weights for R replicas: those of one seed start alike, and nothing else decides them.

    He et al. 2015: normal, of variance gain² / fan in.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._streams = {seed: stream(seed, "weights") for seed in seeds}

    @property
    def n_replicas(self) -> int:
        return len(self.seeds)

    def normal(self, *shape: int, std: float) -> nn.Parameter:
        """[R, *shape], the same for replicas of the same seed."""
        drawn = {seed: torch.randn(shape, generator=generator) * std for seed, generator in self._streams.items()}
        return nn.Parameter(torch.stack([drawn[seed] for seed in self.seeds]))

    def zeros(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(self.n_replicas, *shape))


class Linear(nn.Module):
    """x [R, ..., I] -> [R, ..., O]; weight [R, I, O], bias [R, O]."""

    def __init__(self, draws: Draws, n_in: int, n_out: int, *, gain: float = math.sqrt(2.0)) -> None:
        super().__init__()
        self.weight = draws.normal(n_in, n_out, std=gain / math.sqrt(n_in))
        self.bias = draws.zeros(n_out)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.baddbmm(self.bias.unsqueeze(1), x.flatten(1, -2), self.weight)
        return y.view(*x.shape[:-1], -1)


class Conv2d(nn.Module):
    """x [N, R·I, H, W] -> [N, R·O, H', W'], a convolution of 3×3 (or ``size``) in as many groups as replicas.

    ``depthwise``: each channel by itself, I = O. Padding keeps H and W unless it is given.
    """

    def __init__(
        self,
        draws: Draws,
        n_in: int,
        n_out: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        fan = 1 if depthwise else n_in
        self.weight = draws.normal(n_out, fan, size, size, std=math.sqrt(2.0 / (fan * size * size)))
        self.bias = draws.zeros(n_out)
        self.stride, self.padding = stride, size // 2 if padding is None else padding
        self.groups = draws.n_replicas * (n_in if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(
            x, self.weight.flatten(0, 1), self.bias.flatten(), self.stride, self.padding, groups=self.groups
        )


class Dropout(nn.Module):
    """Dropout for [R, N, C] whose masks depend on a replica's seed alone."""

    def __init__(self, seeds: Sequence[int], p: float) -> None:
        super().__init__()
        self.p = p
        self._streams = {seed: stream(seed, "dropout") for seed in seeds}
        self._seeds = tuple(seeds)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = {seed: torch.rand(x.shape[1:], generator=g) >= self.p for seed, g in self._streams.items()}
        return x * torch.stack([kept[seed] for seed in self._seeds]).to(x.dtype).div_(1 - self.p)


class ImagesOf(nn.Module):
    """[R, N, C, H, W] -> [N, R·C, H, W]: replicas side by side as channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1, 2)


class FeaturesOf(nn.Module):
    """[N, R·C, H, W] -> [R, N, C·H·W]."""

    def __init__(self, n_replicas: int) -> None:
        super().__init__()
        self.n_replicas = n_replicas

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.n_replicas, -1)).flatten(2).transpose(0, 1)
