"""The norms that are compared, each as a factory, so that a task says where it normalizes and never how."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normkit import functional
from normkit import nn as layers
from normkit.errors import ArgumentError, SingleValueError


class RecurrentNorm(nn.Module):
    """A norm inside a recurrent network. Rows are sequences, the longest first, and end where they end."""

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalizes the values at one step, [N_t, C], of the N_t sequences that reach it."""
        raise NotImplementedError

    def sequence(self, x: Tensor, alive: list[int]) -> list[Tensor]:
        """The same for values known for all steps at once, [T, N, C], of which alive[t] rows count at step t."""
        return [self(rows[:n], step) for step, (rows, n) in enumerate(zip(x, alive, strict=False))]


@dataclass(frozen=True)
class NormFactory:
    """Makes one kind of normalization for every place in a network that may want one.

    No layer it makes draws random numbers, so that the weights around them start the same for every norm.

    Args:
        name: what the table and the records call it.
        features: number of features C -> layer for [N, C].
        image: number of channels C -> layer for [N, C, H, W].
        tokens: number of features C -> layer for [N, T, C].
        recurrent: number of features C, longest sequence T -> layer for the values at each step of a
            recurrent network, see :class:`RecurrentNorm`.
    """

    name: str
    features: Callable[[int], nn.Module]
    image: Callable[[int], nn.Module]
    tokens: Callable[[int], nn.Module]
    recurrent: Callable[[int, int], RecurrentNorm]


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


class EveryStep(RecurrentNorm):
    """The same layer at every step of a recurrent network, for layers that treat every row alone.

    Its weight starts at 1, the better start by Ba et al. 2016, section 6.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, step: int) -> Tensor:
        y: Tensor = self.layer(x)
        return y

    def sequence(self, x: Tensor, alive: list[int]) -> list[Tensor]:
        y: Tensor = self.layer(x.flatten(0, 1))
        return [rows[:n] for rows, n in zip(y.reshape(x.shape).unbind(), alive, strict=False)]


class BatchNormPerStep(RecurrentNorm):
    """BatchNorm in a recurrent network: statistics of each step's own, one weight and bias for all steps.

    Statistics shared by all steps ruin it: they average the first steps, where the state still settles,
    with the rest. The weight starts at 0.1, because at 1 the saturated tanh passes hardly any gradient
    through time.

    The rows at a step are the sequences that reach it, so that padding never enters. Where only one
    sequence of the batch reaches a later step there is nothing to normalize over: it takes the running
    statistics of that step, as in evaluation, and updates nothing.

    Raises:
        SingleValueError: for a training batch of one sequence.

    Source: Cooijmans et al. 2016, "Recurrent Batch Normalization", sections 3 and 4, https://arxiv.org/abs/1603.09025
    """

    running_mean: Tensor  # [T, C]
    running_var: Tensor

    def __init__(self, num_features: int, steps: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((num_features,), 0.1))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(steps, num_features))
        self.register_buffer("running_var", torch.ones(steps, num_features))

    def forward(self, x: Tensor, step: int) -> Tensor:
        alone = step > 0 and x.shape[0] == 1
        return functional.batch_norm(
            x,
            self.running_mean[step],
            self.running_var[step],
            self.weight,
            self.bias,
            training=self.training and not alone,
            momentum=self.momentum,
        )

    def sequence(self, x: Tensor, alive: list[int]) -> list[Tensor]:
        steps, n, _ = x.shape
        if alive != [n] * steps:
            return super().sequence(x, alive)
        # Every step's features side by side are features with statistics of their own: one call does for all.
        x_hat = functional.batch_norm(
            x.transpose(0, 1).flatten(1),
            self.running_mean[:steps].view(-1),
            self.running_var[:steps].view(-1),
            training=self.training,
            momentum=self.momentum,
        )
        return list((x_hat.reshape(n, steps, -1) * self.weight + self.bias).unbind(1))


def _identity(num_features: int) -> nn.Module:
    return nn.Identity()


def _every_step(layer: Callable[[int], nn.Module]) -> Callable[[int, int], RecurrentNorm]:
    return lambda num_features, steps: EveryStep(layer(num_features))


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


def _instance_recurrent(num_features: int, steps: int) -> RecurrentNorm:
    raise _no_positions(num_features)


_FACTORIES = {
    factory.name: factory
    for factory in (
        NormFactory(
            "none",
            features=_identity,
            image=_identity,
            tokens=_identity,
            recurrent=_every_step(_identity),
        ),
        NormFactory(
            "batch",
            features=layers.BatchNorm1d,
            image=layers.BatchNorm2d,
            tokens=lambda c: EachToken(layers.BatchNorm1d(c)),
            recurrent=BatchNormPerStep,
        ),
        NormFactory(
            "layer",
            features=layers.LayerNorm,
            image=_layer_image,
            tokens=layers.LayerNorm,
            recurrent=_every_step(layers.LayerNorm),
        ),
        NormFactory(
            "rms",
            features=layers.RMSNorm,
            image=_rms_image,
            tokens=layers.RMSNorm,
            recurrent=_every_step(layers.RMSNorm),
        ),
        NormFactory(
            "group",
            features=_group,
            image=_group,
            tokens=lambda c: EachToken(_group(c)),
            recurrent=_every_step(_group),
        ),
        NormFactory(
            "instance",
            features=_instance_features,
            image=lambda c: layers.InstanceNorm2d(c, affine=True),
            tokens=lambda c: ChannelsFirst(layers.InstanceNorm1d(c, affine=True)),
            recurrent=_instance_recurrent,
        ),
    )
}
