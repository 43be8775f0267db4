"""Characters from a source whose entropy is known: what a language model's loss can be at best is a number.

The source has the probabilities of each character given the two before it as they are in a text that closes into a
ring. On a ring each pair of characters is left as often as it is entered, so that the pairs' shares of the text are the
source's own shares, and its entropies are sums over the text.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from normkit.claims.experiments._sequences import SIZES
from normkit.lab.data import stream
from normkit.lab.task import Data, Split

TEXT = (
    "a layer sees the world through the layer below, and while that one learns, the world moves. to normalize is to "
    "take from each number the mean of some set and to divide by the spread of the same set, so that whatever comes "
    "next finds its input where it found it before. all that differs between the norms is the set. one of them takes "
    "the cases of a batch and looks at a single feature, so a case is measured by the company it keeps. another takes "
    "the features of a single case and asks nobody else. a third takes groups of channels, and a fourth one channel of "
    "one image alone. none of this is free. where the batch is small, its mean is a poor guess, and the noise of the "
    "guess goes into every case. where the sequence is long, the end of it is reached by few, and the few must stand "
    "for all. what was true while training need not be true when the model is used, since then there is no batch, and "
    "the running mean must do. a norm of single cases knows no such trouble, yet it throws away what the others keep, "
    "the size of the whole, and with it the chance to tell a faint picture from a strong one. people have said that a "
    "norm makes the surface smooth, that it lets the steps be longer, that it holds the gradients in their bounds and "
    "the model in its shape. some of it is so, in some places, for some of the norms. the way to know is to say first "
    "what would count, then to train many times from many starts, and to look at the answer once. if the answer is "
    "that it depends, the question is on what. "
)
SYMBOLS = "".join(sorted(set(TEXT)))


@cache
def _following() -> Tensor:
    """P(c | a, b) as [a, b, c]; 0 where the pair is not in the text."""
    counts = _counts()
    return counts / counts.sum(2, keepdim=True).clamp(min=1)


@cache
def _counts() -> Tensor:
    """How often each three characters follow one another, [V, V, V]."""
    places = torch.tensor([SYMBOLS.index(symbol) for symbol in TEXT])
    counts = torch.zeros(3 * (len(SYMBOLS),), dtype=torch.float64)
    ones = torch.ones(len(TEXT), dtype=torch.float64)
    return counts.index_put((places, places.roll(-1), places.roll(-2)), ones, accumulate=True)


@lru_cache(maxsize=32)
def characters(seed: int, n_steps: int) -> Data:
    """One-hot characters [N, T, V], and after each the one that follows, [N, T]."""

    def part(name: str) -> Split:
        generator, n = stream(seed, f"characters {name}"), SIZES[name]
        pair = torch.multinomial(_counts().sum(2).flatten(), n, replacement=True, generator=generator)
        drawn = [pair // len(SYMBOLS), pair % len(SYMBOLS)]
        for _ in range(n_steps - 1):
            rows = _following()[drawn[-2], drawn[-1]]
            drawn.append(torch.multinomial(rows, 1, generator=generator)[:, 0])
        text = torch.stack(drawn, 1)
        return Split((torch.nn.functional.one_hot(text[:, :-1], len(SYMBOLS)).float(),), text[:, 1:])

    return Data(*map(part, SIZES))


def least_nll(n_steps: int) -> float:
    """Nats a character, of who knows the source and all characters from the first on: none does better.

    ((T - 1)·H(X₃ | X₁ X₂) + H(X₂ | X₁)) / T
    """
    of_three, of_two = _counts(), _counts().sum(2)
    return ((n_steps - 1) * _entropy_of_last(of_three) + _entropy_of_last(of_two)) / n_steps


def _entropy_of_last(counts: Tensor) -> float:
    """H of the last of some characters given those before it."""
    given = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -float(torch.xlogy(counts / counts.sum(), given).sum())
