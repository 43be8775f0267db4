"""Forwards that leave running statistics alone: asked for, or because a checkpoint runs them a second time."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import normkit
from normkit import nn
from normkit.errors import ArgumentError, DtypeError


def bn(momentum: float | None = 0.1) -> torch.nn.Module:
    return nn.BatchNorm1d(4, momentum=momentum)


LAYERS = {
    "BatchNorm1d": (bn, (6, 4)),
    "BatchNorm1d, momentum=None": (lambda: bn(None), (6, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (3, 4, 2, 2)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (2, 4, 2, 2, 2)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, track_running_stats=True), (3, 4, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (3, 4, 2, 2)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4, track_running_stats=True), (2, 4, 2, 2, 2)),
}
every_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS.keys())
Build = Callable[[], torch.nn.Module]


def statistics(module: torch.nn.Module) -> list[Tensor]:
    return [b.clone() for b in module.buffers()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@every_layer
def test_the_output_is_that_of_training_and_the_statistics_stay(build: Build, shape: tuple[int, ...]) -> None:
    layer = build()
    layer(torch.randn(shape) + 1)
    before, twin, x = statistics(layer), copy.deepcopy(layer), torch.randn(shape) * 2 + 3
    with normkit.no_stat_update(layer):
        y = layer(x)
        assert same(statistics(layer), before)
    assert torch.equal(y, twin(x))
    assert torch.equal(layer(x), y)
    assert same(statistics(layer), statistics(twin))


def test_contexts_nest_and_exceptions_end_them() -> None:
    model = torch.nn.Sequential(bn(), bn())
    x = torch.randn(6, 4)
    before = statistics(model)

    def interrupted() -> None:
        with normkit.no_stat_update(model):
            with normkit.no_stat_update(model[0]):
                model(x)
            model(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(statistics(model), before)
    with normkit.no_stat_update(model[0]):
        model(x)
    assert same(statistics(model[0]), before[:3])
    assert model[1].num_batches_tracked == 1


def test_contexts_end_in_any_order() -> None:
    """As those of two coroutines do. The end of the first let go of the layer of the second, and held its own on."""
    layers, x = (bn(), bn()), torch.randn(6, 4)
    first, second = (normkit.no_stat_update(layer) for layer in layers)
    first.__enter__()
    second.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    for layer in layers:
        layer(x)
    assert [int(layer.num_batches_tracked) for layer in layers] == [1, 0]
    second.__exit__(None, None, None)
    layers[1](x)
    assert layers[1].num_batches_tracked == 1


def test_another_thread_goes_on_updating() -> None:
    """Two threads share a layer: the one inside the context leaves the statistics alone, the other counts."""
    layer, inside, done = bn(), threading.Event(), threading.Event()

    def hold() -> None:
        with normkit.no_stat_update(layer):
            inside.set()
            assert done.wait(20)
            layer(torch.randn(6, 4))

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    layer(torch.randn(6, 4))
    done.set()
    thread.join()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("layer", [bn(), bn(None), nn.InstanceNorm1d(4, track_running_stats=True)], ids=str)
def test_around_and_inside_a_compiled_graph(layer: torch.nn.Module) -> None:
    torch.compiler.reset()
    layer = copy.deepcopy(layer)
    x = torch.randn(6, 4) if isinstance(layer, nn.BatchNorm1d) else torch.randn(2, 4, 6)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")

    def probe_then_train(x: Tensor) -> tuple[Tensor, Tensor]:
        with normkit.no_stat_update(layer):
            y = layer(2 * x)
        return y, layer(x)

    for _ in range(2):
        before = statistics(layer)
        with normkit.no_stat_update(layer):
            compiled(x)
        assert same(statistics(layer), before)
        compiled(x)
        twin(x)
    torch.testing.assert_close(statistics(layer), statistics(twin))
    both = torch.compile(probe_then_train, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(both(x)[1], twin(x))
    torch.testing.assert_close(statistics(layer), statistics(twin))


def test_a_norm_of_torch_s_own_is_named() -> None:
    model = torch.nn.Sequential(bn(), torch.nn.BatchNorm1d(4))
    with pytest.raises(ArgumentError, match=r"got torch\.nn\.BatchNorm1d at '1'; call normkit\.upgrade\(model\) first"):
        normkit.no_stat_update(model)
    normkit.upgrade(model)
    with normkit.no_stat_update(model):
        model(torch.randn(6, 4))
    assert model[1].num_batches_tracked == 0


def test_what_is_no_module_is_an_error() -> None:
    with pytest.raises(DtypeError, match=r"no_stat_update: expected a torch\.nn\.Module, got list; give the model"):
        normkit.no_stat_update([bn()])  # type: ignore[arg-type]


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@every_layer
def test_a_checkpoint_counts_a_batch_once(build: Build, shape: tuple[int, ...], use_reentrant: bool) -> None:
    layer = build()
    twin = copy.deepcopy(layer)
    for offset in (0.0, 2.0):
        x = (torch.randn(shape) + offset).requires_grad_()
        expected = twin(x)
        y = checkpoint(layer, x, use_reentrant=use_reentrant)
        dy = torch.randn_like(y)
        (dx,) = torch.autograd.grad(expected, x, dy)
        y.backward(dy)
        assert torch.equal(y, expected)
        assert torch.equal(x.grad, dx)
    assert same(statistics(layer), statistics(twin))


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_a_checkpoint_of_what_no_kernel_takes(use_reentrant: bool) -> None:
    """The second run keeps no statistics, and must save as many tensors for the backward as the first all the same."""
    layers, x, weights = [bn(), bn()], torch.randn(6, 4), torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(lambda t: layers[0](t, weights=weights), ours, use_reentrant=use_reentrant).pow(3).sum().backward()
    layers[1](theirs, weights=weights).pow(3).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert same(statistics(layers[0]), statistics(layers[1]))


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_checkpoints_within_checkpoints_and_shared_layers(use_reentrant: bool) -> None:
    shared = bn()

    def inner(x: Tensor) -> Tensor:
        return shared(shared(x).relu())

    def outer(x: Tensor) -> Tensor:
        return checkpoint(inner, x, use_reentrant=use_reentrant) * 2

    x = torch.randn(6, 4, requires_grad=True)
    checkpoint(outer, x, use_reentrant=use_reentrant).pow(2).sum().backward()
    assert shared.num_batches_tracked == 2


def test_a_recomputation_by_a_function_of_one_s_own() -> None:
    """As reversible networks do it: the forward again, inside a custom backward."""

    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, layer):  # type: ignore[no-untyped-def]
            ctx.layer = layer
            ctx.save_for_backward(x)
            return layer(x)

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                return torch.autograd.grad(ctx.layer(x), x, dy)[0], None

    layer = bn()
    Recompute.apply(torch.randn(6, 4, requires_grad=True), layer).pow(3).sum().backward()
    assert layer.num_batches_tracked == 1


def test_a_checkpoint_inside_a_compiled_graph() -> None:
    torch.compiler.reset()
    layer = bn()
    twin = copy.deepcopy(layer)
    step = torch.compile(lambda x: checkpoint(layer, x, use_reentrant=False), backend="aot_eager")
    x = torch.randn(6, 4, requires_grad=True)
    step(x).pow(3).sum().backward()
    twin(x)
    torch.testing.assert_close(statistics(layer), statistics(twin))


@pytest.mark.parametrize("lengths", [None, (7, 5, 2, 1)], ids=["full", "ragged"])
def test_a_recurrent_layer(lengths: tuple[int, ...] | None) -> None:
    layer = nn.BatchNormLSTM(4, 3, max_steps=5)
    x = torch.randn(7, 4, 4, requires_grad=True)
    layer(x, lengths=lengths)
    twin, before = copy.deepcopy(layer), statistics(layer)
    with normkit.no_stat_update(layer):
        y, _ = layer(x, lengths=lengths)
    assert same(statistics(layer), before)
    expected, _ = twin(x, lengths=lengths)
    assert torch.equal(y, expected)
    checkpoint(lambda x: layer(x, lengths=lengths)[0], x, use_reentrant=False).pow(3).sum().backward()
    assert same(statistics(layer), statistics(twin))
    normkit.surgery.freeze(layer)
    assert torch.equal(layer(x, lengths=lengths)[0], twin.eval()(x, lengths=lengths)[0])
    assert same(statistics(layer), statistics(twin))
