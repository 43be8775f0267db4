"""E26's trained arms: what they plan, that their rules find them, and that what is not learned stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import normkit.claims
from normkit.claims.experiments import _affine_ablation, e26_affine
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._stacked_data import stacked_data
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Recipe, train
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS

RULES = json.loads((Path(normkit.claims.__file__).parent / "rules" / "E26_training.json").read_text(encoding="utf-8"))
SEEDS = (0, 1)


def test_plan():
    assert (
        list(e26_affine.EXPERIMENT.jobs("quick")) == [e26_affine.EXACT] == list(e26_affine.EXPERIMENT.jobs("instant"))
    )
    trained = [job for job in e26_affine.EXPERIMENT.jobs("full") if job != e26_affine.EXACT]
    assert all(job.seeds == EVALUATION_SEEDS["full"] for job in trained)
    for rule in RULES:
        for side in (rule["these"], rule["those"]):
            assert sum(job.arm.items() >= side.items() for job in trained) == 1, rule["id"]


def test_a_small_job_measures_what_the_rules_speak_of():
    for job in _affine_ablation.jobs("full")[:2]:
        for m in e26_affine.EXPERIMENT.measure(replace(job, seeds=SEEDS, steps=3)):
            assert m.status == "done"
            assert {rule["metric"] for rule in RULES} <= set(m.metrics)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("learned", _affine_ablation.FIXED)
def test_what_is_not_learned_stays_where_it_starts(norm, learned):
    fixed = _affine_ablation.FIXED[learned]
    model = _affine_ablation.with_fixed(mlp((16, 12), norm), fixed)(SEEDS)
    assert len(list(model.parameters())) == 6 + 2 * (2 - len(fixed))
    train(model, stacked_data(flat_digits, SEEDS), Recipe(batch_size=8, steps=4), (0.1, 0.1))
    for layer in (model[1], model[4]):
        assert bool((layer.weight == 1).all()) == ("weight" in fixed)
        assert bool((layer.bias == 0).all()) == ("bias" in fixed)


def test_the_networks_start_alike_whatever_they_learn():
    x = torch.rand(len(SEEDS), 9, 64)
    both, neither = (
        _affine_ablation.with_fixed(mlp((16,), "batch"), names)(SEEDS) for names in ((), ("weight", "bias"))
    )
    assert (both(x) == neither(x)).all()
