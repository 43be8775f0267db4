"""The norm factories: what each normalizes over in each place, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from normkit import nn as layers
from normkit.errors import ArgumentError, ShapeError
from normkit.lab.norms import norm_factory, norm_names

PLACES = {
    "features": lambda norm: (norm.features(12), torch.randn(6, 12)),
    "image": lambda norm: (norm.image(12), torch.randn(6, 12, 5, 4)),
    "tokens": lambda norm: (norm.tokens(12), torch.randn(6, 5, 12)),
}

# The axes that share one mean and one variance, in the place's own shape; groups of channels are an axis apart.
AXES = {
    ("batch", "features"): (0,),
    ("batch", "image"): (0, 2, 3),
    ("batch", "tokens"): (0, 1),
    ("layer", "features"): (1,),
    ("layer", "image"): (1, 2, 3),
    ("layer", "tokens"): (2,),
    ("instance", "image"): (2, 3),
    ("instance", "tokens"): (1,),
}
GROUP_AXES = {"features": (2,), "image": (2, 3, 4), "tokens": (3,)}


def applied(norm: str, place: str) -> torch.Tensor:
    torch.manual_seed(0)
    layer, x = PLACES[place](norm_factory(norm))
    y = layer(3 + 2 * x)
    assert y.shape == x.shape
    return y


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


@pytest.mark.parametrize(("place", "axis"), [("features", 1), ("image", 1), ("tokens", 2)])
def test_rms_has_mean_square_one_over_the_channels(place: str, axis: int) -> None:
    square = applied("rms", place).double().square().mean(axis)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", PLACES)
def test_none_changes_nothing(place: str) -> None:
    layer, x = PLACES[place](norm_factory("none"))
    assert torch.equal(layer(x), x)
    assert not list(layer.parameters())


def test_instance_is_refused_where_a_channel_has_one_position() -> None:
    with pytest.raises(
        ShapeError, match="expected several positions in each channel of a sample, got one in each of 12"
    ):
        PLACES["features"](norm_factory("instance"))


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
    if norm == "instance" and place == "features":
        pytest.skip("refused")
    x = PLACES[place](norm_factory("none"))[1]
    before = torch.get_rng_state()
    make = getattr(norm_factory(norm), place)
    make(12)(x)
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


# Inside a recurrent network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "layer", "placement"),
    [
        ("none", layers.LayerNormLSTM, "none"),
        ("batch", layers.BatchNormLSTM, "separate"),
        ("layer", layers.LayerNormLSTM, "separate"),
        ("rms", layers.LayerNormLSTM, "rms_separate"),
    ],
)
def test_an_lstm_has_the_norm_inside(norm: str, layer: type, placement: str) -> None:
    lstm = norm_factory(norm).lstm(3, 5, 7)
    assert type(lstm) is layer
    assert lstm.norm == placement
    assert lstm(torch.randn(4, 7, 3))[0].shape == (4, 7, 5)
    if norm == "batch":
        assert lstm.statistics_ih_l0.running_mean.shape == (7, 20)


@pytest.mark.parametrize(("norm", "placement"), [("none", "none"), ("layer", "separate"), ("rms", "rms_separate")])
def test_a_gru_has_the_norm_inside(norm: str, placement: str) -> None:
    gru = norm_factory(norm).gru(3, 5)
    assert (type(gru), gru.norm) == (layers.LayerNormGRU, placement)


def test_a_norm_that_has_no_recurrent_layer_is_refused() -> None:
    for norm in ("group", "instance"):
        with pytest.raises(ArgumentError) as caught:
            norm_factory(norm).lstm(3, 5, 7)
        assert str(caught.value) == (
            f"LSTM: expected none, batch, layer or rms, got {norm}; no LSTM with that norm is known here."
        )
    for norm in ("batch", "group", "instance"):
        with pytest.raises(ArgumentError, match="GRU: expected none, layer or rms, got"):
            norm_factory(norm).gru(3, 5)
