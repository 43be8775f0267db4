"""E26's trained arms: a ReLU network whose norms learn gamma and beta, beta alone, or neither.

What is not learned stays where it starts, gamma at 1 and beta at 0. Before a ReLU and a linear layer the next weights
can hold a positive gamma; nothing can hold beta, which moves the point at which the ReLU cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import nn

from normkit.claims.experiment import Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._stacked_models import Build, mlp
from normkit.claims.experiments._stacked_norms import Affine, BatchNorm
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS, Study, half_decades, measure_cell

BATCH, STEPS = 32, 177  # those of E05
FIXED: Final[Mapping[str, tuple[str, ...]]] = {"both": (), "beta": ("weight",), "neither": ("weight", "bias")}


def jobs(tier: Tier) -> Sequence[Job]:
    """Each norm with what it learns, in the full tier."""
    if tier != "full":
        return ()
    return [
        Job("E26", conditions(design="trained", norm=norm, learned=learned), EVALUATION_SEEDS[tier], STEPS)
        for norm in ("batch", "layer")
        for learned in FIXED
    ]


def measure(job: Job) -> list[Measurement]:
    """A network tuned for itself, on its test data; see ``measure_cell``."""
    study = Study(
        build=with_fixed(mlp((64, 64), str(job.arm["norm"])), FIXED[str(job.arm["learned"])]),
        data=flat_digits,
        recipe=Recipe(BATCH, job.steps),
        grid=half_decades(0.003, 7),
        n_tuning_seeds=3,
    )
    return measure_cell(job, study)


def with_fixed(build: Build, names: Sequence[str]) -> Build:
    """The same networks with these parameters of every norm held where they start."""

    def build_fixed(seeds: Sequence[int]) -> nn.Module:
        model = build(seeds)
        for norm in [module for module in model.modules() if isinstance(module, (Affine, BatchNorm))]:
            for name in names:
                value = norm.get_parameter(name).detach()
                delattr(norm, name)
                norm.register_buffer(name, value)
        return model

    return build_fixed
