"""Sequences for recurrent networks: the digits pixel by pixel, and two problems that need a memory."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from normkit.claims.experiments._digits import flat_digits
from normkit.lab.data import stream
from normkit.lab.task import Data, Split

SIZES = {"train": 1000, "validation": 350, "test": 447}  # as the digits
SYMBOLS = 8


@lru_cache(maxsize=32)
def digit_sequences(seed: int, n_steps: int) -> Data:
    """The 64 pixels in one fixed random order, 64 / T at each of T steps, [N, T, 64 / T]."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    return flat_digits(seed).map(lambda x: (x[:, order].reshape(len(x), n_steps, -1),))


@lru_cache(maxsize=32)
def adding(seed: int, n_steps: int) -> Data:
    """Numbers from U(0, 1) and marks [N, T, 2], one mark in each half: the target is the sum of the marked, [N, 1].

    "Always 1" has mean squared error 1/6. Source: Hochreiter, Schmidhuber 1997, section 5.4
    """

    def part(name: str) -> Split:
        generator, n = stream(seed, f"adding {name}"), SIZES[name]
        numbers, marks = torch.rand(n, n_steps, generator=generator), torch.zeros(n, n_steps)
        for first, last in ((0, n_steps // 2), (n_steps // 2, n_steps)):
            marks[torch.arange(n), torch.randint(first, last, (n,), generator=generator)] = 1.0
        return Split((torch.stack([numbers, marks], 2),), (numbers * marks).sum(1, keepdim=True))

    return Data(*map(part, SIZES))


@lru_cache(maxsize=32)
def recall(seed: int, n_steps: int) -> Data:
    """One of 8 symbols, then T - 1 others at random that do not matter, one-hot [N, T, 16]: which was the first?"""

    def part(name: str) -> Split:
        generator, n = stream(seed, f"recall {name}"), SIZES[name]
        first = torch.randint(SYMBOLS, (n,), generator=generator)
        tokens = torch.randint(SYMBOLS, 2 * SYMBOLS, (n, n_steps), generator=generator)
        tokens[:, 0] = first
        return Split((torch.nn.functional.one_hot(tokens, 2 * SYMBOLS).float(),), first)

    return Data(*map(part, SIZES))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()
