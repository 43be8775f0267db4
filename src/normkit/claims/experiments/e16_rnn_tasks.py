"""E16: the norms in a recurrent network, by batch size.

A tanh RNN, or an LSTM, of 32 units reads a sequence, and its last state is classified (or gives a number); or each
state tells the next character. BatchNorm stands where Cooijmans et al. 2016 have it, with statistics of each
time step, unless an arm says otherwise; LayerNorm where Ba et al. 2016 have it: of an RNN the sum of input and state,
of an LSTM each apart. Apart, an input of two pixels keeps nothing but the ratio of the two. The weight that a norm
starts from matters in a recurrent network, so that both 0.1 and 1 are arms.

Adam, gradient norm clipped at 1.

With the learning rate of every arm tuned within its grid, recurrent BatchNorm at batch size 50 comes out level with
LayerNorm in 178 steps (error 13.3 and 13.2 %, loss 0.409 and 0.418, 5 seeds), not ahead of it as in a trial with a
coarser grid and more steps. What holds in both: at batch size 4 it loses by far (37 to 21 % in 431 steps), and with one
running mean and variance for all steps its evaluation collapses (53 %) though its training loss is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._characters import SYMBOLS, characters, least_nll
from normkit.claims.experiments._sequences import adding, digit_sequences, recall, squared_error
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_lstm import LSTM
from normkit.claims.experiments._stacked_recurrent import RNN
from normkit.claims.experiments._stacked_training import Loss, Recipe, cross_entropy
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    is_full,
    measurements,
    metrics_of,
)
from normkit.lab.task import Data

HIDDEN = 32


@dataclass(frozen=True)
class Task:
    data: Callable[[int, int], Data]  # seed, T
    n_steps: int
    n_in: int
    n_out: int
    loss: Loss = cross_entropy
    network: type[RNN] | type[LSTM] = RNN
    least: Callable[[int], float] | None = None  # T -> the test loss of who knows all; of tasks that ask at every step


TASKS = {
    "digits": Task(digit_sequences, 32, 2, 10),
    "digits-long": Task(digit_sequences, 64, 1, 10),
    "adding": Task(adding, 50, 2, 1, squared_error),
    "recall": Task(recall, 30, 16, 8),
    "characters": Task(characters, 32, len(SYMBOLS), len(SYMBOLS), least=least_nll),
}
TASKS |= {f"{name}-lstm": replace(TASKS[name], network=LSTM) for name in ("digits", "adding", "recall", "characters")}
USUAL = (("none", 1.0), ("layer_sum", 1.0), ("batch_separate", 0.1))  # norm, weight to start from
MORE = (
    ("batch_shared", 0.1),
    ("batch_separate", 1.0),
    ("layer_separate", 0.1),
    ("layer_separate", 1.0),
    ("rms_sum", 1.0),
    ("batch_input", 1.0),
)
OF_LSTM = (("none", 1.0), ("layer_separate", 1.0), ("batch_separate", 0.1))


def steps_for(batch: int) -> int:
    """332 at batch size 4 (1.3 epochs), 235 at 16, 177 at 50 (9 epochs)."""
    return round(470 / math.sqrt(math.sqrt(batch)))


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    cells = [("digits", batch, *arm) for batch in (50, 4) for arm in USUAL] + [("digits", 50, *MORE[0])]
    if tier == "full":
        cells += [("digits", 50, *arm) for arm in MORE[1:]]
        cells += [("digits", 16, *arm) for arm in USUAL]
        cells += [("digits", 4, *arm) for arm in MORE[1:4]]
        cells += [(task, 50, *arm) for task in ("digits-long", "adding", "recall", "characters") for arm in USUAL]
        of_lstm = [(task, 50) for task in ("digits-lstm", "characters-lstm", "adding-lstm", "recall-lstm")]
        cells += [(*cell, *arm) for cell in (*of_lstm, ("digits-lstm", 4)) for arm in OF_LSTM]
    return [
        Job(
            "E16",
            conditions(task=task, batch=batch, norm=norm, weight=weight),
            EVALUATION_SEEDS[tier],
            steps_for(batch),
        )
        for task, batch, norm, weight in cells
    ]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; of the adding problem "nll" is the mean squared error. The "precise" metrics are those with
    statistics of the whole training set, at each step (or shared). Of characters also test_excess, the test loss over
    the least that it could be on average."""
    arm = job.arm
    task = TASKS[str(arm["task"])]

    def build(seeds: Sequence[int]) -> nn.Module:
        draws = Draws(seeds)
        recurrent = task.network(
            draws,
            task.n_in,
            HIDDEN,
            task.n_steps,
            str(arm["norm"]),
            weight=float(arm["weight"]),
            every=task.least is not None,
        )
        return nn.Sequential(recurrent, Linear(draws, HIDDEN, task.n_out, gain=1.0))

    study = Study(
        build=build,
        data=lambda seed: task.data(seed, task.n_steps),
        recipe=Recipe(batch_size=int(arm["batch"]), steps=job.steps, optimizer="adam", clip_norm=1.0),
        grid=half_decades(0.003, 5) if is_full(job) else half_decades(0.003, 4),
        loss=task.loss,
        n_tuning_seeds=3 if is_full(job) and task.network is RNN else 2,  # an LSTM takes three times as long
    )
    cell = Cell(study, job.seeds)
    metrics = metrics_of(cell)
    if task.least is not None and cell.chosen is not None:
        least = task.least(task.n_steps)
        metrics = {seed: {**found, "test_excess": found["test_nll"] - least} for seed, found in metrics.items()}
    return measurements(job, cell, metrics)


def seconds(job: Job) -> float:
    replicas = 15.0 + 12.0 if is_full(job) else 8.0 + 5.0
    task = TASKS[str(job.arm["task"])]
    length = task.n_steps
    calls = {"none": 1.0, "layer_sum": 2.0, "rms_sum": 3.0}.get(str(job.arm["norm"]), 4.0)
    gates = 1.0 if task.network is RNN else 2.5
    return 0.3 + job.steps * length * gates * (2e-4 * calls + 1e-6 * replicas * int(job.arm["batch"]) * (1 + calls / 4))


EXPERIMENT = Experiment(
    "E16",
    "Norms in a recurrent network",
    "Is LayerNorm better suited to recurrent networks than BatchNorm, and what does that depend on?",
    jobs,
    measure,
    seconds,
)
