"""The running statistics against torch's modules over several batches."""

import numpy as np
import pytest
import torch

from normkit import reference
from normkit.errors import ArgumentError


def updated(before, x, momentum):
    _, cache = reference.batch_norm(x)
    count = x.numel() // x.shape[1] if x.shape[1] else 0
    return reference.batch_norm_running_update(*before, cache.mean, cache.var, count, momentum)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 2, 2)], ids=lambda s: "x".join(map(str, s)))
def test_three_batches_update_as_torch_does(momentum, shape):
    torch.manual_seed(0)
    module = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    layer = module(3, momentum=momentum, dtype=torch.float64)
    after = reference.RunningStatistics(np.zeros(3), np.ones(3), 0)
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64)
        layer(x)
        after = updated(after, x, momentum)
    np.testing.assert_allclose(after.mean, layer.running_mean.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(after.var, layer.running_var.numpy(), rtol=0, atol=1e-14)
    assert after.num_batches_tracked == layer.num_batches_tracked.item() == 3


def test_no_momentum_makes_the_plain_average_of_the_batches():
    rng = np.random.default_rng(0)
    batches = rng.standard_normal((5, 4, 3))
    after = reference.RunningStatistics(np.full(3, 99.0), np.full(3, 99.0), 0)
    for x in batches:
        after = updated(after, torch.from_numpy(x), None)
    np.testing.assert_allclose(after.mean, batches.mean(axis=(0, 1)), rtol=0, atol=1e-14)
    np.testing.assert_allclose(after.var, batches.var(axis=1, ddof=1).mean(axis=0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0)], ids=["no samples", "no positions"])
def test_empty_batch_is_counted_but_changes_no_statistic_as_in_torch(shape):
    layer = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    x = torch.empty(shape, dtype=torch.float64)
    layer(x)
    after = updated(reference.RunningStatistics(np.zeros(3), np.ones(3), 0), x, 0.1)
    np.testing.assert_array_equal(after.mean, layer.running_mean.numpy())
    np.testing.assert_array_equal(after.var, layer.running_var.numpy())
    assert after.num_batches_tracked == layer.num_batches_tracked.item() == 1


def test_instance_norm_tracks_the_average_over_its_samples():
    torch.manual_seed(0)
    layer = torch.nn.InstanceNorm1d(3, track_running_stats=True, affine=True, dtype=torch.float64)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    layer(x)
    _, cache = reference.instance_norm(x)
    mean, var, _ = reference.batch_norm_running_update(
        np.zeros(3), np.ones(3), 0, cache.mean.mean(axis=0), cache.var.mean(axis=0), count=5
    )
    np.testing.assert_allclose(mean, layer.running_mean.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(var, layer.running_var.numpy(), rtol=0, atol=1e-14)

    y, _ = reference.batch_norm_inference(x, mean, var)
    np.testing.assert_allclose(y, layer.eval()(x).detach().numpy(), rtol=0, atol=1e-13)


def test_update_leaves_its_arguments_alone():
    mean, var = np.zeros(2), np.ones(2)
    reference.batch_norm_running_update(mean, var, 0, [1.0, 1.0], [2.0, 2.0], 0)[0][:] = 7
    reference.batch_norm_running_update(mean, var, 0, [1.0, 1.0], [2.0, 2.0], 4)[0][:] = 7
    np.testing.assert_array_equal(mean, np.zeros(2))
    np.testing.assert_array_equal(var, np.ones(2))


def test_one_value_has_no_sample_variance():
    with pytest.raises(ArgumentError, match=r"expected a count other than 1, got 1: .*; use a larger batch"):
        reference.batch_norm_running_update([0.0], [1.0], 0, [0.0], [0.0], count=1)
