"""Pools of batches: equal to one batch of all the values, whatever their sizes, offsets and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normkit.pooling import merge_all, nothing, pool

SIZES = (1, 7, 0, 64, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4], ids="{:g}".format)
@pytest.mark.parametrize("tail", [(), (3, 2)], ids=str)
def test_merged_pools_are_those_of_all_values(tail: tuple[int, ...], offset: float, dtype: torch.dtype) -> None:
    batches = [
        (torch.randn(n, 4, *tail, dtype=torch.float64) * (i + 1) + offset + i).to(dtype) for i, n in enumerate(SIZES)
    ]
    every = torch.cat(batches).double().transpose(0, 1).flatten(1).numpy()
    pools = [pool(x) for x in batches]
    for found in (merge_all(pools), merge_all(pools[::-1]), pool(torch.cat(batches))):
        assert found.n.tolist() == [every.shape[1]] * 4
        # Moments within a batch are computed in x's precision, float32 at least, to a few units in the last place of
        # its spread; a mean is a float64.
        u = 2.0**-52 if dtype == torch.float64 else 2.0**-23
        std, mean_rounding = every.std(1), 2.0**-52 * np.abs(every.mean(1))
        np.testing.assert_array_less(np.abs(found.mean.numpy() - every.mean(1)), 8 * u * std + 4 * mean_rounding)
        for convention, ddof in (("unbiased", 1), ("biased", 0)):
            error = np.abs(found.variance(convention).numpy() - every.var(1, ddof=ddof))
            # The batches' means lie apart by some spreads, each difference rounded as the means are.
            np.testing.assert_array_less(error, 16 * u * std**2 + 8 * mean_rounding * std + 1e-300)


def test_nothing_is_the_neutral_element() -> None:
    values = pool(torch.randn(5, 3))
    for found in (nothing(3).merge(values), values.merge(nothing(3)), merge_all([values])):
        for got, expected in zip(found, values, strict=True):
            assert torch.equal(got, expected)
    assert nothing(3).merge(nothing(3)).variance("unbiased").tolist() == [0.0] * 3


def test_the_largest_numbers() -> None:
    x = torch.tensor([[3e38], [-3e38], [0.0]])
    np.testing.assert_allclose(pool(x).variance("biased").item(), 6e76, rtol=1e-6)


def test_derivatives_of_merged_pools() -> None:
    x, y = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    assert torch.autograd.gradcheck(lambda x, y: merge_all([pool(x), nothing(2), pool(y)])[1:], (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: merge_all([pool(x), pool(y)])[1:], (x, y))
