"""A stack of transformer encoders that give a token for each token, and the sequences they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from normkit.claims.experiments import _characters
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_norms import BatchNorm, affine, feature_norm, over_batch
from normkit.claims.experiments._stacked_training import PADDING
from normkit.lab.data import stream
from normkit.lab.task import Data, Split

Lengths = Literal["fixed", "variable"]
SYMBOLS, BLANK = 16, 16  # the blank pads
SHORTEST, USUAL, LONGEST = 4, 8, 12
SIZES = {"train": 2000, "validation": 300, "test": 500}
WIDTH, HEADS = 32, 2


@dataclass(frozen=True)
class Language:
    """What tokens there are.

    Attributes:
        symbols: how many; the blank is the next number.
        longest: tokens of a sequence.
        causal: a token sees none that comes later.
    """

    symbols: int
    longest: int
    causal: bool = False


SORTING = Language(SYMBOLS, LONGEST)
CHARACTERS = Language(len(_characters.SYMBOLS), 32, causal=True)


@lru_cache(maxsize=32)
def sorting(seed: int, lengths: Lengths) -> Data:
    """Symbols [N, T] at random, and the same in rising order: of length 8, or of 4 to 12 and padded.

    Both have 8 symbols on average, each as likely as another.
    """

    def part(name: str) -> Split:
        generator, n = stream(seed, f"sorting {lengths} {name}"), SIZES[name]
        steps = USUAL if lengths == "fixed" else LONGEST
        tokens = torch.randint(SYMBOLS, (n, steps), generator=generator)
        if lengths == "fixed":
            return Split((tokens,), tokens.sort(1).values)
        length = torch.randint(SHORTEST, LONGEST + 1, (n, 1), generator=generator)
        ended = torch.arange(steps) >= length
        tokens = tokens.masked_fill(ended, BLANK)  # the blank is larger than all symbols: it stays at the end
        return Split((tokens,), tokens.sort(1).values.masked_fill(ended, PADDING))

    return Data(*map(part, SIZES))


def next_character(seed: int) -> Data:
    """Characters [N, 32] as numbers, and after each the one that follows."""
    return _characters.characters(seed, CHARACTERS.longest).map(lambda one_hot: (one_hot.argmax(-1),))


def transformer(
    norm: str, *, n_blocks: int = 2, placement: Literal["pre", "post"] = "pre", language: Language = SORTING
) -> Build:
    """Blocks of attention of 2 heads and a layer of 64 hidden units, width 32, on tokens [R, N, T].

    Args:
        norm: as ``feature_norm`` has it, of each token by itself, but for "batch": over all tokens of the batch,
            blanks among them, "batch_masked": over those that are no blanks, and "batch_regularized": the same,
            trained with ``discrepancy_penalty``.
        n_blocks: how many.
        placement: x + f(norm(x)) and a norm at the end, or norm(x + f(x)).
        language: of the tokens.
    """
    return lambda seeds: Transformer(Draws(seeds), norm, n_blocks, placement, language)


class Transformer(nn.Module):
    def __init__(self, draws: Draws, norm: str, n_blocks: int, placement: str, language: Language) -> None:
        super().__init__()
        self.blank = language.symbols
        self.embedding = draws.normal(language.symbols + 1, WIDTH, std=1.0)
        self.position = draws.normal(language.longest, WIDTH, std=1.0)
        self.halves = nn.ModuleList(
            Half(inner, token_norm(norm, draws.n_replicas), placement)
            for _ in range(n_blocks)
            for inner in (Attention(draws, causal=language.causal), FeedForward(draws))
        )
        self.last = token_norm(norm, draws.n_replicas) if placement == "pre" else None
        self.head = Linear(draws, WIDTH, language.symbols, gain=1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        replica = torch.arange(len(tokens))[:, None, None]
        x = self.embedding[replica, tokens] + self.position[:, None, : tokens.shape[2]]
        known = tokens != self.blank
        for half in self.halves:
            x = half(x, known)
        logits: Tensor = self.head(x if self.last is None else self.last(x, known))
        return logits


class Half(nn.Module):
    """The residual half of a block."""

    def __init__(self, inner: nn.Module, norm: nn.Module, placement: str) -> None:
        super().__init__()
        self.inner, self.norm, self.placement = inner, norm, placement

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        y: Tensor
        if self.placement == "pre":
            y = x + self.inner(self.norm(x, known), known)
        else:
            y = self.norm(x + self.inner(x, known), known)
        return y


class Attention(nn.Module):
    def __init__(self, draws: Draws, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.project_in = Linear(draws, WIDTH, 3 * WIDTH, gain=1.0)
        self.project_out = Linear(draws, WIDTH, WIDTH, gain=1.0)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        r, n, t, c = x.shape
        q, k, v = self.project_in(x).view(r * n, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mask = known.view(r * n, 1, 1, t)
        if self.causal:
            mask = mask & torch.ones(t, t, dtype=torch.bool).tril()
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [R·N, heads, T, C / heads]
        y: Tensor = self.project_out(mixed.transpose(1, 2).reshape(r, n, t, c))
        return y


class FeedForward(nn.Module):
    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.hidden = Linear(draws, WIDTH, 2 * WIDTH)
        self.out = Linear(draws, 2 * WIDTH, WIDTH, gain=1.0)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        y: Tensor = self.out(torch.relu(self.hidden(x)))
        return y


def token_norm(name: str, n_replicas: int) -> nn.Module:
    if name in ("batch", "batch_masked", "batch_regularized"):
        return TokenBatchNorm(n_replicas, WIDTH, masked=name != "batch")
    return OfEachToken(feature_norm(name, n_replicas, WIDTH))


class OfEachToken(nn.Module):
    """A norm to which other tokens do not matter, be they blanks or not."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class TokenBatchNorm(BatchNorm):
    """BatchNorm of [R, N, T, C] over samples and time: over all tokens, or over those that are ``known``.

    Attributes:
        mean_distance, std_distance: how far the running statistics were from those of the latest batch in training,
            before these entered: mean |μ_run - μ_B| / σ_B and mean |σ_run / σ_B - 1|, each [R] (Wang et al. 2022).
        penalty: on that distance, for the loss of a token: (0.1·Σ (μ_run - μ_B)² + 0.01·Σ |σ²_run - σ²_B|) / tokens,
            sums over features, [R]; only of statistics over known tokens. The weights are those of the code of Wang et
            al. 2022 for a norm before the sum, where they go with the loss summed over tokens.
    """

    def __init__(self, n_replicas: int, n_features: int, *, masked: bool) -> None:
        super().__init__(n_replicas, n_features)
        self.masked = masked
        self.mean_distance = self.std_distance = self.penalty = torch.zeros(n_replicas)

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        r, n, t, c = x.shape
        if not self.training:
            x_hat = (x - self.running_mean[:, None, None]) * torch.rsqrt(self.running_var[:, None, None] + self.eps)
            return affine(x_hat, self.weight, self.bias)
        if self.masked and known is not None:
            x_hat, mean, var = _over_known(x, known, self.eps)
            distance = 0.1 * (self.running_mean - mean).square() + 0.01 * (self.running_var - var).abs()
            self.penalty = distance.sum(1) / known.flatten(1).sum(1)
        else:
            x_hat, mean, var = over_batch(x.permute(1, 2, 0, 3).reshape(n * t, r * c), None, self.eps)
            x_hat, mean, var = x_hat.view(n, t, r, c).permute(2, 0, 1, 3), mean.view(r, c), var.view(r, c)
        with torch.no_grad():
            std = torch.sqrt(var + self.eps)
            self.mean_distance = ((self.running_mean - mean).abs() / std).mean(1)
            self.std_distance = (torch.sqrt(self.running_var + self.eps) / std - 1).abs().mean(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return affine(x_hat, self.weight, self.bias)


def _over_known(x: Tensor, known: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ of x [R, N, T, C] over the tokens that are known [R, N, T], and their mean and unbiased variance [R, C]."""
    weights = known.unsqueeze(3).to(x.dtype)
    count = weights.sum((1, 2), keepdim=True)
    mean = (x * weights).sum((1, 2), keepdim=True) / count
    centred = (x - mean) * weights
    squares = centred.square().sum((1, 2), keepdim=True)
    x_hat = centred * torch.rsqrt(squares / count + eps)
    return x_hat, mean[:, 0, 0], (squares / (count - 1))[:, 0, 0]


def discrepancy_penalty(model: nn.Module) -> Tensor:
    """What holds BatchNorm's statistics to the running ones in training, [R]: see TokenBatchNorm.

    Source: Wang et al., "Understanding the Failure of Batch Normalization for Transformers in NLP", 2022,
    https://arxiv.org/abs/2210.05153
    """
    return torch.stack([module.penalty for module in model.modules() if isinstance(module, TokenBatchNorm)]).sum(0)


def gradient_by_half(build: Build, data: Data, seeds: Sequence[int], n: int) -> Tensor:
    """At the start, on n samples: the norm of the gradient by the weights of each half of each block, [halves, R]."""
    model = build(seeds)
    assert isinstance(model, Transformer)
    tokens = data.train.inputs[0][:n].expand(len(seeds), -1, -1)
    targets = data.train.targets[:n].expand(len(seeds), -1, -1)
    logits = model(tokens)
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    (loss / (targets[0] != PADDING).sum()).backward()  # type: ignore[no-untyped-call]
    return torch.stack(
        [
            torch.stack([p.grad.flatten(1).square().sum(1) for p in half.inner.parameters() if p.grad is not None])  # type: ignore[union-attr]
            .sum(0)
            .sqrt()
            for half in model.halves
        ]
    )


def mean_distances(model: nn.Module) -> dict[str, Tensor]:
    """Of each replica, over the BatchNorms: see TokenBatchNorm."""
    norms = [module for module in model.modules() if isinstance(module, TokenBatchNorm)]
    if not norms:
        return {}
    return {
        "mean_distance": torch.stack([norm.mean_distance for norm in norms]).mean(0),
        "std_distance": torch.stack([norm.std_distance for norm in norms]).mean(0),
    }


@torch.no_grad()
def told_by_the_last(model: nn.Module, tokens: Tensor) -> Tensor:
    """In training: by how much the last of some tokens [R, N, T] changes, at most, what is said at those before, [R].

    It moves running statistics.
    """
    model.train()
    other = tokens.clone()
    other[..., -1] = tokens[..., 0]
    said: tuple[Tensor, Tensor] = model(tokens), model(other)
    return (said[0] - said[1])[:, :, :-1].abs().flatten(1).amax(1)
