"""What only BatchNorm has: running statistics, their precision, their average, and what they do in evaluation."""

import copy
import itertools

import numpy as np
import pytest
import torch

from conformance.oracle import as_float64
from normkit import nn, reference
from normkit.errors import SingleValueError

LOW_PRECISION = (torch.bfloat16, torch.float16)
LAYERS = ((nn.BatchNorm1d, (64, 4)), (nn.BatchNorm2d, (8, 4, 4, 2)), (nn.BatchNorm3d, (8, 4, 2, 2, 2)))
every_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: getattr(value, "__name__", ""))


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, 0.7, None])
@every_layer
def test_running_statistics_follow_the_definition(
    layer: type, shape: tuple[int, ...], momentum: float | None, device: torch.device
) -> None:
    module = layer(4, momentum=momentum, device=device)
    expected = reference.RunningStatistics(np.zeros(4), np.ones(4), 0)
    for size in (shape[0], 2, shape[0] + 3, 5):
        x = (torch.randn(size, *shape[1:]) * 2 + 3).to(device)
        module(x)
        _, cache = reference.batch_norm(as_float64(x))
        expected = reference.batch_norm_running_update(
            expected.mean, expected.var, expected.num_batches_tracked, cache.mean, cache.var, x.numel() // 4, momentum
        )
        np.testing.assert_allclose(as_float64(module.running_mean), expected.mean, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(as_float64(module.running_var), expected.var, rtol=2e-6)
        assert module.num_batches_tracked == expected.num_batches_tracked


@pytest.mark.parametrize("offset", [1e4, 1e6], ids="{:g}".format)
@every_layer
def test_running_variance_far_from_zero(
    layer: type, shape: tuple[int, ...], offset: float, device: torch.device
) -> None:
    """Never E[x²] − E[x]²: at 10⁶ σ that keeps no digit in float32."""
    module = layer(4, momentum=1.0, device=device)
    x = (torch.randn(shape) + offset).to(device)
    module(x)
    _, cache = reference.batch_norm(as_float64(x))
    count = x.numel() // 4
    np.testing.assert_allclose(as_float64(module.running_var), cache.var * count / (count - 1), rtol=1e-6)
    np.testing.assert_allclose(as_float64(module.running_mean), cache.mean, rtol=1e-7)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@every_layer
def test_16_bit_modules_keep_float32_statistics(
    layer: type, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Built so, converted, or both: the running mean of data around 100 arrives at 100, and not at 96."""
    built = layer(4, dtype=dtype, device=device)
    converted = layer(4, device=device).to(dtype)
    x = (torch.randn(shape) + 100).to(device, dtype)
    mean = x.float().mean([0, *range(2, x.dim())])
    for module in (built, converted, copy.deepcopy(converted)):
        assert module.weight.dtype == dtype
        for _ in range(200):
            y = module(x)
        assert y.dtype == dtype
        assert module.running_mean.dtype == module.running_var.dtype == torch.float32
        torch.testing.assert_close(module.running_mean, mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_16_bit_statistics_of_a_checkpoint_are_widened(dtype: torch.dtype, device: torch.device) -> None:
    """torch's 16-bit layer has 16-bit buffers; loading them into ours keeps ours in float32."""
    theirs = torch.nn.BatchNorm1d(4, dtype=dtype, device=device)
    theirs.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 96.0]))
    ours = nn.BatchNorm1d(4, dtype=dtype, device=device)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.running_mean.dtype == torch.float32
    assert torch.equal(ours.running_mean, theirs.running_mean.float())
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_assigned_16_bit_statistics_still_work(device: torch.device) -> None:
    """load_state_dict(assign=True) puts torch's 16-bit buffers in place of ours, and they are updated as torch's."""
    theirs = torch.nn.BatchNorm1d(4, dtype=torch.bfloat16, device=device)
    ours = nn.BatchNorm1d(4, dtype=torch.bfloat16, device=device)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(8, 4, device=device).bfloat16()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-2, atol=1e-2)
    assert ours.running_mean.dtype == torch.bfloat16
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_moving_a_16_bit_module_moves_its_statistics(device: torch.device) -> None:
    module = nn.BatchNorm2d(4, dtype=torch.bfloat16).to(device, torch.float16)
    assert module.running_mean.device.type == device.type
    assert module.running_mean.dtype == torch.float32
    parent = torch.nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)).half()
    assert {b.dtype for b in parent.buffers()} == {torch.float32, torch.int64}
    assert parent.double()[0].running_mean.dtype == torch.float64


@every_layer
def test_a_single_value_a_channel(layer: type, shape: tuple[int, ...], device: torch.device) -> None:
    """An error in training, which changes nothing; the running statistics' business in evaluation."""
    module = layer(4, device=device)
    x = torch.randn(1, 4, *[1] * (len(shape) - 2), device=device)
    with pytest.raises(SingleValueError, match=r"expected more than 1 value per channel .* use a larger batch"):
        module(x)
    assert module.num_batches_tracked == 0
    assert module.eval()(x).shape == x.shape


def test_two_values_a_channel(device: torch.device) -> None:
    """±1/sqrt(1 + eps/σ²), for any two different values; the running variance is the unbiased 2σ²."""
    module = nn.BatchNorm1d(1, momentum=1.0, affine=False, device=device)
    y = module(torch.tensor([[1e6], [1e6 + 2]], device=device))
    torch.testing.assert_close(y.flatten().tolist(), [-1.0, 1.0], rtol=0, atol=1e-5)
    assert module.running_var.item() == 2.0


@pytest.mark.parametrize("track", [True, False], ids=["tracking", "not tracking"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_settings_changed_after_construction(training: bool, track: bool, device: torch.device) -> None:
    """torch's layers read their attributes at each call, and people do change them: freezing, recalibrating."""
    for momentum, drop in itertools.product((0.5, None), (False, True)):
        ours = nn.BatchNorm1d(4, device=device)
        theirs = torch.nn.BatchNorm1d(4, device=device)
        for module in (ours, theirs):
            module.train(training)
            module.track_running_stats = track
            module.momentum = momentum
            if drop:
                module.running_mean = module.running_var = None
        x = torch.randn(6, 4, device=device) + 2
        torch.testing.assert_close(ours(x), theirs(x))
        for name, value in theirs.named_buffers():
            torch.testing.assert_close(getattr(ours, name), value)


def test_evaluation_with_a_huge_mean_is_exact(device: torch.device) -> None:
    """(x − mean) · rstd · w + b, not x · scale + shift: nothing cancels but x and the mean themselves."""
    module = nn.BatchNorm1d(3, device=device).eval()
    module.running_mean.copy_(torch.tensor([1e6, -1e6, 3e5]))
    x = (torch.randn(50, 3) + module.running_mean.cpu()).to(device)
    mean, var = (as_float64(s) for s in (module.running_mean, module.running_var))
    expected, _ = reference.batch_norm_inference(as_float64(x), mean, var)
    np.testing.assert_allclose(as_float64(module(x)), expected, rtol=1e-6, atol=1e-6)


def test_a_batch_of_zero_samples_counts_as_a_batch(device: torch.device) -> None:
    """As in torch: num_batches_tracked moves, the statistics do not."""
    ours, theirs = nn.BatchNorm1d(4, device=device), torch.nn.BatchNorm1d(4, device=device)
    for module in (ours, theirs):
        module(torch.randn(0, 4, device=device))
    for name, value in theirs.named_buffers():
        assert torch.equal(getattr(ours, name), value), name


def test_the_largest_numbers_leave_finite_statistics_where_they_fit(device: torch.device) -> None:
    module = nn.BatchNorm1d(1, momentum=1.0, device=device)
    x = torch.tensor(
        [[1e19], [-1e19], [3e18]], device=device
    )  # the variance fits, the sum of squares of 1e20 would not
    module(x)
    np.testing.assert_allclose(module.running_var.item(), x.double().var().item(), rtol=1e-6)
    module(x * 1e10)  # the variance does not fit: infinite, as the definition's value in float32
    assert module.running_var.isinf().all()
    assert module.running_mean.isfinite().all()


def test_the_average_of_a_float64_layer_is_one_of_float64() -> None:
    """With 1/3 in float32, the average over three batches was right to 1e-8 only."""
    layer = nn.BatchNorm1d(4, momentum=None, dtype=torch.float64)
    batches = torch.randn(7, 5, 4, dtype=torch.float64) + 100
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, batches.mean((0, 1)), rtol=1e-14, atol=0)
