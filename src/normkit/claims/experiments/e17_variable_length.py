"""E17: what varying lengths do to the norms of a recurrent network.

Digits, two pixels at a step, are read for 18 steps, or each for 8 to 28 with the rest padded by zeros. BatchNorm takes
its statistics at each step over all sequences, padding among them ("batch_separate"), or over those that reach the step
("batch_masked"). If varying lengths are BatchNorm's trouble, it loses more by them than LayerNorm does; if that is the
padding alone, the masked one does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._sequences import digit_sequences
from normkit.claims.experiments._stacked_data import StackedSplit
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_recurrent import RNN
from normkit.claims.experiments._stacked_training import Recipe, evaluate, one_thread
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    measurements,
    metrics_of,
)
from normkit.lab.data import stream
from normkit.lab.task import Data

SHORTEST, USUAL, LONGEST, WHOLE = 8, 18, 28, 32
HIDDEN, BATCH, STEPS = 32, 32, 360
ARMS = (("layer_sum", 1.0), ("batch_separate", 0.1), ("batch_masked", 0.1), ("none", 1.0))


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    return [
        Job("E17", conditions(lengths=lengths, norm=norm), EVALUATION_SEEDS[tier], STEPS)
        for lengths in ("variable", "fixed")
        for norm, _ in ARMS
        if not (lengths == "fixed" and norm == "batch_masked")  # where nothing is padded it is the other one
    ]


class Reader(nn.Module):
    def __init__(self, draws: Draws, norm: str) -> None:
        super().__init__()
        self.recurrent = RNN(draws, 2, HIDDEN, LONGEST, norm, weight=dict(ARMS)[norm])
        self.head = Linear(draws, HIDDEN, 10, gain=1.0)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(x, lengths))
        return logits


@lru_cache(maxsize=32)
def cut_digits(seed: int, lengths: str) -> Data:
    """Sequences [N, T, 2], and how long each is."""
    generator = stream(seed, "lengths")

    def cut(x: Tensor) -> tuple[Tensor, Tensor]:
        if lengths == "fixed":
            return x[:, :USUAL], torch.full((len(x),), USUAL)
        length = torch.randint(SHORTEST, LONGEST + 1, (len(x),), generator=generator)
        ended = torch.arange(LONGEST) >= length[:, None]
        return x[:, :LONGEST].masked_fill(ended[:, :, None], 0.0), length

    return digit_sequences(seed, WHOLE).map(cut)


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; nll_whole, of the test data read to the end, 4 steps beyond all that was trained on; and
    where lengths vary, nll_short and nll_long, of the third with the shortest and the longest."""
    norm, lengths = str(job.arm["norm"]), str(job.arm["lengths"])
    study = Study(
        build=lambda seeds: Reader(Draws(seeds), norm),
        data=lambda seed: cut_digits(seed, lengths),
        recipe=Recipe(BATCH, job.steps, optimizer="adam", clip_norm=1.0),
        grid=half_decades(0.001, 5),
        n_tuning_seeds=3,
    )
    cell = Cell(study, job.seeds)
    more = {seed: dict[str, float]() for seed in job.seeds}
    if cell.chosen is not None:
        stack = cell.at(cell.chosen)
        with one_thread():
            for name, split in _views(stack.data.test, job.seeds, lengths).items():
                for seed, value in zip(job.seeds, evaluate(stack.model, split)["nll"].tolist(), strict=True):
                    more[seed][f"nll_{name}"] = value
    found = metrics_of(cell)
    return measurements(job, cell, {seed: {**found[seed], **more[seed]} for seed in job.seeds})


def _views(test: StackedSplit, seeds: Sequence[int], lengths: str) -> dict[str, StackedSplit]:
    """The test data in other forms."""
    whole = torch.stack([digit_sequences(seed, WHOLE).test.inputs[0] for seed in seeds])
    found = {"whole": StackedSplit((whole, torch.full(whole.shape[:2], WHOLE)), test.targets, test.seed_of)}
    if lengths == "variable":
        x, length = test.inputs
        order = length.argsort(dim=1, stable=True)
        third = math.ceil(order.shape[1] / 3)
        of = torch.arange(len(seeds))[:, None]
        for name, rows in (("short", order[:, :third]), ("long", order[:, -third:])):
            found[name] = StackedSplit((x[of, rows], length[of, rows]), test.targets[of, rows], test.seed_of)
    return found


def seconds(job: Job) -> float:
    slow = 3.0 if job.arm["norm"] == "batch_masked" else 1.0
    return 1.0 + job.steps * 27 * slow * 1.2e-3


EXPERIMENT = Experiment(
    "E17",
    "Varying lengths in a recurrent network",
    "Is it varying lengths that make BatchNorm a poor norm for sequences, or what is done with the padding?",
    jobs,
    measure,
    seconds,
)
