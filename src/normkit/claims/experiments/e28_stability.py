"""E28: on how much of the plane of learning rates and initial weights can a network be trained?

That is the meaning given here to "stabilizes training": the share of the plane (9 learning rates by 7 scales of the
hidden layers' initial weights, both logarithmic) on which a 4-layer ReLU MLP reaches 90 % of accuracy in validation.

At batch size 2 the steps are so many that LayerNorm, and a network without norm, reach that somewhere: BatchNorm never
does. Compare norms at one batch size; the steps differ between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._deep import deep_mlp
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_data import stacked_data
from normkit.claims.experiments._stacked_layers import Linear
from normkit.claims.experiments._stacked_training import Recipe, evaluate, one_thread, train

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SCALES = (0.1, 0.22, 0.46, 1.0, 2.2, 4.6, 10.0)
DEPTH, WIDTH = 4, 32
STEPS = {100: 80, 2: 1500}  # for a batch size
TRAINS_BELOW = 10.0  # per cent of errors


def jobs(tier: Tier) -> Sequence[Job]:
    quick = [conditions(norm=norm, batch=100) for norm in ("none", "layer", "batch")]
    small = [conditions(norm=norm, batch=2) for norm in ("batch", "layer", "none")]
    return [
        *jobs_of("E28", tier, quick, [conditions(norm="rms", batch=100)], STEPS[100]),
        *jobs_of("E28", tier, (), small, STEPS[2]),
    ]


def measure(job: Job) -> list[Measurement]:
    """One stack for each initial scale: all learning rates and seeds beside each other."""
    plane = {}
    with one_thread():
        for scale in SCALES:
            for i, errors in enumerate(_errors(job, scale)):
                plane[i, scale] = errors
    found = []
    for i, seed in enumerate(job.seeds):
        errors = [error for scale in SCALES for error in plane[i, scale]]
        trained = [error <= TRAINS_BELOW for error in errors]
        at_usual = trained[SCALES.index(1.0) * len(RATES) :][: len(RATES)]
        metrics = {
            "area": sum(trained) / len(trained),
            "rates_at_usual_scale": sum(at_usual) / len(at_usual),
            "share_not_finite": sum(not math.isfinite(error) for error in errors) / len(errors),
            "best_error": min(errors) if any(map(math.isfinite, errors)) else 100.0,
        }
        series = {
            "learning_rates": RATES,
            "scales": SCALES,
            "error": tuple(error if math.isfinite(error) else 100.0 for error in errors),  # scale by scale
        }
        found.append(Measurement(job.experiment, job.conditions, seed, metrics=metrics, series=series))
    return found


def _errors(job: Job, scale: float) -> list[list[float]]:
    """Per cent of validation errors, infinite where the loss was not finite: [seed][learning rate]."""
    pairs = [(seed, rate) for seed in job.seeds for rate in RATES]
    seeds, rates = zip(*pairs, strict=True)
    model = deep_mlp(DEPTH, WIDTH, str(job.arm["norm"]))(seeds)
    hidden = [module for module in model.modules() if isinstance(module, Linear)][:-1]
    with torch.no_grad():
        for layer in hidden:
            layer.weight.mul_(scale)
    data = stacked_data(flat_digits, seeds)
    history = train(model, data, Recipe(int(job.arm["batch"]), job.steps), rates)
    errors = evaluate(model, data.validation)
    bad = history.diverged | ~errors["nll"].isfinite()
    return torch.where(bad, math.inf, errors["error"]).view(len(job.seeds), -1).tolist()


EXPERIMENT = Experiment(
    "E28",
    "The map of stability",
    "On how much of the plane of learning rates and initial weights does each norm let a network train?",
    jobs,
    measure,
    seconds=lambda job: (1.6 if job.arm["batch"] == 100 else 3.0) * len(job.seeds),
)
