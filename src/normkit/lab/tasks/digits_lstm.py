"""A digit as a sequence of rows or of pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from normkit.lab.cells import NormLSTM
from normkit.lab.data import digits, stream
from normkit.lab.norms import NormFactory
from normkit.lab.task import Data, Inputs, Task


def digits_lstm(
    *, sequence: Literal["rows", "pixels"] = "rows", lengths: Literal["fixed", "variable"] = "fixed"
) -> Task:
    """An LSTM of 32 units whose state at the end of the sequence is classified.

    Args:
        sequence: "rows" gives 8 steps of 8 pixels, top to bottom; "pixels" gives 64 steps of one pixel, in one
            fixed random order (as permuted MNIST has it, so that the first steps are not all blank).
        lengths: "fixed" reads each sequence whole; "variable" ends each after a random half to whole of its
            steps, padded with zeros, and the state is taken at its own end.
    """
    steps, width = {"rows": (8, 8), "pixels": (64, 1)}[sequence]
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    order = {"rows": torch.arange(64), "pixels": shuffled}[sequence]

    def data(seed: int) -> Data:
        sequences = digits(seed).map(lambda image: (image.flatten(1)[:, order].reshape(-1, steps, width),))
        cut = stream(seed, "lengths")
        return sequences if lengths == "fixed" else sequences.map(lambda x: _cut(x, cut))

    return Task(
        name="digits-lstm",
        description="An LSTM with 32 units reads handwritten digits as a sequence.",
        data=data,
        build=lambda norm: Reader(width, steps, norm),
        # Rows: 149 at batch size 2, 80 at 128. Pixels, with eight times as far to look back, get twice as many.
        steps=lambda batch_size: round({"rows": 165, "pixels": 330}[sequence] * batch_size**-0.15),
        learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
        clip_norm=1.0,
    )


class Reader(nn.Module):
    def __init__(self, width: int, steps: int, norm: NormFactory) -> None:
        super().__init__()
        self.lstm = NormLSTM(width, 32, steps=steps, norm=norm)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.lstm(x, lengths))
        return logits


def _cut(x: Tensor, generator: torch.Generator) -> Inputs:
    """Ends each sequence of x [N, T, C] after a random half to whole of its steps: padded, and its length."""
    n, steps, _ = x.shape
    lengths = torch.randint(steps // 2, steps + 1, (n,), generator=generator)
    ended = torch.arange(steps) >= lengths[:, None]
    return x.masked_fill(ended[:, :, None], 0.0), lengths
