"""How users of torch, and users of normkit, write each operation: modules that differ in nothing but the norm.

This is the one place that knows which fused forms normkit offers: where its layers take ``activation`` or
``residual``, they are given it, and elsewhere its side composes as torch's does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import normkit.nn as nk
from normkit.bench.cases import OPS, Workload, n_groups

RMS_EPS = 1e-6  # what most language models have; torch's default depends on the dtype
LAYER_NORM2D_EPS = 1e-6  # normkit's default, and ConvNeXt's


class AddThenNorm(nn.Module):
    """The step between two blocks of a transformer: the sum goes on beside its norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.norm(total), total


class NormThenAct(nn.Module):
    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(x))
        return out


class NormAddAct(nn.Module):
    """The end of a residual block, in place where torchvision's is."""

    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out = self.norm(x)
        out += residual
        activated: Tensor = self.activation(out)
        return activated


class ChannelsLastNorm(nn.Module):
    """LayerNorm over the channels of a map, as ConvNeXt and timm write it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class WrittenOut(nn.Module):
    """A norm under a mask, as its users write it in torch's operations."""

    mask: Tensor

    def __init__(self, norm: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        norm, padding = self.norm, ~self.mask.unsqueeze(1)
        if isinstance(norm, nn.BatchNorm2d):
            if not norm.training:
                y: Tensor = norm(x)
                return y.masked_fill(padding, 0)
            mean, var, n = masked_moments(x, padding, (0, 2, 3))
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.lerp_(mean.detach().flatten(), 0.1)
                norm.running_var.lerp_((var.detach() * n / (n - 1)).flatten(), 0.1)
            x_hat = (x - mean) * torch.rsqrt(var + norm.eps)
        else:
            assert isinstance(norm, nn.GroupNorm | nn.InstanceNorm2d)
            groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else x.shape[1]
            grouped = torch.unflatten(x, 1, (groups, -1))
            mean, var, _ = masked_moments(grouped, padding.unsqueeze(1), (2, 3, 4))
            x_hat = ((grouped - mean) * torch.rsqrt(var + norm.eps)).flatten(1, 2)
        assert norm.weight is not None
        scale, shift = (p.view(-1, 1, 1) for p in (norm.weight, norm.bias))
        return (x_hat * scale + shift).masked_fill(padding, 0)


def masked_moments(x: Tensor, padding: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over the axes of what is no padding, and of how many values."""
    n = (~padding).expand_as(x).sum(axes, keepdim=True)
    mean = x.masked_fill(padding, 0).sum(axes, keepdim=True) / n
    d = (x - mean).masked_fill(padding, 0)
    return mean, (d * d).sum(axes, keepdim=True) / n, n


class Masked(nn.Module):
    """A norm that is given the mask with each input."""

    mask: Tensor

    def __init__(self, norm: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x, mask=self.mask)
        return y


class FusedResidual(nn.Module):
    """A norm that adds the residual before its activation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.norm(x, residual=residual)
        return y


def torch_side(workload: Workload) -> nn.Module:
    """The operation from ``torch.nn``'s parts, in the workload's dtype."""
    c, mask = workload.shape[1], partial(scattered_mask, workload.shape)
    make: dict[str, Callable[[], nn.Module]] = {
        "layer_norm": lambda: nn.LayerNorm(c),
        "rms_norm": lambda: nn.RMSNorm(c, RMS_EPS),
        "add_layer_norm": lambda: AddThenNorm(nn.LayerNorm(c)),
        "add_rms_norm": lambda: AddThenNorm(nn.RMSNorm(c, RMS_EPS)),
        "batch_norm": lambda: nn.BatchNorm2d(c),
        "batch_norm_masked": lambda: WrittenOut(nn.BatchNorm2d(c), mask()),
        "batch_norm_eval": lambda: nn.BatchNorm2d(c).eval(),
        "batch_norm_eval_masked": lambda: WrittenOut(nn.BatchNorm2d(c).eval(), mask()),
        "batch_norm_relu": lambda: NormThenAct(nn.BatchNorm2d(c), nn.ReLU(inplace=True)),
        "batch_norm_add_relu": lambda: NormAddAct(nn.BatchNorm2d(c), nn.ReLU(inplace=True)),
        "group_norm": lambda: nn.GroupNorm(n_groups(c), c),
        "group_norm_masked": lambda: WrittenOut(nn.GroupNorm(n_groups(c), c), mask()),
        "group_norm_silu": lambda: NormThenAct(nn.GroupNorm(n_groups(c), c), nn.SiLU()),
        "instance_norm": lambda: nn.InstanceNorm2d(c, affine=True),
        "instance_norm_masked": lambda: WrittenOut(nn.InstanceNorm2d(c, affine=True), mask()),
        "layer_norm2d": lambda: ChannelsLastNorm(nn.LayerNorm(c, LAYER_NORM2D_EPS)),
    }
    return make[workload.op]().to(dtype_of(workload))


def normkit_side(workload: Workload) -> nn.Module:
    """The operation from ``normkit.nn``, fused where it can be, in the workload's dtype."""
    c, mask = workload.shape[1], partial(scattered_mask, workload.shape)
    make: dict[str, Callable[[], nn.Module]] = {
        "layer_norm": lambda: nk.LayerNorm(c),
        "rms_norm": lambda: nk.RMSNorm(c, RMS_EPS),
        "add_layer_norm": lambda: nk.AddLayerNorm(c),
        "add_rms_norm": lambda: nk.AddRMSNorm(c, RMS_EPS),
        "batch_norm": lambda: nk.BatchNorm2d(c),
        "batch_norm_masked": lambda: Masked(nk.BatchNorm2d(c), mask()),
        "batch_norm_eval": lambda: nk.BatchNorm2d(c).eval(),
        "batch_norm_eval_masked": lambda: Masked(nk.BatchNorm2d(c).eval(), mask()),
        "batch_norm_relu": lambda: activated(nk.BatchNorm2d, (c,), "relu", nn.ReLU(inplace=True)),
        "batch_norm_add_relu": lambda: added_and_activated(nk.BatchNorm2d, (c,), "relu", nn.ReLU(inplace=True)),
        "group_norm": lambda: nk.GroupNorm(n_groups(c), c),
        "group_norm_masked": lambda: Masked(nk.GroupNorm(n_groups(c), c), mask()),
        "group_norm_silu": lambda: activated(nk.GroupNorm, (n_groups(c), c), "silu", nn.SiLU()),
        "instance_norm": lambda: nk.InstanceNorm2d(c, affine=True),
        "instance_norm_masked": lambda: Masked(nk.InstanceNorm2d(c, affine=True), mask()),
        "layer_norm2d": lambda: nk.LayerNorm2d(c, LAYER_NORM2D_EPS),
    }
    return make[workload.op]().to(dtype_of(workload))


def activated(norm: Callable[..., nn.Module], args: tuple[Any, ...], name: str, activation: nn.Module) -> nn.Module:
    """The norm with its activation in one pass, if its class offers that."""
    if _takes(norm, "activation"):
        return norm(*args, activation=name)
    return NormThenAct(norm(*args), activation)


def added_and_activated(norm: type[nn.Module], args: tuple[Any, ...], name: str, activation: nn.Module) -> nn.Module:
    """The norm with residual and activation in one pass, if its class offers both."""
    if _takes(norm, "activation") and _takes(norm.forward, "residual"):
        return FusedResidual(norm(*args, activation=name))
    return NormAddAct(norm(*args), activation)


def fill(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Give the one norm of either side its parameters and statistics: by the last part of their names."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            last = name.rpartition(".")[2]
            if last in values:
                tensor.copy_(values[last])


def scattered_mask(shape: tuple[int, ...]) -> Tensor:
    """A mask [N, H, W] without any order, the hardest for a kernel: seven positions in eight count."""
    chance = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(8))
    return chance < 7 / 8


def dtype_of(workload: Workload) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[workload.dtype]


def is_trained(workload: Workload) -> bool:
    """Whether the operation updates running statistics."""
    op = OPS[workload.op]
    return op.slab == "channel" and "batch_norm_eval" not in (op.name, op.unmasked)


def _takes(call: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(call).parameters
