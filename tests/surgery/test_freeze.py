"""normkit.surgery.freeze: what is frozen stays so, whatever is done to the model, and comes back on request."""

from __future__ import annotations

import copy
import io
import os
import pickle

import pytest
import torch
from torch import Tensor

import normkit
from normkit import nn
from normkit.errors import ArgumentError, DtypeError
from normkit.surgery import Frozen, freeze, frozen, unfreeze


def example() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.LayerNorm2d(4),
        torch.nn.Flatten(2),
        nn.BatchNorm1d(4, affine=False),
    )


def image() -> Tensor:
    return torch.randn(3, 3, 4, 4) + 1


def statistics(model: torch.nn.Module) -> list[Tensor]:
    return [b.clone() for b in model.buffers()]


def moved(model: torch.nn.Module, x: Tensor) -> bool:
    before = statistics(model)
    model.train()(x)
    return not all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_training_is_evaluation_and_nothing_moves() -> None:
    model, x = example(), image()
    model(x)
    freeze(model)
    expected = copy.deepcopy(model).eval()(x)
    assert not moved(model, x)
    assert torch.equal(model.train()(x), expected)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save", "compile", "functional_call"])
def test_what_it_survives(way: str) -> None:
    model, x = example(), image()
    freeze(model, what="both")
    if way == "deepcopy":
        model = copy.deepcopy(model)
    elif way == "pickle":
        model = pickle.loads(pickle.dumps(model))
    elif way == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        model = torch.load(file, weights_only=False)
    elif way == "compile":
        torch.compiler.reset()
        before = statistics(model)
        torch.compile(model.train(), fullgraph=True, backend="aot_eager")(x)
        assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    else:
        torch.func.grad(lambda x: torch.func.functional_call(model, dict(model.named_buffers()), x).pow(3).sum())(x)
    assert not moved(model, x)
    assert [norm.name for norm in frozen(model)] == ["0.1", "1", "2", "4"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["0.0.weight", "0.0.bias"]


def test_a_compiled_model_sees_a_freeze_that_comes_later() -> None:
    torch.compiler.reset()
    model, x = example(), image()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x)
    freeze(model)
    before = statistics(model)
    compiled(x)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    unfreeze(model)
    compiled(x)
    assert model[4].num_batches_tracked == 2


def test_under_distributed_data_parallel() -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, x = example(), image()
        freeze(model, nn.BatchNorm2d, "both")
        freeze(model)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        before = statistics(model)
        parallel.train()(x).pow(3).sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
        assert model[0][1].weight.grad is None
        assert model[0][0].weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()


def test_an_optimizer_leaves_frozen_parameters_alone() -> None:
    """Even one with momentum and weight decay, which has a gradient from before."""
    model, x = example(), image()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(x).pow(3).sum().backward()
    optimizer.step()
    freeze(model, what="affine")
    norm, conv = model[0][1], model[0][0]
    weight, kernel = norm.weight.clone(), conv.weight.clone()
    for _ in range(2):
        optimizer.step()
    assert torch.equal(norm.weight, weight)
    assert not torch.equal(conv.weight, kernel)
    assert moved(model, x)  # the statistics were not frozen


def test_a_frozen_norm_passes_the_gradient_of_evaluation() -> None:
    model = nn.BatchNorm1d(4)
    freeze(model)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    model.double()
    torch.testing.assert_close(torch.autograd.grad(model(x).sum(), x)[0], torch.full_like(x, (1 + 1e-5) ** -0.5))


def test_unfreeze_gives_back_what_freeze_took_and_no_more() -> None:
    model, x = example(), image()
    model[1].weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    keys = [set(vars(m)) for m in model.modules()]
    assert freeze(model, what="both").norms == frozen(model)
    assert freeze(model, what="both").norms == ()
    report = unfreeze(model)
    assert [str(norm) for norm in report.norms] == [
        "0.1: normkit.nn.BatchNorm2d: statistics, weight, bias",
        "1: normkit.nn.InstanceNorm2d: statistics, bias",
        "2: normkit.nn.LayerNorm2d: weight, bias",
        "4: normkit.nn.BatchNorm1d: statistics",
    ]
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert [set(vars(m)) for m in model.modules()] == keys
    assert frozen(model) == ()
    assert moved(model, x)


def test_match_by_class_path_and_function() -> None:
    def by(match: object) -> list[str]:
        model = example()
        return [norm.name for norm in freeze(model, match, "both").norms]  # type: ignore[arg-type]

    assert by(nn.BatchNorm2d) == ["0.1"]
    assert by((nn.BatchNorm1d, torch.nn.InstanceNorm2d)) == ["1", "4"]
    assert by("0.*") == ["0.1"]
    assert by(lambda name, module: module.weight is None) == ["4"]


def test_one_part_at_a_time() -> None:
    model = nn.BatchNorm1d(4)
    freeze(model, what="both")
    assert unfreeze(model, what="statistics").norms == (Frozen("", "normkit.nn.BatchNorm1d", True, ()),)
    assert frozen(model) == (Frozen("", "normkit.nn.BatchNorm1d", False, ("weight", "bias")),)
    assert str(unfreeze(model)) == (
        "normkit.surgery.unfreeze: 1 norms\n  (the model): normkit.nn.BatchNorm1d: weight, bias"
    )


def test_frozen_without_tracking_normalizes_with_the_statistics_it_has() -> None:
    """needs.md a2 row 20: a layer told not to track, whose buffers were kept."""
    model = nn.BatchNorm1d(4)
    x = torch.randn(6, 4) + 3
    model(x)
    expected = copy.deepcopy(model).eval()(x)
    model.track_running_stats = False
    freeze(model)
    assert torch.equal(model.train()(x), expected)


def test_errors_name_the_cause_and_change_nothing() -> None:
    model = torch.nn.ModuleDict({"ours": nn.BatchNorm1d(4), "theirs": torch.nn.BatchNorm1d(4)})
    with pytest.raises(ArgumentError, match=r"freeze: .*got torch\.nn\.BatchNorm1d at 'theirs'; call normkit\.upgrade"):
        freeze(model, what="both")
    assert frozen(model) == ()
    with pytest.raises(ArgumentError, match=r"got 'our'; the norms are 'ours', 'theirs'\."):
        freeze(model, "our")
    with pytest.raises(ArgumentError, match=r'expected what to be "statistics", "affine" or "both", got \'all\''):
        freeze(model, what="all")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"freeze: expected match to be a class, .* got 3; None means every norm"):
        freeze(model, 3)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"freeze: expected a torch\.nn\.Module, got int; give the model itself"):
        freeze(3)  # type: ignore[arg-type]
    assert freeze(model, what="affine").norms == frozen(model) != ()
    normkit.upgrade(model)
    assert [norm.name for norm in freeze(model).norms] == ["ours", "theirs"]
