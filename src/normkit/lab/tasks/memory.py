"""Two problems made to need a memory, generated from the seed: adding, and copying."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from normkit.lab.data import stream
from normkit.lab.task import Data, Split, Task

SIZES = {"train": 2000, "validation": 500, "test": 1000}
SYMBOLS, RECALLED = 8, 10
Make = Callable[[int, torch.Generator], Split]  # that many sequences


def adding(*, length: Literal["20", "50", "100"] = "20") -> Task:
    """The sum of the two marked of many random numbers.

    At each of ``length`` steps an LSTM of 32 units reads a number from U(0, 1) and a mark, which is 1 once in each
    half of the sequence. At the end it gives mean and log variance of a normal distribution for the sum, scored by
    its negative log likelihood: 0.523 nats for N(1, 1/6), which ignores the input. Accuracy counts means
    within 0.1.

    Source: Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997, section 5.4, with the marks of later work
    """
    steps = int(length)

    def sums(n: int, generator: torch.Generator) -> Split:
        numbers, marks = torch.rand(n, steps, generator=generator), torch.zeros(n, steps)
        for first, last in ((0, steps // 2), (steps // 2, steps)):
            marks[torch.arange(n), torch.randint(first, last, (n,), generator=generator)] = 1.0
        return Split((torch.stack([numbers, marks], 2),), (numbers * marks).sum(1))

    return Task(
        name="adding",
        description=f"An LSTM with 32 units adds the two marked of {length} numbers.",
        data=lambda seed: generated(seed, sums),
        build=lambda norm: LastState(norm.lstm(2, 32, steps), 2),
        steps=lambda batch_size: round(900 * batch_size**-0.15),
        norms=("none", "batch", "layer", "rms"),
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
        clip_norm=1.0,
        loss=normal_nll,
        accuracy=share_within_a_tenth,
    )


def copy_memory(*, delay: Literal["10", "30", "100"] = "10") -> Task:
    """Ten symbols, a delay, and then the same ten symbols from memory.

    An LSTM of 64 units reads 10 of 8 symbols, ``delay`` blanks and 10 signals to recall, and at each signal gives
    the probabilities of a symbol. The score is the mean over the ten: ln 8 = 2.079 nats without memory.

    Source: Hochreiter, Schmidhuber 1997; Arjovsky, Shah, Bengio, "Unitary Evolution Recurrent Neural Networks",
    2016, section 5.1, https://arxiv.org/abs/1511.06464
    """
    steps = 2 * RECALLED + int(delay)

    def copies(n: int, generator: torch.Generator) -> Split:
        symbols = torch.randint(SYMBOLS, (n, RECALLED), generator=generator)
        tokens = torch.full((n, steps), SYMBOLS)  # blank
        tokens[:, :RECALLED] = symbols
        tokens[:, -RECALLED:] = SYMBOLS + 1  # the signal
        return Split((nn.functional.one_hot(tokens, SYMBOLS + 2).float(),), symbols)

    return Task(
        name="copy-memory",
        description=f"An LSTM with 64 units recalls ten symbols after {delay} blanks.",
        data=lambda seed: generated(seed, copies),
        build=lambda norm: Recaller(norm.lstm(SYMBOLS + 2, 64, steps), 64),
        steps=lambda batch_size: round(900 * batch_size**-0.15),
        norms=("none", "batch", "layer", "rms"),
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
        clip_norm=1.0,
        loss=symbol_nll,
        accuracy=share_of_symbols,
    )


def generated(seed: int, make: Make) -> Data:
    """Each part from a random stream of its own."""
    return Data(*(make(n, stream(seed, f"memory {part}")) for part, n in SIZES.items()))


def normal_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood of the targets under N(mean, exp(log_var)), outputs [N, (mean, log_var)]."""
    mean, log_var = outputs.unbind(1)
    squares = (targets - mean) ** 2 * torch.exp(-log_var)
    return 0.5 * (math.log(2 * math.pi) + log_var + squares).mean()


def share_within_a_tenth(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs[:, 0] - targets).abs() < 0.1).double().mean()


def symbol_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood of each symbol, outputs [N, recalled · symbols]."""
    return nn.functional.cross_entropy(outputs.reshape(-1, SYMBOLS), targets.flatten())


def share_of_symbols(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(-1, SYMBOLS).argmax(1) == targets.flatten()).double().mean()


class LastState(nn.Module):
    """A linear layer on the output of the last step."""

    def __init__(self, lstm: nn.Module, n_outputs: int, hidden_size: int = 32) -> None:
        super().__init__()
        self.lstm = lstm
        self.head = nn.Linear(hidden_size, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        outputs: Tensor = self.head(y[:, -1])
        return outputs


class Recaller(nn.Module):
    """A linear layer on the outputs of the steps that recall, side by side."""

    def __init__(self, lstm: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.lstm = lstm
        self.head = nn.Linear(hidden_size, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        outputs: Tensor = self.head(y[:, -RECALLED:])
        return outputs.flatten(1)
