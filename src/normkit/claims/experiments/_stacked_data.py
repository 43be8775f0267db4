"""Data for a stack of networks: every seed's own split, and its own order of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normkit.lab.data import stream
from normkit.lab.task import Data, Split


@dataclass(frozen=True)
class StackedSplit:
    """Samples [S, n, ...] of S seeds, and which seed's each of R replicas takes."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    seed_of: Tensor  # [R]

    def __len__(self) -> int:
        return self.targets.shape[1]

    def rows(self, rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The samples [R, B, ...] at rows [S, B] of each seed."""
        of = self.seed_of[:, None]
        at = rows[self.seed_of]
        return tuple(x[of, at] for x in self.inputs), self.targets[of, at]

    def parts(self, size: int = 256) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """All samples, some at a time, so that many replicas fit into memory."""
        everything = torch.arange(len(self)).expand(self.targets.shape[0], -1)
        for rows in torch.split(everything, size, dim=1):
            yield self.rows(rows)

    def all(self) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(x[self.seed_of] for x in self.inputs), self.targets[self.seed_of]


@dataclass(frozen=True)
class StackedData:
    train: StackedSplit
    validation: StackedSplit
    test: StackedSplit
    seeds: tuple[int, ...]  # S, without repetition


def stacked_data(data: Callable[[int], Data], seeds: Sequence[int]) -> StackedData:
    """The data of each replica's seed."""
    unique = tuple(dict.fromkeys(seeds))
    seed_of = torch.tensor([unique.index(seed) for seed in seeds])
    found = [data(seed) for seed in unique]

    def stack(splits: list[Split]) -> StackedSplit:
        inputs = tuple(torch.stack(tensors) for tensors in zip(*(split.inputs for split in splits), strict=True))
        return StackedSplit(inputs, torch.stack([split.targets for split in splits]), seed_of)

    return StackedData(
        stack([d.train for d in found]), stack([d.validation for d in found]), stack([d.test for d in found]), unique
    )


def batches(seeds: Sequence[int], n: int, batch_size: int) -> Iterator[Tensor]:
    """Rows [S, B] of batch after batch, in a new order each epoch; what does not fill a batch is left out."""
    streams = [stream(seed, "order") for seed in seeds]
    while True:
        order = torch.stack([torch.randperm(n, generator=generator) for generator in streams])
        yield from torch.split(order[:, : n - n % batch_size], batch_size, dim=1)
