"""The digits as the experiments take them."""

from __future__ import annotations

from functools import lru_cache

import torch

from normkit.lab.data import digits, stream
from normkit.lab.task import Data, Split


@lru_cache(maxsize=64)
def flat_digits(seed: int) -> Data:
    """[N, 64], in [0, 1]."""
    return digits(seed).map(lambda image: (image.flatten(1),))


@lru_cache(maxsize=64)
def image_digits(seed: int) -> Data:
    """[N, 1, 8, 8]."""
    return digits(seed).map(lambda image: (image.unsqueeze(1),))


def few(data: Data, n: int) -> Data:
    """The same with the first n training samples alone."""
    return Data(Split(tuple(x[:n] for x in data.train.inputs), data.train.targets[:n]), data.validation, data.test)


def noisy(data: Data, seed: int, std: float) -> Data:
    """Images with Gaussian noise of that standard deviation: always the same on the same image of a seed."""

    def part(name: str, split: Split) -> Split:
        (images,) = split.inputs
        noise = torch.randn(images.shape, generator=stream(seed, f"noise {name}"), dtype=images.dtype)
        return Split((images + std * noise,), split.targets)

    return Data(part("train", data.train), part("validation", data.validation), part("test", data.test))
