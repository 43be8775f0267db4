"""Real data that comes with scikit-learn, and splits that depend on nothing but a seed."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from normkit.errors import ArgumentError
from normkit.lab.extras import require
from normkit.lab.task import Data, Inputs, Split


def stream(seed: int, purpose: str) -> torch.Generator:
    """A random stream of its own for one purpose of a run, so that none shifts another."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def split(inputs: Inputs, targets: Tensor, *, validation: int, test: int, seed: int) -> Data:
    """Splits samples at random, each class in the same proportion everywhere.

    Args:
        inputs: tensors with the sample axis first.
        targets: class of each sample, int64 [N].
        validation, test: samples held out for each; the rest is for training.
        seed: decides who goes where.

    Raises:
        ArgumentError: if nothing is left for training.
    """
    n = targets.shape[0]
    if n <= validation + test:
        raise ArgumentError(
            f"split: expected more samples than validation + test = {validation + test}, got {n}; hold out fewer."
        )
    generator = stream(seed, "split")
    shuffled = torch.randperm(n, generator=generator)
    # Each sample's place within its class, as a fraction: in this order any stretch has every class in proportion.
    place = torch.empty(n, dtype=torch.float64)
    for label in torch.unique(targets):
        members = shuffled[targets[shuffled] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    order = shuffled[torch.argsort(place[shuffled], stable=True)]
    parts = torch.split(order, [n - validation - test, validation, test])
    mixed = [part[torch.randperm(len(part), generator=generator)] for part in parts]
    return Data(*(Split(tuple(x[part] for x in inputs), targets[part]) for part in mixed))


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    bunch = require("sklearn.datasets", extra="lab", call="digits").load_digits()
    images = torch.from_numpy(bunch.images).float() / 16
    return images, torch.from_numpy(bunch.target).long()


def digits(seed: int) -> Data:
    """scikit-learn's handwritten digits: 1797 images [8, 8] in [0, 1], 1000 to train, 350 to validate, 447 to test.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49
    """
    images, labels = _digits()
    return split((images,), labels, validation=350, test=447, seed=seed)
