"""A digit as a sequence of rows or of pixels, read by an LSTM or a GRU."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from normkit.lab.data import digits, stream
from normkit.lab.task import Data, Inputs, Task

Sequence = Literal["rows", "pixels"]
Lengths = Literal["fixed", "variable"]


def digits_lstm(*, sequence: Sequence = "rows", lengths: Lengths = "fixed") -> Task:
    """An LSTM of 32 units whose state at the end of the sequence is classified.

    Args:
        sequence: "rows" gives 8 steps of 8 pixels, top to bottom; "pixels" gives 64 steps of one pixel, in one
            fixed random order (as permuted MNIST has it, so that the first steps are not all blank).
        lengths: "fixed" reads each sequence whole; "variable" ends each after a random half to whole of its
            steps, padded with zeros, and the state is taken at its own end.
    """
    n_steps, width = SHAPES[sequence]
    return Task(
        name="digits-lstm",
        description="An LSTM with 32 units reads handwritten digits as a sequence.",
        data=lambda seed: sequences(seed, sequence, lengths),
        build=lambda norm: Reader(norm.lstm(width, 32, n_steps)),
        steps=lambda batch_size: steps_for(batch_size, sequence),
        norms=("none", "batch", "layer", "rms"),
        batch_sizes=(2, 4, 8, 16, 128),  # where LayerNorm and recurrent BatchNorm change places
        learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
        clip_norm=1.0,
    )


def digits_gru(*, sequence: Sequence = "rows", lengths: Lengths = "fixed") -> Task:
    """The same with a GRU of 32 units, for which there is no BatchNorm."""
    _, width = SHAPES[sequence]
    return Task(
        name="digits-gru",
        description="A GRU with 32 units reads handwritten digits as a sequence.",
        data=lambda seed: sequences(seed, sequence, lengths),
        build=lambda norm: Reader(norm.gru(width, 32)),
        steps=lambda batch_size: steps_for(batch_size, sequence),
        norms=("none", "layer", "rms"),
        learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
        clip_norm=1.0,
    )


SHAPES: dict[Sequence, tuple[int, int]] = {"rows": (8, 8), "pixels": (64, 1)}  # steps, values at each


def steps_for(batch_size: int, sequence: Sequence) -> int:
    """Rows: 149 at batch size 2, 80 at 128. Pixels, with eight times as far to look back, get twice as many."""
    whole: int = round({"rows": 165, "pixels": 330}[sequence] * batch_size**-0.15)
    return whole


def sequences(seed: int, sequence: Sequence, lengths: Lengths) -> Data:
    """Digits as [N, T, C], and their lengths where these vary."""
    n_steps, width = SHAPES[sequence]
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    order = {"rows": torch.arange(64), "pixels": shuffled}[sequence]
    whole = digits(seed).map(lambda image: (image.flatten(1)[:, order].reshape(-1, n_steps, width),))
    if lengths == "fixed":
        return whole
    generator = stream(seed, "lengths")
    return whole.map(lambda x: cut(x, generator))


def cut(x: Tensor, generator: torch.Generator) -> Inputs:
    """Ends each sequence of x [N, T, C] after a random half to whole of its steps: padded, and its length."""
    n, steps, _ = x.shape
    lengths = torch.randint(steps // 2, steps + 1, (n,), generator=generator)
    ended = torch.arange(steps) >= lengths[:, None]
    return x.masked_fill(ended[:, :, None], 0.0), lengths


class Reader(nn.Module):
    """Classifies the state at the end of each sequence."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        _, state = self.recurrent(x, lengths=lengths)
        h = state[0] if isinstance(state, tuple) else state
        logits: Tensor = self.head(h[-1])
        return logits
