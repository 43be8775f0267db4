"""The exact experiments: what they find on the layers is what mathematics says, and a planted bug changes it."""

import json
import math
from importlib import resources

import pytest
import torch
from torch import nn

from claims.planted_bugs import PLANTED_BUGS, exact_measurements
from normkit.claims.experiments import e02_invariance
from normkit.claims.experiments._exact import Layers, difference, unequal
from normkit.claims.hypothesis import Hypothesis

EXACT = ("E01", "E02", "E03", "E26", "E27")

# Sentences that are wrong, each written as the sources (or a reader) would have it: an experiment that cannot find
# them wrong would find nothing wrong.
WRONG = {
    "E01-H11",  # LayerNorm: cases share one scale
    "E01-H12",  # LayerNorm: units have the same mean over the data
    "E01-H14",  # LayerNorm: a statistic for each feature of one case
    "E01-H16",  # each channel as a sample is LayerNorm of the image
    "E01-H17",  # ... or of a pixel
    "E01-H18",  # BatchNorm: one mean over the entire batch
    "E01-H19",  # LayerNorm of a transformer: a mean over the example
    "E02-H6",  # the two norms have the same invariances
    "E02-H8",  # LayerNorm and the scale of one unit
    "E02-H11",  # BatchNorm and the scale of one case
    "E02-H13",  # BatchNorm and replaced batch-mates
    "E03-H5",  # BatchNorm: the same in both modes
    "E03-H12",  # BatchNorm: whatever the batch-mates
    "E26-H2",  # the identity on every batch
    "E26-H6",  # gamma before a sigmoid
    "E27-H11",  # LayerNorm: the scale of one unit's weights
    "E27-H12",  # LayerNorm: the gradient of one unit
}


def rules(experiment: str) -> list[Hypothesis]:
    text = (resources.files("normkit.claims") / "rules" / f"{experiment}.json").read_text()
    return [Hypothesis(**rule) for rule in json.loads(text)]


def holding(measurements) -> set[str]:
    """The ids of the exact hypotheses whose largest error stays below the margin."""
    held = set()
    for hypothesis in (h for experiment in EXACT for h in rules(experiment)):
        errors = [
            m.metrics[hypothesis.metric]
            for m in measurements
            if m.experiment == hypothesis.experiment and hypothesis.these.items() <= dict(m.conditions).items()
        ]
        assert hypothesis.kind == "exact"
        assert len(errors) == 5, hypothesis.id
        if max(errors) < hypothesis.margin:
            held.add(hypothesis.id)
    return held


@pytest.fixture(scope="module")
def ours():
    return exact_measurements()


def test_right_sentences_hold_and_wrong_ones_fail(ours):
    everything = {h.id for experiment in EXACT for h in rules(experiment)}
    assert holding(ours) == everything - WRONG


def test_no_exact_verdict_is_close(ours):
    """An error is rounding or it is large: a margin of 1e-6 decides nothing by a hair."""
    margins = {(h.experiment, h.metric): h.margin for experiment in EXACT for h in rules(experiment)}
    for m in ours:
        for name, value in m.metrics.items():
            if margins.get((m.experiment, name)) == 1e-6:
                assert value < 1e-9 or value > 1e-3, (m.experiment, name)


def test_measurements_are_finite_and_repeat_themselves(ours):
    again = exact_measurements()
    assert ours == again
    assert all(math.isfinite(value) for m in ours for value in m.metrics.values())


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_a_planted_bug_changes_a_verdict(bug, ours):
    measurements = exact_measurements(PLANTED_BUGS[bug])
    assert all(math.isfinite(value) for m in measurements for value in m.metrics.values())
    assert holding(measurements) != holding(ours)
    assert holding(ours) - holding(measurements), "a bug should break something that holds"


def test_torchs_own_layers_find_the_same(ours):
    torchs = Layers(nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
    # torch's LayerNorm may round a case differently alone and in a batch, which E03-H2 would see.
    assert holding(exact_measurements(torchs)) | {"E03-H2"} == holding(ours)


def test_invariance_table_is_the_cards():
    as_letters = {norm: "".join("Y" if cell else "n" for cell in row) for norm, row in e02_invariance.TABLE.items()}
    assert as_letters == {
        "batch": "YnYYYnn",
        "layer": "YYnYnYY",
        "rms": "YnnYnYY",
        "group": "YYnYnYY",
        "none": "nnnnnnY",
    }


def test_differences_see_what_is_not_a_number():
    a = torch.tensor([1.0, math.nan])
    assert difference(a, torch.tensor([1.0, 2.0])) > 1e200
    assert unequal(a, a) > 1e200
