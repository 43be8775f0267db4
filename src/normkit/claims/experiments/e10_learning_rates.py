"""E10: over which learning rates a deep MLP, and a residual CNN, can be trained at all with each norm.

A learning rate counts as usable where validation accuracy reaches 90 % after the cosine schedule that starts from it.
Every evaluation seed is trained at every learning rate, so that nothing is tuned. The grid reaches beyond what
any norm bears; where it does not, ``grid_too_short`` is 1. Where no learning rate is usable, the largest is
``UNDEFINED``: not a number, and the worst there can be. Steps are so many that this is rare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from normkit.claims.experiment import UNDEFINED, Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits, image_digits
from normkit.claims.experiments._stacked_data import stacked_data
from normkit.claims.experiments._stacked_models import cnn, mlp
from normkit.claims.experiments._stacked_training import Recipe, evaluate, one_thread, train
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS, curve, half_decades, is_full

NORMS = ("none", "batch", "layer", "rms")
WIDTH = 48
RATES = half_decades(0.001, 10)  # 0.001 to 30
QUICK_RATES = half_decades(0.003, 7)  # 0.003 to 3
CNN_RATES = half_decades(0.003, 6)  # 0.003 to 1
USABLE_ERROR = 10.0  # per cent
STEPS = {100: 200, 8: 700}  # for a batch size: 20 and 6 epochs
CNN_BATCH, CNN_STEPS = 32, 150


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    quick = [(8, 100, norm) for norm in NORMS[:3]]
    full = [(8, 100, norm) for norm in NORMS] + [
        (depth, batch, norm) for depth, batch in ((8, 8), (2, 100), (4, 100), (2, 8), (4, 8)) for norm in NORMS
    ]
    seeds = EVALUATION_SEEDS[tier]
    found = [
        Job("E10", conditions(network="mlp", norm=norm, batch=batch, depth=depth), seeds, STEPS[batch])
        for depth, batch, norm in (quick if tier == "quick" else full)
    ]
    if tier == "full":
        found += [
            Job("E10", conditions(network="residual", norm=norm, batch=CNN_BATCH), seeds, CNN_STEPS)
            for norm in NORMS[:3]
        ]
    return found


def measure(job: Job) -> list[Measurement]:
    """Metrics: log10_max_lr, usable_decades (from the smallest to the largest usable learning rate), share_usable and
    share_diverged of all learning rates, grid_too_short, and val_error_best.
    Series: learning_rates, val_error and val_nll at each, ``UNDEFINED`` where it diverged, and the training loss where
    it did not."""
    arm = job.arm
    is_mlp = arm["network"] == "mlp"
    grid = _grid(job)
    pairs = [(seed, rate) for rate in grid for seed in job.seeds]
    seeds, rates = zip(*pairs, strict=True)
    norm = str(arm["norm"])
    build = mlp((WIDTH,) * int(arm["depth"]), norm) if is_mlp else cnn("residual", norm)
    with one_thread():
        model = build(seeds)
        data = stacked_data(flat_digits if is_mlp else image_digits, seeds)
        history = train(model, data, Recipe(batch_size=int(arm["batch"]), steps=job.steps), rates)
        found = evaluate(model, data.validation)
    diverged = history.diverged | ~found["nll"].isfinite()
    measured = []
    for seed in job.seeds:
        own = [i for i, s in enumerate(seeds) if s == seed]
        alive = [i for i in own if not diverged[i]]
        usable = [rates[i] for i in alive if found["error"][i] <= USABLE_ERROR]
        series = {
            "learning_rates": tuple(rates[i] for i in own),
            "val_error": tuple(UNDEFINED if diverged[i] else float(found["error"][i]) for i in own),
            "val_nll": tuple(UNDEFINED if diverged[i] else float(found["nll"][i]) for i in own),
        }
        for i in alive:
            series["steps"], series[f"train_loss_{rates[i]:g}"] = curve(history.losses[:, i])
        measured.append(
            Measurement(
                job.experiment,
                job.conditions,
                seed,
                metrics={
                    **usable_range(usable, grid[-1]),
                    "share_usable": len(usable) / len(own),
                    "share_diverged": 1 - len(alive) / len(own),
                    "val_error_best": min((float(found["error"][i]) for i in alive), default=90.0),
                },
                series=series,
            )
        )
    return measured


def _grid(job: Job) -> tuple[float, ...]:
    if job.arm["network"] != "mlp":
        return CNN_RATES
    return RATES if is_full(job) else QUICK_RATES


def usable_range(usable: Sequence[float], highest: float) -> dict[str, float]:
    """The logarithm of the largest learning rate that trains, ``UNDEFINED`` if none does, and the width.

    In whole steps of half a decade, as the grid means them: from 0.1 to 0.3 and from 0.3 to 1 it is as far.

    Args:
        usable: learning rates that train.
        highest: of all that were tried.
    """
    if not usable:
        return {"log10_max_lr": UNDEFINED, "usable_decades": 0.0, "grid_too_short": 0.0}
    lowest_usable, highest_usable = (round(2 * math.log10(rate)) / 2 for rate in (min(usable), max(usable)))
    return {
        "log10_max_lr": highest_usable,
        "usable_decades": highest_usable - lowest_usable,
        "grid_too_short": float(max(usable) == highest),
    }


def seconds(job: Job) -> float:
    replicas = len(_grid(job)) * len(job.seeds)
    if job.arm["network"] != "mlp":
        return 0.5 + job.steps * replicas * 9e-4
    return 0.3 + job.steps * replicas * int(job.arm["depth"]) * (1.5e-5 + 7e-7 * int(job.arm["batch"]))


EXPERIMENT = Experiment(
    "E10",
    "The largest learning rate that trains",
    "Does a norm let a deep network be trained at learning rates at which it could not be trained without?",
    jobs,
    measure,
    seconds,
)
