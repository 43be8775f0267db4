"""Stacks of multilayer perceptrons and convolutional networks for the 8×8 digits, and for larger images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from normkit.claims.experiments._stacked_layers import Conv2d, Draws, Dropout, FeaturesOf, ImagesOf, Linear
from normkit.claims.experiments._stacked_norms import ThresholdedLinear, feature_norm, image_norm

Build = Callable[[Sequence[int]], nn.Module]  # the seed of each replica -> the stack


def mlp(hidden: Sequence[int], norm: str, *, ghost: int | None = None, dropout: float = 0.0) -> Build:
    """64-hidden-10 on [R, N, 64]: after each hidden linear layer the norm, ReLU, and dropout."""

    def build(seeds: Sequence[int]) -> nn.Module:
        draws = Draws(seeds)
        layers: list[nn.Module] = []
        width = 64
        for n in hidden:
            layers += [Linear(draws, width, n), feature_norm(norm, len(seeds), n, ghost=ghost), nn.ReLU()]
            if dropout:
                layers.append(Dropout(seeds, dropout))
            width = n
        return nn.Sequential(*layers, Linear(draws, width, 10, gain=1.0))

    return build


def cnn(architecture: str, norm: str, *, ghost: int | None = None, side: int = 8) -> Build:
    """A convolutional network on [R, N, 1, S, S], ending in a linear layer on the last map.

    On the map, not on its mean: after a mean the norms that look at one sample alone learn many times slower, and
    within so few steps nothing else would be seen of them.

    Args:
        architecture: "plain": convolutions of 16, 32 (stride 2) and 32 channels. "residual": one of 8 with stride
            2, then two basic residual blocks of 8 channels and two of 16 (He et al. 2016). "next": the image's 4 by 4
            patches as 32 channels, then two blocks of a depthwise convolution, the norm, and two 1×1 convolutions with
            a GELU between them (Liu et al. 2022).
        norm: see ``image_norm``.
        ghost: see there.
        side: S, a multiple of 8.
    """
    scale = side // 8
    bodies: dict[str, tuple[Callable[[Draws, ImageNorms], list[nn.Module]], int]] = {
        "plain": (_plain, 512 * scale**2),
        "residual": (_residual, 64 * scale**2),
        "next": (partial(_next, patch=2 * scale), 512),
    }
    body, n_features = bodies[architecture]

    def build(seeds: Sequence[int]) -> nn.Module:
        draws = Draws(seeds)
        norms = ImageNorms(norm, len(seeds), ghost)
        return nn.Sequential(
            ImagesOf(), *body(draws, norms), FeaturesOf(len(seeds)), Linear(draws, n_features, 10, gain=1.0)
        )

    return build


@dataclass(frozen=True)
class ImageNorms:
    """Makes the norms of a convolutional network, and the activations that go with them."""

    name: str
    n_replicas: int
    ghost: int | None

    def __call__(self, channels: int) -> nn.Module:
        return image_norm(self.name, self.n_replicas, channels, ghost=self.ghost)

    def activation(self, channels: int) -> nn.Module:
        """ReLU; after "filter_response" the one that belongs to it."""
        return ThresholdedLinear(self.n_replicas, channels) if self.name == "filter_response" else nn.ReLU()


def _plain(draws: Draws, norm: ImageNorms) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [Conv2d(draws, n_in, n_out, stride=stride), norm(n_out), norm.activation(n_out)]
    return layers


def _residual(draws: Draws, norm: ImageNorms) -> list[nn.Module]:
    return [
        Conv2d(draws, 1, 8, stride=2),
        norm(8),
        norm.activation(8),
        BasicBlock(draws, 8, 8, norm),
        BasicBlock(draws, 8, 8, norm),
        BasicBlock(draws, 8, 16, norm),
        BasicBlock(draws, 16, 16, norm),
    ]


def _next(draws: Draws, norm: ImageNorms, *, patch: int) -> list[nn.Module]:
    return [
        Conv2d(draws, 1, 32, size=patch, stride=patch, padding=0),
        norm(32),
        NextBlock(draws, 32, norm),
        NextBlock(draws, 32, norm),
    ]


class BasicBlock(nn.Module):
    """relu(shortcut + norm(conv(relu(norm(conv(x)))))), or with the norm's own activation for relu.

    Where channels grow, the first convolution has stride 2.
    """

    def __init__(self, draws: Draws, n_in: int, n_out: int, norm: ImageNorms) -> None:
        super().__init__()
        stride = 1 if n_in == n_out else 2
        self.first = nn.Sequential(Conv2d(draws, n_in, n_out, stride=stride), norm(n_out), norm.activation(n_out))
        self.second = nn.Sequential(Conv2d(draws, n_out, n_out), norm(n_out))
        shortcut = [Conv2d(draws, n_in, n_out, size=1, stride=stride), norm(n_out)]
        self.shortcut = nn.Identity() if n_in == n_out else nn.Sequential(*shortcut)
        self.activation = norm.activation(n_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.shortcut(x) + self.second(self.first(x)))
        return y


class NextBlock(nn.Module):
    """x + conv1×1(gelu(conv1×1(norm(depthwise(x)))))."""

    def __init__(self, draws: Draws, channels: int, norm: ImageNorms) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            Conv2d(draws, channels, channels, depthwise=True),
            norm(channels),
            Conv2d(draws, channels, 4 * channels, size=1),
            nn.GELU(),
            Conv2d(draws, 4 * channels, channels, size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y
