"""Shapes drawn by formula."""

import math

import pytest
import torch

from normkit.claims.experiments._shapes import CLASSES, inside, shapes


def test_every_shape_has_its_area():
    at = (torch.arange(1000, dtype=torch.float64) + 0.5) / 500 - 1
    found = [4 * float(shape.double().mean()) for shape in inside(at[None, :], at[:, None])]
    band, crossing = 4 - 1.65**2, 0.7**2 / 2
    turned_cross = 2 * band - crossing
    areas = [math.pi, math.pi * (1 - 0.6**2), 1.8**2, 4 - 1.2**2, 2, 2, 2 * 1 - 0.25, turned_cross, 1.4, 1.4]
    assert found == pytest.approx(areas, abs=0.01)


def test_shapes_are_bright_on_their_ground():
    split = shapes(0).train
    x, kind = split.inputs[0], split.targets
    assert x.shape == (500, 1, 16, 16)
    assert sorted(set(kind.tolist())) == list(range(CLASSES))
    low, high = x.flatten(1).quantile(0.05, dim=1), x.flatten(1).quantile(0.97, dim=1)
    assert (high - low > 0.4).all()
    assert -0.3 < low.min() < high.max() < 1.8
