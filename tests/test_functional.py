"""normkit.functional: torch.nn.functional's signatures, the layers' results, and errors that name the function."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from normkit import functional, nn
from normkit.errors import NormkitError

IN_TORCH = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")


@pytest.mark.parametrize("name", IN_TORCH)
def test_takes_torchs_arguments(name: str) -> None:
    """Same names and defaults in the same order, so that every call of torch's function is a call of ours.

    What ours take beyond that is named, and does nothing unless given.
    """
    ours = list(inspect.signature(getattr(functional, name)).parameters.values())
    theirs = inspect.signature(getattr(F, name)).parameters.values()
    more = [p for p in ours if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [p.default for p in more] == [None] * len(more)
    assert [(p.name, p.default) for p in ours if p not in more] == [(p.name, p.default) for p in theirs]


GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


W, B = random(6), random(6)
ROWS, MAPS = random(4, 6), random(3, 6, 4, 2)

# Each call of a function, and the same call of torch's.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("layer_norm", (ROWS, (6,)), {}),
    ("layer_norm", (ROWS, [6], W, B, 0.1), {}),
    ("layer_norm", (ROWS, torch.Size([6])), {"bias": B}),
    ("layer_norm", (ROWS, (4, 6)), {"weight": random(4, 6)}),
    ("rms_norm", (ROWS, (6,)), {}),
    ("rms_norm", (ROWS, (6,), W, 0.1), {}),
    ("batch_norm", (MAPS, None, None), {"training": True}),
    ("batch_norm", (MAPS, None, None, W, B, True, 0.3, 0.1), {}),
    ("batch_norm", (MAPS, random(6), random(6).abs(), W, B), {}),
    ("batch_norm", (ROWS, random(6), random(6).abs()), {"training": True, "momentum": 0.5}),
    ("group_norm", (MAPS, 2), {}),
    ("group_norm", (MAPS, 3, W, B, 0.1), {}),
    ("group_norm", (ROWS, 2), {"weight": W}),
    ("instance_norm", (MAPS,), {}),
    ("instance_norm", (MAPS, None, None, W, B, True, 0.3, 0.1), {}),
    ("instance_norm", (MAPS, random(6), random(6).abs()), {"use_input_stats": False}),
    ("instance_norm", (MAPS, random(6), random(6).abs()), {"momentum": 0.5}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_is_torchs_function(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> None:
    """Values, gradients of everything that is given, and the statistics that are updated in place."""
    results = []
    for functions in (functional, F):
        copies = [a.clone().to(device) if isinstance(a, Tensor) else a for a in args]
        named = {name: a.clone().to(device) if isinstance(a, Tensor) else a for name, a in kwargs.items()}
        statistics = [a for i, a in enumerate(copies) if name in ("batch_norm", "instance_norm") and i in (1, 2)]
        wanted = [
            a.requires_grad_()
            for a in (*copies, *named.values())
            if isinstance(a, Tensor) and not any(a is s for s in statistics)
        ]
        y = getattr(functions, name)(*copies, **named)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(y, wanted, torch.randn_like(y))
        results.append([y, *gradients, *(s for s in statistics if s is not None)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_an_integer_stands_for_the_last_axis(device: torch.device) -> None:
    x = ROWS.to(device)
    assert torch.equal(functional.layer_norm(x, 6), functional.layer_norm(x, (6,)))
    assert torch.equal(functional.rms_norm(x, 6), functional.rms_norm(x, (6,)))


LAYERS: list[tuple[torch.nn.Module, Callable[..., Any], tuple[Tensor, ...], dict[str, Any]]] = [
    (nn.LayerNorm2d(6), functional.layer_norm2d, (MAPS,), {}),
    (nn.LayerNorm2d(6, eps=0.1), functional.layer_norm2d, (MAPS[0],), {"eps": 0.1}),
    (nn.AddLayerNorm(6), functional.add_layer_norm, (ROWS, ROWS.flip(0)), {"normalized_shape": 6}),
    (nn.AddRMSNorm(6), functional.add_rms_norm, (ROWS, ROWS.flip(0)), {"normalized_shape": 6}),
]


@pytest.mark.parametrize(("layer", "function", "inputs", "settings"), LAYERS, ids=lambda v: getattr(v, "__name__", ""))
def test_layers_without_a_counterpart_call_the_function(
    layer: torch.nn.Module,
    function: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    settings: dict[str, Any],
    device: torch.device,
) -> None:
    layer = layer.to(device)
    given = tuple(x.to(device) for x in inputs)
    expected, got = layer(*given), function(*given, **settings, **dict(layer.named_parameters()))
    for a, b in zip((got, expected), (expected, got), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


X = ROWS
BAD: list[tuple[str, Callable[[], object], str]] = [
    ("layer_norm", lambda: functional.layer_norm(X, 5), "[4, 6]"),
    ("layer_norm", lambda: functional.layer_norm(X, 6, weight=random(5)), "[5]"),
    ("layer_norm", lambda: functional.layer_norm(X, 6, bias=W.double()), "float64"),
    ("rms_norm", lambda: functional.rms_norm(X, 6, eps=-1.0), "-1.0"),
    ("rms_norm", lambda: functional.rms_norm(X.long(), 6), "int64"),
    ("batch_norm", lambda: functional.batch_norm(X, None, None), "None"),
    ("batch_norm", lambda: functional.batch_norm(X, random(6), None), "running_mean"),
    ("batch_norm", lambda: functional.batch_norm(X, random(5), random(5)), "[5]"),
    ("batch_norm", lambda: functional.batch_norm(X[0], random(6), random(6)), "[6]"),
    ("batch_norm", lambda: functional.batch_norm(X[:1], None, None, training=True), "[1, 6]"),
    ("batch_norm", lambda: functional.batch_norm(X, None, None, training=True, eps=0.0), "0.0"),
    ("instance_norm", lambda: functional.instance_norm(MAPS[..., :1, :1]), "[3, 6, 1, 1]"),
    ("instance_norm", lambda: functional.instance_norm(MAPS, use_input_stats=False), "None"),
    ("group_norm", lambda: functional.group_norm(X, 4), "6 and 4"),
    ("group_norm", lambda: functional.group_norm(X, 6), "[4, 6]"),
    ("group_norm", lambda: functional.group_norm(X, 2, weight=random(3)), "[3]"),
    ("layer_norm2d", lambda: functional.layer_norm2d(X), "[4, 6]"),
    ("layer_norm2d", lambda: functional.layer_norm2d(MAPS, weight=random(5)), "[5]"),
    ("add_layer_norm", lambda: functional.add_layer_norm(X, X[0], 6), "[6]"),
    ("add_layer_norm", lambda: functional.add_layer_norm(X, X, 5), "[4, 6]"),
    ("add_rms_norm", lambda: functional.add_rms_norm(X, X, 6, dropout_p=2.0), "2.0"),
    ("add_rms_norm", lambda: functional.add_rms_norm(X, X, 6, eps=-1.0), "-1.0"),
]


@pytest.mark.parametrize(("name", "call", "got"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_errors_name_the_function_and_the_value(name: str, call: Callable[[], object], got: str) -> None:
    with pytest.raises(NormkitError, match=rf"^{name}: expected .+; .+\.$") as caught:
        call()
    assert got in str(caught.value)


def test_statistics_without_side_effects(device: torch.device) -> None:
    """batch_norm_with_statistics returns what batch_norm would have written."""
    x, mean, var = MAPS.to(device), random(6).to(device), random(6).abs().to(device)
    y, new_mean, new_var = functional.batch_norm_with_statistics(x, mean, var, momentum=0.3)
    written_mean, written_var = mean.clone(), var.clone()
    torch.testing.assert_close(functional.batch_norm(x, written_mean, written_var, training=True, momentum=0.3), y)
    torch.testing.assert_close(new_mean, written_mean)
    torch.testing.assert_close(new_var, written_var)
    empty = functional.batch_norm_with_statistics(x[:0], mean, var)
    assert empty[0].shape == x[:0].shape
    assert torch.equal(empty[1], mean)


def test_the_same_for_instance_norm(device: torch.device) -> None:
    x, mean, var = MAPS.to(device), random(6).to(device), random(6).abs().to(device)
    y, new_mean, new_var = functional.instance_norm_with_statistics(x, mean, var, momentum=0.3)
    written_mean, written_var = mean.clone(), var.clone()
    torch.testing.assert_close(functional.instance_norm(x, written_mean, written_var, momentum=0.3), y)
    torch.testing.assert_close(new_mean, written_mean)
    torch.testing.assert_close(new_var, written_var)
    assert torch.equal(functional.instance_norm_with_statistics(x[:0], mean, var)[2], var)
