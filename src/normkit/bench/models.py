"""Small stacks of the blocks that real models are made of, written as their authors write them.

The norms are torch's, or the hand-written ones that timm and transformers carry, under the names they have there:
what ``normkit.upgrade`` meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (8, 3, 64, 64)
TOKENS = (4, 128)
SEQUENCES = (16, 32)
VOCABULARY = 512
CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A model, and the kind of batch it takes."""

    name: str
    build: Callable[[], nn.Module]
    data: Literal["images", "tokens", "sequences"]  # tokens in short sequences


class BasicBlock(nn.Module):
    """Two convolutions of a ResNet, as in torchvision."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        y: Tensor = self.relu(out)
        return y


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, as in timm."""

    __module__ = "timm.layers.norm"  # by which upgrade knows it

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        x = input.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, and a pointwise network: on permuted maps, or with 1x1 convolutions."""

    def __init__(self, dim: int, pointwise: Literal["linear", "conv"]) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.is_permuted = pointwise == "linear"
        self.norm: nn.Module
        self.pwconv1: nn.Module
        self.pwconv2: nn.Module
        if self.is_permuted:
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        else:
            self.norm = LayerNorm2d(dim)
            self.pwconv1, self.pwconv2 = nn.Conv2d(dim, 4 * dim, 1), nn.Conv2d(4 * dim, dim, 1)
        self.act = nn.GELU()
        self.gamma = nn.Parameter(1e-2 * torch.ones(dim if self.is_permuted else (dim, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x)
        if self.is_permuted:
            out = out.permute(0, 2, 3, 1)
        out = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(out))))
        if self.is_permuted:
            out = out.permute(0, 3, 1, 2)
        y: Tensor = x + out
        return y


class CausalAttention(nn.Module):
    """Self-attention without positions, or with rotary ones."""

    def __init__(self, dim: int, n_heads: int, *, is_rotary: bool, has_bias: bool) -> None:
        super().__init__()
        self.n_heads, self.is_rotary = n_heads, is_rotary
        self.qkv = nn.Linear(dim, 3 * dim, bias=has_bias)
        self.proj = nn.Linear(dim, dim, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        n, t, dim = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.n_heads, dim // self.n_heads).permute(2, 0, 3, 1, 4)
        if self.is_rotary:
            q, k = _rotate(q), _rotate(k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.proj(out.transpose(1, 2).reshape(n, t, dim))
        return y


class GPTBlock(nn.Module):
    """LayerNorm, attention, LayerNorm, network: each added to what came in."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, n_heads, is_rotary=False, has_bias=True)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class LlamaRMSNorm(nn.Module):
    """RMSNorm as in transformers."""

    __module__ = "transformers.models.llama.modeling_llama"  # by which upgrade knows it

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class LlamaBlock(nn.Module):
    """RMSNorm, rotary attention, RMSNorm, gated network; no biases."""

    def __init__(self, dim: int, n_heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.input_layernorm = norm(dim)
        self.self_attn = CausalAttention(dim, n_heads, is_rotary=True, has_bias=False)
        self.post_attention_layernorm = norm(dim)
        hidden = 8 * dim // 3
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        h = self.post_attention_layernorm(x)
        y: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return y


class LSTMStack(nn.Module):
    """nn.LSTM layers, each followed by a LayerNorm."""

    def __init__(self, dim: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(dim, dim, batch_first=True) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        for lstm, norm in zip(self.layers, self.norms, strict=True):
            x = norm(lstm(x)[0])
        return x


class LayerNormLSTM(nn.Module):
    """An LSTM with LayerNorm inside its cell, step by step in Python."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight_ih = nn.Linear(dim, 4 * dim, bias=False)
        self.weight_hh = nn.Linear(dim, 4 * dim, bias=False)
        self.ln_ih, self.ln_hh, self.ln_cell = nn.LayerNorm(4 * dim), nn.LayerNorm(4 * dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], x.shape[2])
        from_input = self.ln_ih(self.weight_ih(x))
        states = []
        for gates in from_input.unbind(1):
            i, f, g, o = (gates + self.ln_hh(self.weight_hh(h))).chunk(4, 1)
            c = self.ln_cell(f.sigmoid() * c + i.sigmoid() * g.tanh())
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)


class ImageClassifier(nn.Module):
    """A stem, blocks, and a linear head on the mean over positions."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], dim: int) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return y


class LanguageModel(nn.Module):
    """An embedding, blocks, a last norm, and a score for every next token."""

    def __init__(self, blocks: list[nn.Module], dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = nn.Embedding(VOCABULARY, dim), nn.Sequential(*blocks), norm
        self.head = nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.blocks(self.embed(tokens)))).flatten(0, 1)
        return y


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions: pairs of features turn by an angle that grows with the position."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * rates
    a, b = x.chunk(2, -1)
    return torch.cat((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), -1)


def _resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    blocks = [BasicBlock(64, 64), BasicBlock(64, 64), BasicBlock(64, 128, 2), BasicBlock(128, 128)]
    return ImageClassifier(stem, [*blocks], 128)


def _convnext(pointwise: Literal["linear", "conv"]) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 96, 4, 4), LayerNorm2d(96))
    down = nn.Sequential(LayerNorm2d(96), nn.Conv2d(96, 192, 2, 2))
    early = [ConvNeXtBlock(96, pointwise) for _ in range(3)]
    late = [ConvNeXtBlock(192, pointwise) for _ in range(3)]
    return ImageClassifier(stem, [*early, down, *late], 192)


def _gpt() -> nn.Module:
    return LanguageModel([GPTBlock(256, 4) for _ in range(4)], 256, nn.LayerNorm(256))


def _llama(norm: Callable[[int], nn.Module]) -> nn.Module:
    return LanguageModel([LlamaBlock(256, 4, norm) for _ in range(4)], 256, norm(256))


ARCHITECTURES = (
    Architecture("resnet", _resnet, "images"),
    Architecture("convnext", lambda: _convnext("linear"), "images"),
    Architecture("convnext-conv", lambda: _convnext("conv"), "images"),
    Architecture("gpt", _gpt, "tokens"),
    Architecture("llama", lambda: _llama(LlamaRMSNorm), "tokens"),
    Architecture("llama-torch-norm", lambda: _llama(lambda dim: nn.RMSNorm(dim, eps=1e-6)), "tokens"),
    Architecture("lstm", lambda: LanguageModel([LSTMStack(256, 2)], 256, nn.Identity()), "sequences"),
    Architecture("layernorm-lstm", lambda: LanguageModel([LayerNormLSTM(256)], 256, nn.Identity()), "sequences"),
)
