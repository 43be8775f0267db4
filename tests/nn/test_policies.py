"""What BatchNorm does with too few values, with NaN, with the variance it remembers, and in virtual batches."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import normkit
from normkit import nn
from normkit.errors import ArgumentError, DtypeError, ShapeError, SingleValueError, StatisticsError
from normkit.surgery import recalibrate, synchronize

LAYERS = {1: (nn.BatchNorm1d, (9, 4)), 2: (nn.BatchNorm2d, (9, 4, 2, 3)), 3: (nn.BatchNorm3d, (9, 4, 2, 1, 2))}
every_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=["1d", "2d", "3d"])
OTHERS = (
    {"single_value": "running"},
    {"nonfinite": "skip"},
    {"nonfinite": "raise"},
    {"running_variance": "biased"},
    {"virtual_batch_size": 4},
)


def statistics(layer: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.named_buffers()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", [{}, *OTHERS[:3]], ids=str)
@every_layer
def test_usual_batches_are_those_of_torch_s_policy(
    build: type, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    layer, plain = build(4, momentum=None, **options), build(4, momentum=None)
    for offset in (0.0, 3.0):
        x = (torch.randn(shape) + offset).requires_grad_()
        y, expected, dy = layer(x), plain(x), torch.randn(shape)
        assert torch.equal(y, expected)
        assert torch.equal(torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(expected, x, dy)[0])
    torch.testing.assert_close(statistics(layer), statistics(plain))


def test_one_value_by_the_running_statistics() -> None:
    layer = nn.BatchNorm1d(4, single_value="running")
    layer(torch.randn(6, 4) + 2)
    before, x = statistics(layer), torch.randn(1, 4, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, copy.deepcopy(layer).eval()(x))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0][0], (layer.running_var + 1e-5) ** -0.5)
    assert_same(statistics(layer), before)


def test_one_value_that_is_skipped() -> None:
    """(x − x)·rstd·w + b: the bias, whatever x, and no gradient for x."""
    layer = nn.BatchNorm1d(4, single_value="skip")
    layer(torch.randn(6, 4) + 2)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(4.0))
    before, x = statistics(layer), torch.randn(1, 4, requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    y.sum().backward()
    assert x.grad is None or not x.grad.any()
    assert layer.bias.grad.tolist() == [1.0] * 4
    assert_same(statistics(layer), before)


def test_one_value_is_an_error_by_default() -> None:
    with pytest.raises(SingleValueError, match="expected more than 1 value per channel when training"):
        nn.BatchNorm1d(4, nonfinite="skip")(torch.randn(1, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
@every_layer
def test_what_is_not_finite(build: type, shape: tuple[int, ...], bad: float) -> None:
    x = torch.randn(shape)
    poisoned = x.clone()
    poisoned[1, 2] = bad
    skip, plain = build(4, nonfinite="skip"), build(4)
    y, _ = skip(poisoned), plain(x)
    assert y[:, 2].isnan().all()
    fine = [0, 1, 3]
    assert y[:, fine].isfinite().all()
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(skip, name)[fine], getattr(plain, name)[fine])
    assert skip.running_mean[2] == 0
    assert skip.running_var[2] == 1
    assert skip.num_batches_tracked == 1
    before = statistics(skip)
    skip(torch.full(shape, bad))
    assert_same(statistics(skip), before)
    strict = build(4, nonfinite="raise", virtual_batch_size=3)
    strict(x)
    before = statistics(strict)
    last = x.clone()
    last[-1, 2] = bad
    with pytest.raises(StatisticsError, match=r"BatchNorm\dd: expected finite input .* infinity or overflow in 1 of 4"):
        strict(last)
    assert_same(statistics(strict), before)


def test_the_running_variance_of_two_values() -> None:
    x = torch.tensor([[1.0], [3.0]])
    for convention, expected in (("unbiased", 2.0), ("biased", 1.0)):
        layer = nn.BatchNorm1d(1, momentum=1.0, running_variance=convention)
        layer(x)
        assert layer.running_var.item() == expected
        recalibrate(layer, [x])
        assert layer.running_var.item() == expected
    same = nn.BatchNorm1d(1, momentum=1.0, running_variance="biased", affine=False)
    torch.testing.assert_close(same(x), copy.deepcopy(same).eval()(x))  # training and evaluation agree


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(9, 4, [3, 3, 3]), (8, 4, [4, 4]), (9, 8, [4, 5]), (3, 2, [3]), (5, 2, [2, 3]), (4, 1, [2, 2]), (3, 100, [3])],
    ids=str,
)
def test_virtual_batches(n: int, size: int, sizes: list[int]) -> None:
    """As equal as can be, and none of a single value; each as a batch of its own, one after another."""
    layer, plain = nn.BatchNorm1d(4, momentum=None, virtual_batch_size=size), nn.BatchNorm1d(4, momentum=None)
    x = torch.randn(n, 4, requires_grad=True)
    y, expected = layer(x), torch.cat([plain(part) for part in torch.split(x, sizes)])
    dy = torch.randn(n, 4)
    assert torch.equal(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))
    torch.testing.assert_close(statistics(layer), statistics(plain))
    assert layer.num_batches_tracked == len(sizes)


def test_virtual_batches_with_an_activation_and_a_residual() -> None:
    layer, plain = (nn.BatchNorm1d(4, activation="relu", virtual_batch_size=size) for size in (4, None))
    x, residual = torch.randn(9, 4), torch.randn(9, 4)
    expected = torch.cat([plain(*parts) for parts in zip(torch.split(x, 3), torch.split(residual, 3), strict=True)])
    assert torch.equal(layer(x, residual), expected)
    with pytest.raises(ShapeError, match=r"BatchNorm1d: expected residual of the input's shape \[9, 4\], got \[4\]"):
        layer(x, residual[0])


def test_virtual_batches_keep_the_layout_and_single_samples_of_images() -> None:
    layer = nn.BatchNorm2d(4, virtual_batch_size=1)
    x = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, nn.InstanceNorm2d(4)(x))


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_copies_repr_contexts_and_evaluation(options: dict[str, Any]) -> None:
    layer, x = nn.BatchNorm1d(4, **options), torch.randn(8, 4)
    ((name, value),) = options.items()
    assert repr(layer).endswith(f", {name}={value!r})")
    layer(x)
    for copied in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        other = copied(layer)
        assert torch.equal(other(x), layer(x))
        assert_same(statistics(other), statistics(layer))
    before = statistics(layer)
    with normkit.no_stat_update(layer):
        layer(x)
    assert_same(statistics(layer), before)
    plain = nn.BatchNorm1d(4)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    twin = copy.deepcopy(layer)
    report = synchronize(layer)
    if name == "virtual_batch_size":
        assert report.left[0].reason == f"it has virtual batches, {name}={value}, which SyncBatchNorm has not"
    else:
        assert repr(layer).startswith("SyncBatchNorm")
        assert repr(layer).endswith(f", {name}={value!r})")
        assert torch.equal(layer(x), twin(x))
        assert_same(statistics(layer), statistics(twin))


@pytest.mark.parametrize("options", [o for o in OTHERS if o.get("nonfinite") != "raise"], ids=str)
def test_in_a_whole_graph_and_under_torch_func(options: dict[str, Any]) -> None:
    torch.compiler.reset()
    layer, x = nn.BatchNorm1d(4, **options), torch.randn(8, 4)
    twin, pure = copy.deepcopy(layer), copy.deepcopy(layer)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, twin(x))
    torch.testing.assert_close(statistics(layer), statistics(twin))
    buffers = statistics(pure)
    new = dict(buffers)

    def loss(x: Tensor, buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y = torch.func.functional_call(pure, buffers, x)
        return y.pow(3).sum(), buffers

    dx, new = torch.func.grad(loss, has_aux=True)(x, new)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(dx, torch.autograd.grad(copy.deepcopy(pure)(leaf).pow(3).sum(), leaf)[0])
    assert_same(statistics(pure), buffers)


def test_torch_s_policy_is_no_attribute() -> None:
    """So that what upgrade makes of torch's layers is what the constructor makes."""
    layer, upgraded = nn.BatchNorm1d(4, nonfinite="propagate"), torch.nn.BatchNorm1d(4)
    normkit.upgrade(upgraded)
    assert "policy" not in vars(layer)
    assert repr(layer) == repr(upgraded) == repr(torch.nn.BatchNorm1d(4))
    assert upgraded.policy is layer.policy


def test_what_is_no_input_is_named() -> None:
    for options in ({}, {"nonfinite": "skip"}):
        with pytest.raises(DtypeError, match=r"BatchNorm1d: expected input to be a torch\.Tensor, got list"):
            nn.BatchNorm1d(4, **options)([1.0, 2.0])


def test_errors() -> None:
    for options, error, text in (
        ({"single_value": "zero"}, ArgumentError, "expected single_value 'raise', 'running' or 'skip', got 'zero'"),
        ({"nonfinite": "mask"}, ArgumentError, "expected nonfinite 'propagate', 'skip' or 'raise', got 'mask'"),
        ({"running_variance": None}, ArgumentError, "expected running_variance 'unbiased' or 'biased', got None"),
        ({"virtual_batch_size": 0}, ShapeError, "expected virtual_batch_size of at least 1, got 0"),
        ({"virtual_batch_size": 2.0}, DtypeError, "expected virtual_batch_size to be an integer, got 2.0"),
        (
            {"single_value": "running", "track_running_stats": False},
            ArgumentError,
            "expected track_running_stats=True with single_value='running', got False",
        ),
    ):
        with pytest.raises(error, match=f"BatchNorm2d: {text}"):
            nn.BatchNorm2d(4, **options)  # type: ignore[arg-type]
