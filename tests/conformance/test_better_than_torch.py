"""Further claims in the manner of the README's table (tests/better_than_torch.py): torch's layer fails each."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tolerances
from better_than_torch import ROWS, Outcome, Row
from conformance.oracle import as_float64
from normkit import nn, reference


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error_far_from_zero(layer: str, args: tuple[Any, ...], exact: Callable[[Any], Any], x: Tensor) -> Any:
    """The largest error of y at a mean of 10⁴ σ, where x̂ is at most about 5: right up to 4 ulp of 1 + 5."""

    def measure(layers: ModuleType) -> Outcome:
        given = x + 1e4
        error = np.abs(as_float64(getattr(layers, layer)(*args)(given)) - exact(as_float64(given))[0]).max()
        return Outcome(f"{error:.2g}", bool(error <= 4 * tolerances.ulp(np.array(6.0), torch.float32)))

    return measure


def gradient_at_an_offset(which: int) -> Callable[[ModuleType], Outcome]:
    """dx or dw of a LayerNorm at a mean of 10⁶ σ."""

    def measure(layers: ModuleType) -> Outcome:
        x, dy = (normal(64, 1024) + 1e6).requires_grad_(), normal(64, 1024, seed=1)
        layer = layers.LayerNorm(1024)
        got = torch.autograd.grad(layer(x), [x, layer.weight], dy)[which]
        exact = reference.layer_norm_backward(as_float64(dy), reference.layer_norm(as_float64(x), 1024)[1])[which]
        error = np.linalg.norm(as_float64(got) - exact) / np.linalg.norm(exact)
        return Outcome(f"off by {100 * error:.2g} %", bool(error <= 1e-6))

    return measure


def float16_rounding(layers: ModuleType) -> Outcome:
    x = (normal(64, 1024) + 256).half()
    y, _ = reference.layer_norm(as_float64(x), 1024)
    error = np.abs(as_float64(layers.LayerNorm(1024, dtype=torch.float16)(x)) - y) / tolerances.ulp(y, torch.float16)
    return Outcome(f"{error.max():.2g} ulp", bool(error.max() <= 0.51))


def huge_values(layers: ModuleType) -> Outcome:
    x = normal(2, 8)
    y = layers.RMSNorm(8, eps=1e-12)(x * 1e30)
    right = bool(torch.allclose(y, x / x.square().mean(1, keepdim=True).sqrt()))
    return Outcome("right" if right else f"{y.abs().max().item():g}", right)


def does_it_work(call: Callable[[ModuleType], object]) -> Callable[[ModuleType], Outcome]:
    def measure(layers: ModuleType) -> Outcome:
        try:
            call(layers)
        except Exception:
            return Outcome("raises", False)
        return Outcome("works", True)

    return measure


MAPS = normal(8, 16, 32, 32)
CHANNELS_LAST = MAPS.contiguous(memory_format=torch.channels_last)

FURTHER = (
    Row(
        "GroupNorm, channels_last, mean 10⁴ σ: largest error",
        error_far_from_zero("GroupNorm", (4, 16), lambda x: reference.group_norm(x, 4), CHANNELS_LAST),
        "at most 4 ulp",
    ),
    Row(
        "GroupNorm, contiguous, mean 10⁴ σ: largest error",
        error_far_from_zero("GroupNorm", (4, 16), lambda x: reference.group_norm(x, 4), MAPS),
        "at most 4 ulp",
    ),
    Row(
        "BatchNorm2d, contiguous, mean 10⁴ σ: largest error",
        error_far_from_zero("BatchNorm2d", (16,), reference.batch_norm, MAPS),
        "at most 4 ulp",
    ),
    Row(
        "InstanceNorm2d, mean 10⁴ σ: largest error",
        error_far_from_zero("InstanceNorm2d", (16,), reference.instance_norm, MAPS),
        "at most 4 ulp",
    ),
    Row("LayerNorm, mean 10⁶ σ: gradient of the input", gradient_at_an_offset(0), "1e-6"),
    Row("LayerNorm, mean 10⁶ σ: gradient of the weight", gradient_at_an_offset(1), "1e-6"),
    Row("LayerNorm in float16, mean 256 σ: largest error", float16_rounding, "at most 0.51 ulp"),
    Row("RMSNorm of values around 10³⁰", huge_values, "right"),
    Row(
        "`torch.func.vmap` over a training BatchNorm",
        does_it_work(lambda layers: torch.func.vmap(layers.BatchNorm1d(4))(normal(2, 3, 4))),
        "works",
    ),
    Row(
        "`torch.export` of a training BatchNorm, `momentum=None`",
        does_it_work(lambda layers: torch.export.export(layers.BatchNorm1d(4, momentum=None), (normal(3, 4),))),
        "works",
    ),
)


@pytest.mark.parametrize("row", FURTHER, ids=lambda row: row.what)
def test_torch_fails_and_ours_passes(row: Row) -> None:
    """If torch passes, it has mended something: take the row out, and say so in the changelog."""
    ours, theirs = row.measure(nn), row.measure(torch.nn)
    assert ours.right, f"{row.what}: expected {row.rule}, got {ours.words}"
    assert not theirs.right, f"{row.what}: torch does it too now: {theirs.words}"


def test_no_claim_is_made_twice() -> None:
    names = [row.what for row in (*ROWS, *FURTHER)]
    assert len(names) == len(set(names))
