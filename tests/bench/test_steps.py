"""Whole steps: the architectures run, upgrade meets their norms, and a wrong swap is not timed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normkit.bench.models import (
    ARCHITECTURES,
    CLASSES,
    VOCABULARY,
    Architecture,
    LanguageModel,
    LayerNorm2d,
    LayerNormLSTM,
)
from normkit.bench.overhead import calls, measure_overheads
from normkit.bench.results import Record
from normkit.bench.steps import Passing, Step, measure_model, measure_models, without
from normkit.bench.timing import Plan
from normkit.surgery import UpgradeReport, upgrade

SHORT = Plan(slice_s=0.01, min_rounds=2, warm_up_rounds=0)
TINY = Architecture("tiny", lambda: LanguageModel([LayerNormLSTM(8)], 8, nn.LayerNorm(8)), "sequences")


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_every_architecture_trains(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = architecture.build()
    if architecture.data == "images":
        scores, shape = model(torch.randn(2, 3, 32, 32)), (2, CLASSES)
    else:
        scores, shape = model(torch.randint(VOCABULARY, (2, 6))), (12, VOCABULARY)
    assert scores.shape == shape
    scores.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert without == []


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_upgrade_reaches_every_norm(architecture: Architecture) -> None:
    report = upgrade(architecture.build())
    assert report.left == ()
    assert len(report.swapped) > 0


def test_a_model_is_timed_before_and_after() -> None:
    result = measure_model(TINY, SHORT)
    assert (result.status, result.n_swapped, result.n_left) == ("timed", 4, 0)
    assert set(result.times) == {"before", "after", "without"}
    assert result.ratio is not None
    assert result.ratio > 0
    assert result.ceiling is not None
    assert result.ceiling > 0


def test_without_norms_nothing_is_in_their_place_and_nothing_is_learned() -> None:
    model = TINY.build()
    weights = copy.deepcopy(model.state_dict())
    x = torch.zeros(2, 3, dtype=torch.long)
    bare = without(model, [swapped.name for swapped in upgrade(copy.deepcopy(model)).swapped], x)
    assert not any(isinstance(module, nn.LayerNorm) for module in bare.modules())
    left = [module for module in bare.modules() if isinstance(module, Passing)]
    assert len(left) == 4
    assert all(one.axes[-1] == len(one.axes) - 1 and one.axes[0] == 0 for one in left)
    Step(bare, x, x.flatten(), learning_rate=0.0)()
    assert all(torch.equal(value, weights[name]) for name, value in bare.state_dict().items())


def test_a_layout_that_a_norm_makes_is_made_without_it() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    bare = without(nn.Sequential(LayerNorm2d(3)), ["0"], x)
    y = bare(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, x)
    smaller = x[:, :, :2].double().contiguous(memory_format=torch.channels_last)
    assert bare(smaller).data_ptr() == smaller.data_ptr()  # is laid out so
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx, torch.ones_like(x))


def test_a_swap_that_changes_the_step_is_red() -> None:
    def wrong(model: nn.Module) -> UpgradeReport:
        report = upgrade(model)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 0.5
        return report

    result = measure_model(TINY, SHORT, swap=wrong)
    assert result.status == "red"
    assert "before the upgrade" in result.message
    assert result.times == {}
    assert result.ratio is None


def test_a_swap_that_loses_a_gradient_is_red() -> None:
    def freezes(model: nn.Module) -> UpgradeReport:
        report = upgrade(model)
        model.get_parameter("norm.weight").register_hook(torch.zeros_like)
        return report

    result = measure_model(TINY, SHORT, swap=freezes)
    assert (result.status, result.message) == ("red", "the step of norm.weight is not what it was before the upgrade")


def test_models_come_in_order_and_are_announced() -> None:
    started: list[str] = []
    results = measure_models(SHORT, started.append, [TINY])
    assert started == [result.model for result in results] == ["tiny"]


def test_both_sides_of_every_overhead_give_the_same() -> None:
    for op, sides in calls().items():
        theirs, ours = sides["torch"](), sides["normkit"]()
        ours = ours[0] if isinstance(ours, tuple) else ours
        torch.testing.assert_close(ours, theirs, msg=op)


def test_overheads_are_per_call() -> None:
    for result in measure_overheads(SHORT):
        assert set(result.times) == {"torch", "normkit"}
        assert 0 < result.times["torch"].median_ns < 1e8
        assert result.ratio is not None
        assert result.ratio > 0


def test_a_wrong_call_is_red_and_not_timed() -> None:
    x = torch.ones(2)
    (result,) = measure_overheads(SHORT, {"f": {"torch": lambda: x, "normkit": lambda: x + 1}})
    assert (result.op, result.status, result.times, result.ratio) == ("f", "red", {}, None)
    assert Record({}, overheads=(result,)).is_red
