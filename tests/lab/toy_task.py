"""A task for tests that make up their runs: what it says about grid and steps is all that matters."""

import torch
from torch import nn

from normkit.lab import Data, NormFactory, Task, split


def data(seed: int) -> Data:
    x = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    return split((x,), (x.sum(1) > 0).long(), validation=30, test=30, seed=seed)


def build(norm: NormFactory) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), norm.features(8), nn.ReLU(), nn.Linear(8, 2))


task = Task(
    name="toy",
    description="The sign of a sum.",
    data=data,
    build=build,
    steps=lambda batch_size: 20 if batch_size == 2 else 16,
    norms=("none", "layer"),
    batch_sizes=(2, 128),
    learning_rates=(1e-2, 3e-2, 1e-1, 3e-1),
)
