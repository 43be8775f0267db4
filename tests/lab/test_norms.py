"""The norm factories: what each normalizes over in each place, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from normkit import nn as layers
from normkit.errors import ArgumentError, ShapeError
from normkit.lab.norms import BatchNormPerStep, RecurrentNorm, norm_factory, norm_names

PLACES = {
    "features": lambda norm: (norm.features(12), torch.randn(6, 12)),
    "image": lambda norm: (norm.image(12), torch.randn(6, 12, 5, 4)),
    "tokens": lambda norm: (norm.tokens(12), torch.randn(6, 5, 12)),
    "recurrent": lambda norm: (norm.recurrent(12, 7), torch.randn(6, 12), 3),
}

# The axes that share one mean and one variance, in the place's own shape; groups of channels are an axis apart.
AXES = {
    ("batch", "features"): (0,),
    ("batch", "image"): (0, 2, 3),
    ("batch", "tokens"): (0, 1),
    ("batch", "recurrent"): (0,),
    ("layer", "features"): (1,),
    ("layer", "image"): (1, 2, 3),
    ("layer", "tokens"): (2,),
    ("layer", "recurrent"): (1,),
    ("instance", "image"): (2, 3),
    ("instance", "tokens"): (1,),
}
GROUP_AXES = {"features": (2,), "image": (2, 3, 4), "tokens": (3,), "recurrent": (2,)}


def applied(norm: str, place: str) -> torch.Tensor:
    torch.manual_seed(0)
    layer, x, *step = PLACES[place](norm_factory(norm))
    y = layer(3 + 2 * x, *step)
    assert y.shape == x.shape
    return y / 0.1 if (norm, place) == ("batch", "recurrent") else y  # its weight starts at 0.1


@pytest.mark.parametrize(("norm", "place"), AXES)
def test_statistics_are_over(norm: str, place: str) -> None:
    y = applied(norm, place).double()
    mean, var = y.mean(AXES[norm, place]), y.var(AXES[norm, place], correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(var, torch.ones_like(var), atol=1e-3, rtol=0)


@pytest.mark.parametrize("place", GROUP_AXES)
def test_group_shares_statistics_within_four_groups_of_channels(place: str) -> None:
    y = applied("group", place).double()
    y = y.unflatten(1 if place == "image" else -1, (4, 3))
    mean, var = y.mean(GROUP_AXES[place]), y.var(GROUP_AXES[place], correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(var, torch.ones_like(var), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("place", "axis"), [("features", 1), ("image", 1), ("tokens", 2), ("recurrent", 1)])
def test_rms_has_mean_square_one_over_the_channels(place: str, axis: int) -> None:
    square = applied("rms", place).double().square().mean(axis)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", PLACES)
def test_none_changes_nothing(place: str) -> None:
    layer, x, *step = PLACES[place](norm_factory("none"))
    assert torch.equal(layer(x, *step), x)
    assert not list(layer.parameters())


@pytest.mark.parametrize("place", ["features", "recurrent"])
def test_instance_is_refused_where_a_channel_has_one_position(place: str) -> None:
    with pytest.raises(
        ShapeError, match="expected several positions in each channel of a sample, got one in each of 12"
    ):
        PLACES[place](norm_factory("instance"))


@pytest.mark.parametrize(
    ("num_channels", "num_groups"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (7, 1), (9, 3), (10, 2), (16, 4), (100, 4)]
)
def test_groups_divide_the_channels_and_hold_at_least_two(num_channels: int, num_groups: int) -> None:
    layer = norm_factory("group").features(num_channels)
    assert isinstance(layer, layers.GroupNorm)
    assert layer.num_groups == num_groups


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norm", norm_names())
def test_no_norm_draws_random_numbers(norm: str, place: str) -> None:
    if norm == "instance" and place in ("features", "recurrent"):
        pytest.skip("refused")
    x = PLACES[place](norm_factory("none"))[1:]
    before = torch.get_rng_state()
    make = getattr(norm_factory(norm), place)
    layer = make(12, 7) if place == "recurrent" else make(12)
    layer(*x)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_norm_lists_the_known_and_the_nearest() -> None:
    assert norm_names() == ("none", "batch", "layer", "rms", "group", "instance")
    with pytest.raises(ArgumentError) as caught:
        norm_factory("Layr")
    assert str(caught.value) == (
        "norm: expected none, batch, layer, rms, group or instance, got 'Layr'; did you mean layer?"
    )
    with pytest.raises(ArgumentError, match="got 'xyzzy'; use one of these"):
        norm_factory("xyzzy")


# In a recurrent network -------------------------------------------------------------------------------------


def sequence_of(steps: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(steps, n, 12, generator=generator) * torch.arange(1.0, steps + 1)[:, None, None]


@pytest.mark.parametrize("alive", [[6, 6, 6, 6], [6, 5, 3, 1]], ids=["fixed", "variable"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "rms", "group"])
def test_a_sequence_at_once_is_step_after_step(norm: str, alive: list[int]) -> None:
    x = sequence_of(4, 6)
    at_once: RecurrentNorm = norm_factory(norm).recurrent(12, 4)
    one_by_one = norm_factory(norm).recurrent(12, 4)
    ys = at_once.sequence(x, alive)
    for step, n in enumerate(alive):
        torch.testing.assert_close(ys[step], one_by_one(x[step, :n], step), atol=1e-6, rtol=1e-6)
    for one, other in zip(at_once.buffers(), one_by_one.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_batch_keeps_statistics_of_each_step_and_starts_small() -> None:
    norm = BatchNormPerStep(12, 4)
    x = sequence_of(4, 6)
    norm.sequence(x, [6] * 4)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var(1))
    assert norm.weight.tolist() == pytest.approx([0.1] * 12)
    assert norm.weight.shape == norm.bias.shape == (12,)


def test_batch_takes_running_statistics_where_one_sequence_is_left() -> None:
    norm = BatchNormPerStep(12, 4)
    for _ in range(3):
        norm.sequence(sequence_of(4, 6), [6] * 4)
    x = sequence_of(4, 6)[3, :1]
    before = norm.running_mean.clone(), norm.running_var.clone()
    trained = norm(x, 3)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert torch.equal(trained, norm.eval()(x, 3))


def test_batch_of_one_sequence_is_refused() -> None:
    with pytest.raises(ShapeError, match="more than 1 value per channel"):
        BatchNormPerStep(12, 4)(torch.randn(1, 12), 0)
    with pytest.raises(ShapeError, match="more than 1 value per channel"):
        BatchNormPerStep(12, 4).sequence(torch.randn(4, 1, 12), [1] * 4)
