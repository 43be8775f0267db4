"""Masks beside what decides about running statistics: freezing, policies, recalibration, ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import normkit
from normkit import nn
from normkit.errors import ArgumentError, SingleValueError
from normkit.pooling import pool
from normkit.surgery import freeze, recalibrate

EXACTLY = {"rtol": 0.0, "atol": 1e-12}  # as in test_masks


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    """A padded batch with NaN in the padding, and its mask."""
    x, mask = torch.randn(n, 4, 5, dtype=torch.float64) + 3, torch.rand(n, 5) < 0.6
    mask[:, :2] = True
    return torch.where(mask[:, None], x, math.nan), mask


def rows(x: Tensor, mask: Tensor) -> Tensor:
    return x.movedim(1, -1)[mask]


def layer(**options: Any) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(4, **{"dtype": torch.float64, **options})


def statistics(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **EXACTLY, msg=lambda m, name=name: f"{name}: {m}")


def test_a_frozen_layer_uses_its_statistics() -> None:
    x, mask = batch()
    frozen, plain = layer(), layer()
    for one in (frozen, plain):
        one.running_mean.fill_(2)
    freeze(frozen)
    frozen.train()
    torch.testing.assert_close(frozen(x, mask=mask), plain.eval()(x, mask=mask), **EXACTLY)
    assert_same(statistics(frozen), statistics(plain))


def test_a_forward_without_a_trace() -> None:
    x, mask = batch()
    held, plain = layer(), layer()
    before = statistics(held)
    with normkit.no_stat_update(held):
        y = held(x, mask=mask)
    assert_same(statistics(held), before)
    torch.testing.assert_close(y, plain(x, mask=mask), **EXACTLY)


@pytest.mark.parametrize(
    "options",
    [{"nonfinite": "skip"}, {"nonfinite": "raise"}, {"running_variance": "biased"}, {"single_value": "running"}],
    ids=str,
)
@pytest.mark.parametrize("way", ["mask", "weights"])
def test_policies_see_only_what_counts(options: dict[str, Any], way: str) -> None:
    x, mask = batch()
    padded, alone = layer(**options), layer(**options)
    y = padded(x, **{way: mask if way == "mask" else mask.double()})
    torch.testing.assert_close(rows(y, mask), alone(rows(x, mask)), **EXACTLY)
    assert_same(statistics(padded), statistics(alone))


def test_what_is_not_finite_and_counts_is_skipped() -> None:
    x, mask = batch()
    x[0, 2, 0] = math.inf
    found = layer(nonfinite="skip")
    found(x, mask=mask)
    assert found.running_mean[[0, 1, 3]].abs().min() > 0
    assert found.running_mean[2] == 0


def test_virtual_batches_take_their_part_of_the_mask() -> None:
    x, mask = batch(9)
    mask[3:6] = False  # the second is all padding
    virtual, plain = layer(virtual_batch_size=3), layer()
    y = virtual(x, mask=mask, lengths=[5] * 9)
    for part in (slice(0, 3), slice(6, 9)):
        torch.testing.assert_close(y[part], plain(x[part], mask=mask[part]), **EXACTLY)
    assert (y[3:6] == 0).all()
    assert_same(statistics(virtual), statistics(plain))
    before = statistics(virtual)
    with pytest.raises(ArgumentError, match="not all padding, got none"):
        virtual(x, mask=mask & False)
    assert_same(statistics(virtual), before)


@pytest.mark.parametrize("policy", ["running", "skip"])
def test_one_value_beside_the_padding(policy: str) -> None:
    x, _ = batch()
    mask = torch.zeros(8, 5, dtype=torch.bool)
    mask[2, 1] = True
    padded, alone = layer(single_value=policy), layer(single_value=policy)
    y = padded(x, mask=mask)
    torch.testing.assert_close(rows(y, mask), alone(rows(x, mask)), **EXACTLY)
    assert (rows(y, ~mask) == 0).all()
    assert_same(statistics(padded), statistics(alone))
    with pytest.raises(SingleValueError, match="BatchNorm1d: expected more than 1 value per channel"):
        layer(nonfinite="skip")(x, mask=mask)


def test_recalibration_leaves_padding_out() -> None:
    data = [batch(n) for n in (8, 3, 5)]
    values = torch.cat([rows(x, mask) for x, mask in data])
    for said in ("mask", "weights"):
        found = layer()
        recalibrate(
            found, data, forward=lambda m, b, said=said: m(b[0], **{said: b[1] if said == "mask" else b[1] * 1.0})
        )
        torch.testing.assert_close(found.running_mean, values.mean(0), **EXACTLY)
        torch.testing.assert_close(found.running_var, values.var(0), **EXACTLY)


def test_recalibration_over_batches_of_little_weight() -> None:
    """Of one position, whatever its weight, and of weights that add up to 1 or less: they count by their weight."""
    x, mask = batch()
    one, little = torch.zeros(8, 5, dtype=torch.float64), mask.double() / 64
    one[2, 1] = 3
    data = [(x, mask.double()), (x + 1, one), (x + 2, little)]
    found, every = layer(), layer()
    recalibrate(found, data, forward=lambda m, b: m(b[0], weights=b[1]))
    every(torch.cat([x for x, _ in data]), weights=torch.cat([weights for _, weights in data]))
    expected = every.running_mean / 0.1, (every.running_var - 0.9) / 0.1
    torch.testing.assert_close((found.running_mean, found.running_var), expected, **EXACTLY)


def test_recalibration_with_packed_sequences() -> None:
    data = [
        torch.nn.utils.rnn.pack_sequence([torch.randn(n, 4, dtype=torch.float64) for n in (5, 3)]) for _ in range(3)
    ]
    values = torch.cat([packed.data for packed in data])
    found = layer()
    recalibrate(found, data, forward=lambda m, packed: m(packed))
    torch.testing.assert_close(found.running_mean, values.mean(0), **EXACTLY)
    torch.testing.assert_close(found.running_var, values.var(0), **EXACTLY)
    assert found.num_batches_tracked == 3


def test_a_hook_sees_a_packed_sequence_once() -> None:
    seen: list[object] = []
    found = layer()
    found.register_forward_hook(lambda _, args, y: seen.append(type(y).__name__))
    found(torch.nn.utils.rnn.pack_sequence([torch.randn(3, 4, dtype=torch.float64)]))
    assert seen == ["PackedSequence"]


def test_a_pool_takes_weights() -> None:
    x, mask = batch()
    weights = torch.where(mask, 2.0, 0.0)[:, None]
    twice = rows(x, mask).repeat(2, 1)
    found = pool(x, weights)
    for name, value in pool(twice)._asdict().items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-12, atol=0)
    nothing = pool(x, weights * 0)
    assert not any(t.any() for t in nothing)
