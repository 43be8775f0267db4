"""Verdicts without a run behind them, for pages: every claim, and made-up measurements of three experiments."""

from __future__ import annotations

import random

from normkit.claims.experiment import UNDEFINED, Measurement, conditions
from normkit.claims.register import register
from normkit.claims.verdicts import Verdict, Verdicts

RATES = (0.01, 0.1, 1.0)
NORMS = ("none", "batch", "layer", "rms")
MAPS = (("none", 2), ("none", 100), ("batch", 2), ("batch", 100), ("layer", 100))  # LayerNorm at 2 was not run
EVIDENCE = ("holds", "fails", "depends", "inconclusive", "not run")


def measurements() -> list[Measurement]:
    rng = random.Random(5)
    made = []
    for place, norm in enumerate(NORMS):
        for seed in range(5):
            for batch in (2, 8, 32):
                value = 0.1 + 0.05 * place + rng.random() / 50
                arm = conditions(design="batch", norm=norm, batch=batch)
                made.append(Measurement("E05", arm, seed, metrics={"test_nll": value}))
            for batch in (8, 100):
                for depth in (2, 8):
                    errors = [5.0 + place + depth * rate + rng.random() for rate in RATES]
                    if norm != "batch":
                        errors[-1] = UNDEFINED
                    series = {"learning_rates": RATES, "val_error": tuple(errors)}
                    arm = conditions(network="mlp", norm=norm, batch=batch, depth=depth)
                    made.append(Measurement("E10", arm, seed, metrics={"share_usable": 1.0}, series=series))
    made += [_map(norm, batch, seed) for norm, batch in MAPS for seed in range(5)]
    return made


def _map(norm: str, batch: int, seed: int) -> Measurement:
    errors = tuple(5.0 + 10.0 * place + seed for place in range(6))
    series = {"learning_rates": (0.1, 1.0), "scales": (0.5, 1.0, 2.0), "error": errors}
    return Measurement("E28", conditions(norm=norm, batch=batch), seed, metrics={"area": 0.5}, series=series)


def example_verdicts() -> Verdicts:
    """Evidence of each kind in turn."""
    verdicts = tuple(
        Verdict(claim, EVIDENCE[place % 5] if claim.conditions else "not run", "", ())
        for place, claim in enumerate(register().values())
    )
    return Verdicts(verdicts, {}, tuple(measurements()), "full", provenance={})
