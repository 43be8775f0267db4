"""The norms that are compared, each as a factory, so that a task says where it normalizes and never how."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from normkit import nn as layers
from normkit.errors import ArgumentError, SingleValueError
from normkit.nn._recurrent import Placement


@dataclass(frozen=True)
class NormFactory:
    """Makes one kind of normalization for every place in a network that may want one.

    No norm draws random numbers, so that the weights around it start the same for every norm.

    Args:
        name: what the table and the records call it.
        features: number of features C -> layer for [N, C].
        image: number of channels C -> layer for [N, C, H, W].
        tokens: number of features C -> layer for [N, T, C].
        lstm: width I, hidden units H, longest sequence T -> LSTM with the norm inside for [N, T, I], which
            returns and takes what ``normkit.nn.LayerNormLSTM`` does.
        gru: width I, hidden units H -> the same as a GRU.
    """

    name: str
    features: Callable[[int], nn.Module]
    image: Callable[[int], nn.Module]
    tokens: Callable[[int], nn.Module]
    lstm: Callable[[int, int, int], nn.Module]
    gru: Callable[[int, int], nn.Module]


def norm_names() -> tuple[str, ...]:
    """The known norms, in the order in which tables show them."""
    return tuple(_FACTORIES)


def norm_factory(name: str) -> NormFactory:
    """The factory of a known norm.

    Raises:
        ArgumentError: for an unknown name; the message lists the known ones and the nearest.
    """
    if name not in _FACTORIES:
        raise ArgumentError(f"norm: expected {one_of(_FACTORIES)}, got {name!r}{nearest(name, _FACTORIES)}")
    return _FACTORIES[name]


def one_of(known: Iterable[str]) -> str:
    """A list for a message: "a, b or c"."""
    *head, last = known
    return f"{', '.join(head)} or {last}" if head else last


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that looks most like it."""
    match = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else "; use one of these."


class EachToken(nn.Module):
    """Applies a layer for [N, C] to [N, T, C], every token a row of its own.

    A BatchNorm1d inside takes its statistics over samples and tokens together.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.reshape(x.shape)


class ChannelsFirst(nn.Module):
    """Applies a layer for [N, C, T] to [N, T, C]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.movedim(-1, 1))
        return y.movedim(1, -1)


class ChannelsLast(nn.Module):
    """Applies a layer for [N, H, W, C] to [N, C, H, W]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.movedim(1, -1))
        return y.movedim(-1, 1)


def _identity(num_features: int) -> nn.Module:
    return nn.Identity()


def _group(num_channels: int) -> nn.Module:
    """GroupNorm with the most groups, up to 4, that divide the channels and hold at least 2 each; else 1.

    Four, because these networks are narrow: the 32 of Wu & He 2018 are meant for 256 channels and more. On
    the four gates of an LSTM a group is a gate.
    """
    groups = [g for g in (4, 3, 2) if num_channels % g == 0 and num_channels // g >= 2]
    return layers.GroupNorm(groups[0] if groups else 1, num_channels)


def _layer_image(num_channels: int) -> nn.Module:
    """LayerNorm of an image as Ba et al. 2016 and Wu & He 2018 compare it: over C, H and W of a sample."""
    return layers.GroupNorm(1, num_channels)


def _rms_image(num_channels: int) -> nn.Module:
    """RMSNorm over the channels at each pixel, as the image models that use it have it."""
    return ChannelsLast(layers.RMSNorm(num_channels))


def _instance_features(num_features: int) -> nn.Module:
    raise _no_positions(num_features)


def _no_positions(num_features: int) -> SingleValueError:
    return SingleValueError(
        f"instance: expected several positions in each channel of a sample, got one in each of {num_features} "
        "features, whose only value would always become 0; use layer or group."
    )


def _lstm(norm: Placement) -> Callable[[int, int, int], nn.Module]:
    return lambda width, hidden, steps: layers.LayerNormLSTM(width, hidden, batch_first=True, norm=norm)


def _gru(norm: Placement) -> Callable[[int, int], nn.Module]:
    return lambda width, hidden: layers.LayerNormGRU(width, hidden, batch_first=True, norm=norm)


def _batch_lstm(width: int, hidden: int, steps: int) -> nn.Module:
    return layers.BatchNormLSTM(width, hidden, batch_first=True, max_steps=steps)


def _no_recurrent(norm: str, kind: str, known: str) -> Callable[..., nn.Module]:
    def refuse(*sizes: int) -> nn.Module:
        raise ArgumentError(f"{kind}: expected {known}, got {norm}; no {kind} with that norm is known here.")

    return refuse


_FACTORIES = {
    factory.name: factory
    for factory in (
        NormFactory(
            "none",
            features=_identity,
            image=_identity,
            tokens=_identity,
            lstm=_lstm("none"),
            gru=_gru("none"),
        ),
        NormFactory(
            "batch",
            features=layers.BatchNorm1d,
            image=layers.BatchNorm2d,
            tokens=lambda c: EachToken(layers.BatchNorm1d(c)),
            lstm=_batch_lstm,
            gru=_no_recurrent("batch", "GRU", "none, layer or rms"),
        ),
        NormFactory(
            "layer",
            features=layers.LayerNorm,
            image=_layer_image,
            tokens=layers.LayerNorm,
            lstm=_lstm("separate"),
            gru=_gru("separate"),
        ),
        NormFactory(
            "rms",
            features=layers.RMSNorm,
            image=_rms_image,
            tokens=layers.RMSNorm,
            lstm=_lstm("rms_separate"),
            gru=_gru("rms_separate"),
        ),
        NormFactory(
            "group",
            features=_group,
            image=_group,
            tokens=lambda c: EachToken(_group(c)),
            lstm=_no_recurrent("group", "LSTM", "none, batch, layer or rms"),
            gru=_no_recurrent("group", "GRU", "none, layer or rms"),
        ),
        NormFactory(
            "instance",
            features=_instance_features,
            image=lambda c: layers.InstanceNorm2d(c, affine=True),
            tokens=lambda c: ChannelsFirst(layers.InstanceNorm1d(c, affine=True)),
            lstm=_no_recurrent("instance", "LSTM", "none, batch, layer or rms"),
            gru=_no_recurrent("instance", "GRU", "none, layer or rms"),
        ),
    )
}
