"""normkit.surgery.recalibrate: the statistics of all the data, all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from normkit import nn
from normkit.errors import ArgumentError, DtypeError, StatisticsError
from normkit.surgery import freeze, recalibrate

Batches = list[Tensor]


def network(layers: object = nn) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        layers.BatchNorm2d(3),  # type: ignore[attr-defined]
        torch.nn.Conv2d(3, 4, 1),
        torch.nn.Dropout(0.5),
        layers.BatchNorm2d(4, momentum=None),  # type: ignore[attr-defined]
        torch.nn.Flatten(1),
        torch.nn.Linear(16, 5),
        layers.BatchNorm1d(5),  # type: ignore[attr-defined]
    )


def data(sizes: tuple[int, ...] = (7, 7, 3)) -> Batches:
    return [torch.randn(n, 3, 2, 2) * (i + 1) + 5 * i for i, n in enumerate(sizes)]


def state(model: torch.nn.Module) -> tuple[list[int], list[Tensor], list[bool], list[int]]:
    """The identity and bits of every buffer, the modes, and the number of hooks."""
    buffers = list(model.buffers())
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    return [id(b) for b in buffers], [b.clone() for b in buffers], [m.training for m in model.modules()], hooks


def assert_same(before: tuple[list[int], list[Tensor], list[bool], list[int]], model: torch.nn.Module) -> None:
    now = state(model)
    assert (now[0], now[2], now[3]) == (before[0], before[2], before[3])
    assert all(torch.equal(a, b) for a, b in zip(before[1], now[1], strict=True))


@pytest.mark.parametrize("layers", [nn, torch.nn], ids=["normkit", "torch"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_every_layer_has_the_statistics_of_all_that_reached_it(layers: object, training: bool) -> None:
    model, batches = network(layers).train(training), data()
    seen: dict[str, Batches] = {"0": [], "3": [], "6": []}
    twin = copy.deepcopy(model).eval()
    for name, reached in seen.items():
        layer = twin.get_submodule(name).train()
        layer.register_forward_pre_hook(lambda _, args, reached=reached: reached.append(args[0].detach()))
    before = state(model)
    for x in batches:
        twin(x)
    report = recalibrate(model, batches)
    for (name, reached), row in zip(seen.items(), report.layers, strict=True):
        values = torch.cat(reached).double().transpose(0, 1).flatten(1).numpy()
        layer = model.get_submodule(name)
        # Batch moments in float32 and the rounding of the buffer: a few units in the last place.
        np.testing.assert_allclose(layer.running_mean.double().numpy(), values.mean(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(layer.running_var.double().numpy(), values.var(1, ddof=1), rtol=1e-6)
        assert layer.num_batches_tracked == 3
        assert (row.name, row.values) == (name, values.shape[1])
        assert torch.equal(row.after.mean, layer.running_mean)
        assert torch.equal(row.before.var, torch.ones_like(layer.running_var))
    now = state(model)
    assert (now[0], now[2], now[3]) == (before[0], before[2], before[3])


def test_the_split_into_batches_does_not_matter() -> None:
    x, results = torch.randn(24, 3) * 3 + 100, []
    for sizes in ((24,), (20, 4), (1, 22, 1), (8, 8, 8)):
        model = nn.BatchNorm1d(3)
        if sizes[0] > 1:
            recalibrate(model, torch.split(x, sizes))
            results.append(model)
        else:  # the first batch has nothing to be normalized with
            with pytest.raises(ValueError, match="more than 1 value"):
                recalibrate(model, torch.split(x, sizes))
    for other in results[1:]:
        torch.testing.assert_close(other.running_mean, results[0].running_mean, rtol=1e-7, atol=1e-5)
        torch.testing.assert_close(other.running_var, results[0].running_var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)], ids=["normkit", "torch"])
def test_a_last_batch_of_one_sample_counts(layer: torch.nn.Module) -> None:
    model = torch.nn.Sequential(copy.deepcopy(layer), torch.nn.Linear(3, 3), copy.deepcopy(layer))
    x = torch.randn(9, 3) + 2
    recalibrate(model, [x[:8], x[8:]])
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    torch.testing.assert_close(model[0].running_var, x.var(0))
    y = torch.nn.functional.batch_norm(x[:8], None, None, training=True)
    last = torch.nn.functional.batch_norm(x[8:], x.mean(0), x.var(0))
    reached = model[1](torch.cat([y, last])).detach()
    torch.testing.assert_close(model[2].running_mean, reached.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[2].running_var, reached.var(0), rtol=1e-5, atol=1e-6)


def test_a_shared_layer_pools_all_its_calls() -> None:
    shared = nn.BatchNorm1d(3, affine=False)
    x = torch.randn(8, 3) + 2
    recalibrate(torch.nn.Sequential(shared, shared), [x])
    both = torch.cat([x, torch.nn.functional.batch_norm(x, None, None, training=True)])
    torch.testing.assert_close(shared.running_mean, both.mean(0))
    torch.testing.assert_close(shared.running_var, both.var(0))


def test_frozen_layers_and_layers_in_evaluation_are_left_alone() -> None:
    model = network()
    freeze(model, "0")
    model[3].eval()
    before = state(model)
    report = recalibrate(model, data())
    assert [(x.name, x.reason) for x in report.left] == [
        ("0", "it is frozen"),
        ("3", "it is in evaluation, in a model in training"),
    ]
    assert [layer.name for layer in report.layers] == ["6"]
    assert all(torch.equal(a, b) for a, b in zip(before[1][:6], list(model.buffers())[:6], strict=True))
    assert not model[3].training


def test_statistics_of_samples_and_of_time_steps_are_left_and_said_to_be() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.batch, self.instance = nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)
            self.lstm = nn.BatchNormLSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.lstm(self.instance(self.batch(x)).transpose(1, 2))[0]
            return y

    model = Model()
    before = {name: t.clone() for name, t in model.named_buffers() if not name.startswith("batch.")}
    report = recalibrate(model, [torch.randn(5, 3, 7) for _ in range(3)])
    assert [r.name for r in report.layers] == ["batch"]
    reasons = {x.name: x.reason for x in report.left}
    assert reasons.pop("instance") == "statistics of single samples are not recalibrated"
    assert set(reasons.values()) == {"statistics of time steps are not recalibrated"}
    assert all(name.startswith("lstm.") for name in reasons)
    assert all(torch.equal(t, model.get_buffer(name)) for name, t in before.items())


def test_match_and_layers_that_no_batch_reaches() -> None:
    model = torch.nn.ModuleDict({"used": nn.BatchNorm1d(3), "spare": nn.BatchNorm1d(3), "other": nn.BatchNorm1d(3)})
    report = recalibrate(
        model, [torch.randn(4, 3)], match=lambda name, _: name != "other", forward=lambda m, x: m["used"](input=x)
    )
    assert [layer.name for layer in report.layers] == ["used"]
    assert [(x.name, x.reason) for x in report.left] == [("spare", "no batch reached it")]
    assert model["spare"].num_batches_tracked == 0


def test_batches_of_any_type_and_progress() -> None:
    x, seen = torch.randn(8, 3), []
    expected = nn.BatchNorm1d(3)
    recalibrate(expected, [x])
    kinds: list[tuple[object, Callable[[torch.nn.Module, object], object] | None]] = [
        (iter([(x, torch.zeros(8))]), None),
        ([[x]], None),
        ([{"image": x}], lambda model, batch: model(batch["image"])),
        ((x for _ in range(1)), None),
    ]
    for loader, forward in kinds:
        model = nn.BatchNorm1d(3)
        recalibrate(model, loader, forward=forward, progress=lambda done, total: seen.append((done, total)))
        assert torch.equal(model.running_var, expected.running_var)
    assert seen == [(1, None), (1, 1), (1, 1), (1, None)]


class Stream(torch.utils.data.IterableDataset[Tensor]):
    """Data that come one after another, nobody knows how many."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(30.0).view(10, 3))


def test_a_stream_that_does_not_know_its_length() -> None:
    """Its DataLoader has a __len__ that raises."""
    model, seen = nn.BatchNorm1d(3), []
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    recalibrate(model, loader, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, None), (2, None), (3, None)]
    torch.testing.assert_close(model.running_mean, torch.arange(30.0).view(10, 3).mean(0))


def test_a_compiled_model() -> None:
    """Hooks that are put on a model after it was compiled are not in its graph."""
    torch.compiler.reset()
    model = nn.BatchNorm1d(3)
    compiled = torch.compile(torch.nn.Sequential(model), backend="eager")
    compiled(torch.randn(4, 3))
    x = torch.randn(8, 3)
    recalibrate(compiled, [x])
    torch.testing.assert_close(model.running_mean, x.mean(0))


class Stop(torch.nn.Module):
    """Raises at its nth call."""

    def __init__(self, n: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = n, error
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), SystemExit()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("layers", [nn, torch.nn], ids=["normkit", "torch"])
def test_an_exception_leaves_the_model_as_it_was_to_the_bit(layers: object, error: BaseException) -> None:
    model = torch.nn.Sequential(network(layers), Stop(2, error), torch.nn.BatchNorm1d(5))
    model[0][0].running_mean.fill_(float("nan"))
    model[0][0].running_mean[1] = 2.0
    model[0].eval()
    before = [b.clone().nan_to_num(77) for b in model.buffers()]
    ids, _, modes, hooks = state(model)
    with pytest.raises(type(error)):
        recalibrate(model, data(), match=lambda name, _: True)
    now = state(model)
    assert (now[0], now[2], now[3]) == (ids, modes, hooks)
    assert all(torch.equal(a, b.nan_to_num(77)) for a, b in zip(before, model.buffers(), strict=True))


def test_a_loader_that_raises_and_one_that_is_empty() -> None:
    model = network()
    before = state(model)

    def broken() -> Iterator[Tensor]:
        yield from data()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recalibrate(model, broken())
    assert_same(before, model)
    with pytest.raises(ArgumentError, match="expected a loader of at least one batch, got none"):
        recalibrate(model, [])
    assert_same(before, model)


def test_bad_data_is_named_and_nothing_changes() -> None:
    model = network()
    before = state(model)
    bad = data()
    bad[1][0, 2] = float("nan")
    with pytest.raises(StatisticsError, match=r"finite input at '0', got NaN or infinity in 1 of 3 channels"):
        recalibrate(model, bad)
    assert_same(before, model)
    with pytest.raises(DtypeError, match=r"tensors or begin with one, got dict; .* forward=lambda model, batch"):
        recalibrate(model, [{"x": data()[0]}])
    assert_same(before, model)
    with pytest.raises(ArgumentError, match="expected a model with BatchNorm layers that track statistics, got none"):
        recalibrate(torch.nn.Sequential(nn.LayerNorm(3)), data())


def test_the_report_as_text() -> None:
    model = torch.nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    freeze(model, "1")
    report = recalibrate(model, [torch.zeros(98, 1), torch.full((2, 1), 10.0)])
    assert str(report) == (
        "normkit.surgery.recalibrate: 1 norms recalibrated, 1 left alone\n"
        "  0: 100 values a channel; mean moved by up to 0.142 σ, variance × 1.98 to 1.98\n"
        "  left 1: normkit.nn.BatchNorm1d: it is frozen"
    )
