"""Images of 16×16 pixels with one of ten shapes on each, drawn by formula."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from normkit.lab.data import stream
from normkit.lab.task import Data, Split

SIDE, CLASSES = 16, 10
NOISE = 0.1  # standard deviation
SIZES = {"train": 500, "validation": 350, "test": 447}


@lru_cache(maxsize=32)
def shapes(seed: int) -> Data:
    """[N, 1, 16, 16]: a shape of half-width 3 to 6 somewhere, 0.5 to 1 brighter than a ground between 0 and 0.5, in
    noise of standard deviation ``NOISE``; and which shape it is."""

    def part(name: str) -> Split:
        generator, n = stream(seed, f"shapes {name}"), SIZES[name]
        kind = torch.randint(CLASSES, (n,), generator=generator)
        size, down, right, contrast, ground = torch.rand(5, n, 1, 1, generator=generator, dtype=torch.float32)
        half = 3 + 3 * size
        pixels = torch.arange(SIDE, dtype=torch.float32) + 0.5
        u, v = (
            (pixels.view(view) - half - (SIDE - 2 * half) * place) / half
            for view, place in (((1, SIDE), right), ((SIDE, 1), down))
        )
        shape = torch.stack(inside(u, v))[kind, torch.arange(n)]
        noise = torch.randn(n, SIDE, SIDE, generator=generator, dtype=torch.float32)
        return Split(((0.5 * ground + (0.5 + 0.5 * contrast) * shape + NOISE * noise).unsqueeze(1),), kind)

    return Data(*map(part, SIZES))


def inside(u: Tensor, v: Tensor) -> list[Tensor]:
    """Of each shape, which points right and down of its centre by u and v half-widths belong to it."""
    box, across = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    slant = torch.minimum((u + v).abs(), (u - v).abs())
    radius = torch.sqrt(u**2 + v**2)
    return [
        radius < 1,  # disc
        (radius < 1) & (radius > 0.6),  # ring
        box < 0.9,  # square
        (box < 1) & (box > 0.6),  # frame
        u.abs() + v.abs() < 1,  # diamond
        (box < 1) & (2 * u.abs() < v + 1),  # triangle
        (box < 1) & (across < 0.25),  # cross
        (box < 1) & (slant < 0.35),  # cross that is turned
        (box < 1) & (v.abs() < 0.35),  # bar
        (box < 1) & (u.abs() < 0.35),  # bar that stands
    ]
