"""A digit as eight tokens, one a row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from normkit.lab.data import digits
from normkit.lab.norms import NormFactory
from normkit.lab.task import Task


def digits_transformer(*, placement: Literal["pre", "post"] = "pre") -> Task:
    """Two transformer blocks of width 32, with 2 heads and 64 hidden units, on the 8 rows of a digit.

    Args:
        placement: "pre" normalizes what enters each half of a block, x + f(norm(x)), and once more at the end;
            "post" what leaves it, norm(x + f(x)), as the first transformer did.
    """
    return Task(
        name="digits-transformer",
        description=f"A transformer of two blocks ({placement}-norm) reads handwritten digits, one token a row.",
        data=digits,
        build=lambda norm: Transformer(norm, placement),
        steps=lambda batch_size: round(230 * batch_size**-0.22),  # 197 at batch size 2, 79 at 128
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    )


class Transformer(nn.Module):
    def __init__(self, norm: NormFactory, placement: Literal["pre", "post"], width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        # As large as the embedded pixels: from the usual 0.02 it takes many steps until the rows are told apart.
        self.position = nn.Parameter(0.5 * torch.randn(8, width))
        self.blocks = nn.Sequential(
            *(Residual(f, norm.tokens(width), placement) for _ in range(2) for f in (Attention(width), mlp(width)))
        )
        self.last = norm.tokens(width) if placement == "pre" else nn.Identity()
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        tokens = self.last(self.blocks(self.embed(rows) + self.position))
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, norm: nn.Module, placement: Literal["pre", "post"]) -> None:
        super().__init__()
        self.inner = inner
        self.norm = norm
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(self.norm(x)) if self.placement == "pre" else self.norm(x + self.inner(x))
        return y


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project_in(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v)  # [N, heads, T, width / heads]
        y: Tensor = self.project_out(mixed.transpose(1, 2).flatten(2))
        return y


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
