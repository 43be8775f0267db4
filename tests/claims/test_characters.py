"""Characters whose entropy is known."""

import math
from collections import Counter

import pytest
import torch

from normkit.claims.experiments._characters import SYMBOLS, TEXT, characters, least_nll


def windows(n):
    ring = TEXT + TEXT[: n - 1]
    return Counter(ring[i : i + n] for i in range(len(TEXT)))


def read(split):
    first = split.inputs[0].argmax(2)[:, :1]
    return ["".join(SYMBOLS[i] for i in row) for row in torch.cat([first, split.targets], 1).tolist()]


def test_the_least_loss_is_the_entropy_of_the_ring():
    entropy = [
        -sum(count / len(TEXT) * math.log(count / len(TEXT)) for count in windows(n).values()) for n in (1, 2, 3)
    ]
    assert least_nll(1) == pytest.approx(entropy[1] - entropy[0])
    assert least_nll(32) == pytest.approx((31 * (entropy[2] - entropy[1]) + entropy[1] - entropy[0]) / 32)


def test_who_knows_the_source_has_the_least_loss():
    pairs, threes = windows(2), windows(3)
    ones = windows(1)
    nats = []
    for text in read(characters(0, 32).train):
        first = math.log(pairs[text[:2]] / ones[text[0]])
        rest = sum(math.log(threes[text[i : i + 3]] / pairs[text[i : i + 2]]) for i in range(len(text) - 2))
        nats.append(-(first + rest) / 32)
    error = torch.tensor(nats).std() / len(nats) ** 0.5
    assert sum(nats) / len(nats) == pytest.approx(least_nll(32), abs=3 * float(error))


def test_a_sequence_gives_one_hot_characters_and_those_that_follow():
    split = characters(0, 5).validation
    x, y = split.inputs[0], split.targets
    assert x.shape == (350, 5, len(SYMBOLS))
    assert (x.sum(2) == 1).all()
    assert torch.equal(x[:, 1:].argmax(2), y[:, :-1])
