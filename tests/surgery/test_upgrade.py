"""normkit.upgrade: the same modules afterwards, all or nothing, and a reason for each norm that stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import normkit
from normkit.surgery import upgrade as exported
from normkit.surgery.classes import _OURS
from normkit.surgery.upgrade import upgrade


class OwnForward(nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class NoForward(nn.LayerNorm):
    pass


def every_norm() -> nn.Module:
    """A model that runs through each of torch's norms, one of them twice."""
    shared = nn.LayerNorm(5)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Sequential(shared, nn.ReLU(), shared),
        nn.Flatten(2),
        nn.BatchNorm1d(4, momentum=None),
        nn.InstanceNorm1d(4),
        nn.RMSNorm(25, eps=1e-6),
        nn.Unflatten(2, (1, 5, 5)),
        nn.BatchNorm3d(4),
        nn.InstanceNorm3d(4),
    )


def run(model: nn.Module, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, 5, 5, generator=generator)
    y = model(x)
    model.zero_grad()
    y.backward(torch.randn(y.shape, generator=generator))
    return y.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_every_norm_of_torch_becomes_ours_and_computes_the_same() -> None:
    torch.manual_seed(0)
    model = every_norm()
    twin = copy.deepcopy(model)
    report = normkit.upgrade(model)
    assert [s.name for s in report.swapped] == ["1", "2", "3", "4.0", "6", "7", "8", "10", "11"]
    assert report.left == ()
    assert {type(m) for m in model.modules()} >= set(_OURS.values())
    for training in (True, False):
        model.train(training)
        twin.train(training)
        y, grads = run(model, seed=1)
        y_torch, grads_torch = run(twin, seed=1)
        # Both round in float32: 1e-5 is 80 units in the last place of values of order 1, through 11 layers.
        torch.testing.assert_close(y, y_torch, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grads, grads_torch, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


def test_modules_parameters_buffers_hooks_mode_and_sharing_stay() -> None:
    model = every_norm()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    calls: list[str] = []
    model[1].register_forward_hook(lambda *_: calls.append("hook"))
    model[1].mark = "kept"
    modules = {name: id(m) for name, m in model.named_modules(remove_duplicate=False)}
    tensors = {k: id(v) for k, v in [*model.named_parameters(), *model.named_buffers()]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    normkit.upgrade(model)
    assert {name: id(m) for name, m in model.named_modules(remove_duplicate=False)} == modules
    assert {k: id(v) for k, v in [*model.named_parameters(), *model.named_buffers()]} == tensors
    assert model[4][0] is model[4][2]
    assert not model[1].training
    assert model[2].training
    assert not model[2].weight.requires_grad
    assert model[1].mark == "kept"
    before = model[1].weight.detach().clone()
    run(model, seed=0)
    optimizer.step()
    assert calls == ["hook"]
    assert not torch.equal(model[1].weight, before)


def test_a_norm_alone_is_swapped_and_a_second_call_swaps_nothing() -> None:
    layer = nn.LayerNorm(4)
    assert [s.name for s in normkit.upgrade(layer).swapped] == [""]
    assert type(layer) is normkit.nn.LayerNorm
    again = normkit.upgrade(layer)
    assert (again.swapped, again.left) == ((), ())
    assert str(again) == "normkit.upgrade: 0 norms swapped, 0 left alone"


def test_what_cannot_be_swapped_is_left_with_its_reason() -> None:
    replaced = nn.LayerNorm(4)
    replaced.forward = lambda input: input  # type: ignore[method-assign]
    parametrized = nn.utils.parametrize.register_parametrization(nn.LayerNorm(4), "weight", nn.Identity())
    model = nn.ModuleDict(
        {
            "own": OwnForward(4),
            "none": NoForward(4),
            "lazy": nn.LazyBatchNorm2d(),
            "sync": nn.SyncBatchNorm(4),
            "replaced": replaced,
            "parametrized": parametrized,
            "negative": nn.LayerNorm(4, eps=-1.0),
            "plain": nn.LayerNorm(4),
        }
    )
    types = {name: type(m) for name, m in model.items()}
    report = normkit.upgrade(model)
    assert {x.name: x.reason for x in report.left} == {
        "own": "it is a subclass with its own forward",
        "none": "it is a subclass whose class would be lost",
        "lazy": "it is lazy: run one batch through the model, then upgrade",
        "sync": "it computes its statistics over several processes",
        "replaced": "its forward was replaced on the module",
        "parametrized": "it is parametrized: its parameters are computed on access",
        "negative": "its eps is -1.0, with which normkit does not normalize",
    }
    assert [s.name for s in report.swapped] == ["plain"]
    assert {name: type(m) for name, m in model.items() if name != "plain"} == {
        name: t for name, t in types.items() if name != "plain"
    }
    assert "  left     sync: torch.nn.SyncBatchNorm: it computes" in str(report)
    assert "  swapped  plain: torch.nn.LayerNorm -> normkit.nn.LayerNorm" in str(report)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_norm_inside_a_scripted_module_is_left_with_its_reason() -> None:
    traced = torch.jit.trace(nn.Sequential(nn.LayerNorm(4), nn.ReLU()), torch.ones(2, 4))
    report = upgrade(nn.Sequential(traced, nn.LayerNorm(4)))
    assert [s.name for s in report.swapped] == ["1"]
    (left,) = report.left
    assert (left.name, left.reason) == ("0.0", "it is scripted or traced: upgrade the model it was made from")


def test_norms_that_a_fused_encoder_layer_bypasses_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder_layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    report = upgrade(nn.Sequential(encoder_layer, nn.LayerNorm(4)))
    note = (
        "inference bypasses it on the fused path of nn.TransformerEncoderLayer, "
        "unless torch.backends.mha.set_fastpath_enabled(False)"
    )
    assert {s.name: s.note for s in report.swapped} == {"0.norm1": note, "0.norm2": note, "1": ""}

    calls = []
    monkeypatch.setattr(normkit.nn.LayerNorm, "forward", lambda _, x: (calls.append(x), x)[1])
    with torch.no_grad():
        encoder_layer(torch.ones(1, 3, 4))
        assert calls == []
        monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
        encoder_layer(torch.ones(1, 3, 4))
    assert len(calls) == 2


def test_an_error_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = every_norm()
    before = [type(m) for m in model.modules()]
    # GroupNorm comes after BatchNorm2d in the model: the first swap has happened when the second fails.
    # No module can be turned into an int.
    monkeypatch.setitem(_OURS, nn.GroupNorm, int)
    with pytest.raises(TypeError):
        upgrade(model)
    assert [type(m) for m in model.modules()] == before


def test_16_bit_running_statistics_are_the_same_objects_and_said_to_round() -> None:
    model = nn.BatchNorm2d(4).bfloat16()
    running = model.running_mean
    (swapped,) = normkit.upgrade(model).swapped
    assert model.running_mean is running
    assert swapped.note == "its running statistics stay bfloat16, which updates round to"


def test_a_model_pickles_and_loads_both_ways_afterwards() -> None:
    model, twin = every_norm(), every_norm()
    normkit.upgrade(model)
    assert list(model.state_dict()) == list(twin.state_dict())
    model.load_state_dict(twin.state_dict(), strict=True)
    twin.load_state_dict(model.state_dict(), strict=True)
    assert [type(m) for m in copy.deepcopy(model).modules()] == [type(m) for m in model.modules()]


def test_what_is_no_module_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"upgrade: expected a torch\.nn\.Module, got dict; give the model itself\."):
        normkit.upgrade({"a": nn.LayerNorm(4)})  # type: ignore[arg-type]


def test_upgrade_is_exported() -> None:
    assert normkit.upgrade is exported is upgrade
