"""normkit.surgery.synchronize and back: the same modules, and a reason for each that stays."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import normkit
from normkit import nn
from normkit.surgery import desynchronize, freeze, frozen, synchronize


class OwnForward(torch.nn.BatchNorm1d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class NoForward(nn.BatchNorm1d):
    pass


def network(layers: object = nn) -> torch.nn.Sequential:
    shared = layers.BatchNorm1d(3)  # type: ignore[attr-defined]
    return torch.nn.Sequential(
        layers.BatchNorm3d(2, eps=1e-3, momentum=None),  # type: ignore[attr-defined]
        torch.nn.Flatten(3),
        layers.BatchNorm2d(2, affine=False),  # type: ignore[attr-defined]
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
        torch.nn.Sequential(shared, torch.nn.ReLU(), shared),
    )


@pytest.mark.parametrize("layers", [nn, torch.nn], ids=["normkit", "torch"])
def test_there_and_back(layers: object) -> None:
    model, x = network(layers), torch.randn(5, 2, 2, 2, 2)
    twin = network(nn)
    twin.load_state_dict(model.state_dict())
    model[0].eval()
    twin[0].eval()
    calls: list[int] = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    ids = [id(m) for m in model.modules()] + [id(t) for t in model.state_dict(keep_vars=True).values()]
    attributes = [set(vars(m)) for m in model.modules()]
    report = synchronize(model, timeout=7)
    assert [(s.name, s.after) for s in report.swapped] == [
        (name, "normkit.nn.SyncBatchNorm") for name in ("0", "2", "5.0")
    ]
    assert report.left == ()
    assert (model[2].timeout, model[2].process_group, model[5][0].name) == (7, None, "5.0")
    assert synchronize(model).swapped == ()
    torch.testing.assert_close(model(x), twin(x))
    back = desynchronize(model)
    assert [s.after for s in back.swapped] == [f"normkit.nn.BatchNorm{n}d" for n in (3, 2, 1)]
    assert [id(m) for m in model.modules()] + [id(t) for t in model.state_dict(keep_vars=True).values()] == ids
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert not model[0].training
    torch.testing.assert_close(model(x), twin(x))
    assert calls == [1, 1]
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_what_is_left_and_why() -> None:
    replaced = nn.BatchNorm1d(3)
    replaced.forward = lambda input: input  # type: ignore[method-assign]
    model = torch.nn.ModuleDict(
        {"own": OwnForward(3), "none": NoForward(3), "replaced": replaced, "torch": torch.nn.SyncBatchNorm(3)}
    )
    report = synchronize(model)
    assert {x.name: x.reason for x in report.left} == {
        "own": "it is a subclass with its own forward",
        "none": "it is a subclass whose class would be lost",
        "replaced": "its forward was replaced on the module",
    }
    assert str(report).splitlines()[:2] == [
        "normkit.surgery.synchronize: 1 norms changed, 3 left alone",
        "  changed  torch: torch.nn.SyncBatchNorm -> normkit.nn.SyncBatchNorm",
    ]
    back = desynchronize(torch.nn.ModuleDict({"was torch's": model["torch"], "built": nn.SyncBatchNorm(3)}))
    assert [(x.name, x.reason) for x in back.left] == [
        ("was torch's", "it does not say for which dimensions"),
        ("built", "it does not say for which dimensions"),
    ]


def test_what_is_frozen_stays_so_and_copies_go_back_too() -> None:
    model = network()
    freeze(model, "2")
    synchronize(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [norm.name for norm in frozen(other)] == ["2"]
        other(torch.randn(5, 2, 2, 2, 2))
        assert other[2].num_batches_tracked == 0
        desynchronize(other)
        assert type(other[2]) is nn.BatchNorm2d
        assert [norm.name for norm in frozen(other)] == ["2"]


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"synchronize: expected a torch\.nn\.Module, got str"):
        synchronize("model")  # type: ignore[arg-type]
    model = network()
    with pytest.raises(ValueError, match="synchronize: expected timeout in seconds, more than 0, got 0"):
        synchronize(model, timeout=0)
    assert type(model[0]) is normkit.nn.BatchNorm3d
