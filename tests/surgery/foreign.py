"""Norms as timm, torchvision and transformers define them: their names, their attributes, their rounding.

Neither package is needed: each class says which module it would come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Class = TypeVar("Class", bound=type[nn.Module])


def of(module: str) -> Callable[[Class], Class]:
    """Give a class the module that it would have, and this one its name, so that it pickles."""

    def rename(cls: Class) -> Class:
        cls.__module__ = module
        return cls

    return rename


# transformers


class _RMS(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps


@of("transformers.models.llama.modeling_llama")
class LlamaRMSNorm(_RMS):
    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


@of("transformers.models.olmo2.modeling_olmo2")
class Olmo2RMSNorm(_RMS):
    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight * wide).to(hidden_states.dtype)


@of("transformers.models.t5.modeling_t5")
class T5LayerNorm(_RMS):
    def forward(self, hidden_states: Tensor) -> Tensor:
        mean_square = hidden_states.float().square().mean(-1, keepdim=True)
        y = hidden_states * torch.rsqrt(mean_square + self.variance_epsilon)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            y = y.to(self.weight.dtype)
        return self.weight * y


@of("transformers.models.gemma.modeling_gemma")
class GemmaRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * (1.0 + self.weight.float())).type_as(x)


@of("transformers.models.gemma3n.modeling_gemma3n")
class Gemma3nRMSNorm(nn.Module):
    """Without a scale, as for its values."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).type_as(x)


@of("transformers.models.cohere.modeling_cohere")
class CohereLayerNorm(_RMS):
    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.float()
        centred = wide - wide.mean(-1, keepdim=True)
        wide = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight.float() * wide).to(hidden_states.dtype)


@of("transformers.models.convnext.modeling_convnext")
class ConvNextLayerNorm(nn.LayerNorm):
    def __init__(self, size: int, *, eps: float = 1e-6, data_format: str = "channels_last") -> None:
        super().__init__(size, eps=eps)
        self.data_format = data_format

    def forward(self, features: Tensor) -> Tensor:
        if self.data_format == "channels_first":
            return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(features)


@of("models.convnext")
class LayerNorm(nn.Module):
    """The one of ConvNeXt's authors, in whatever repository."""

    def __init__(self, size: int, eps: float = 1e-6, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps
        self.data_format = data_format
        self.normalized_shape = (size,)

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        centred = x - x.mean(1, keepdim=True)
        x_hat = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x_hat + self.bias[:, None, None]


# torchvision


@of("torchvision.models.convnext")
class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


@of("torchvision.ops.misc")
class FrozenBatchNorm2d(nn.Module):
    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    def forward(self, x: Tensor) -> Tensor:
        w, b, mean, var = (t.view(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var))
        scale = w * (var + self.eps).rsqrt()
        return x * scale + (b - mean * scale)


@of("transformers.models.detr.modeling_detr")
class DetrFrozenBatchNorm2d(FrozenBatchNorm2d):
    """Its eps is a constant of the code."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        del self.eps

    def forward(self, x: Tensor) -> Tensor:
        w, b, mean, var = (t.view(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var))
        scale = w * (var + 1e-5).rsqrt()
        return x * scale + (b - mean * scale)


# timm


class _WithActivation:
    def add_activation(self, act: nn.Module) -> None:
        self.drop = nn.Identity()
        self.act = act


@of("timm.layers.norm")
class TimmLayerNorm(nn.LayerNorm):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__(size, eps=eps)
        self._fast_norm = False

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@of("timm.layers.norm")
class TimmLayerNorm2d(TimmLayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


@of("timm.layers.norm")
class LayerNormFp32(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, w, b, self.eps).to(x.dtype)


@of("timm.layers.norm")
class GroupNorm1(nn.GroupNorm):
    def __init__(self, size: int) -> None:
        super().__init__(1, size)
        self._fast_norm = False

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


@of("timm.layers.norm")
class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.normalized_shape = (size,)
        self.eps = eps
        self.elementwise_affine = True
        self._fast_norm = False
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


@of("timm.layers.norm")
class RmsNorm2d(RmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.eps)
        return y * self.weight.reshape(1, -1, 1, 1)


@of("timm.layers.norm")
class SimpleNorm(RmsNorm):
    """Divided by the deviation from a mean that is not taken off: no norm of ours."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.var(-1, keepdim=True) + self.eps) * self.weight


@of("timm.layers.norm_act")
class BatchNormAct2d(nn.BatchNorm2d, _WithActivation):
    def __init__(self, size: int, act: nn.Module | None = None) -> None:
        super().__init__(size)
        self.add_activation(nn.ReLU(inplace=True) if act is None else act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


@of("timm.layers.norm_act")
class FrozenBatchNormAct2d(FrozenBatchNorm2d, _WithActivation):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.add_activation(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


@of("timm.layers.norm_act")
class GroupNormAct(GroupNorm1, _WithActivation):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.add_activation(nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


TimmLayerNorm.__name__, TimmLayerNorm2d.__name__ = "LayerNorm", "LayerNorm2d"
