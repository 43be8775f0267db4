"""What only InstanceNorm has: unbatched input, layouts, statistics averaged over samples, and its warning."""

import numpy as np
import pytest
import torch

from conformance.oracle import as_float64
from normkit import nn, reference

LAYERS = (
    (nn.InstanceNorm1d, (5, 4, 7)),
    (nn.InstanceNorm2d, (5, 4, 3, 2)),
    (nn.InstanceNorm3d, (5, 4, 2, 3, 2)),
)
every_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: getattr(value, "__name__", ""))


@every_layer
def test_running_statistics_are_averaged_over_samples(
    layer: type, shape: tuple[int, ...], device: torch.device
) -> None:
    module = layer(4, track_running_stats=True, momentum=0.3, device=device)
    expected = reference.RunningStatistics(np.zeros(4), np.ones(4), 0)
    for size in (5, 1, 3):
        x = (torch.randn(size, *shape[1:]) * 2 + 1e4).to(device)
        module(x)
        _, cache = reference.instance_norm(as_float64(x))
        expected = reference.batch_norm_running_update(
            expected.mean, expected.var, 0, cache.mean.mean(0), cache.var.mean(0), x[0, 0].numel(), 0.3
        )
    np.testing.assert_allclose(as_float64(module.running_mean), expected.mean, rtol=1e-6)
    np.testing.assert_allclose(as_float64(module.running_var), expected.var, rtol=1e-5)
    module.eval()
    x = (torch.randn(shape) + 1e4).to(device)
    mean, var = (as_float64(s) for s in (module.running_mean, module.running_var))
    y, _ = reference.batch_norm_inference(as_float64(x), mean, var)
    np.testing.assert_allclose(as_float64(module(x)), y, rtol=1e-5, atol=1e-5)


@every_layer
def test_another_number_of_channels_without_parameters_warns(
    layer: type, shape: tuple[int, ...], device: torch.device
) -> None:
    module = layer(6, device=device)
    x = torch.randn(shape, device=device)
    with pytest.warns(UserWarning, match=rf"{layer.__name__}: expected 6 channels, got 4; .* build it for the number"):
        y = module(x)
    torch.testing.assert_close(y, layer(4, device=device)(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_layer
def test_16_bit_modules_keep_float32_statistics(
    layer: type, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    module = layer(4, track_running_stats=True, device=device, dtype=dtype)
    x = (torch.randn(shape) + 100).to(device, dtype)
    for _ in range(200):
        module(x)
    assert module.running_mean.dtype == torch.float32
    expected = x.float().mean([0, *range(2, x.dim())])
    torch.testing.assert_close(module.running_mean, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("tracking", [True, False], ids=["tracking", "not tracking"])
def test_channels_last_through_a_network(tracking: bool, training: bool, device: torch.device) -> None:
    """No layout changes on the way: convolutions before and after need no copy."""
    module = nn.InstanceNorm2d(4, affine=True, track_running_stats=tracking, device=device).train(training)
    x = torch.randn(2, 4, 5, 5, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = module(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
    torch.testing.assert_close(y, module(x.detach().contiguous()))


def test_momentum_none_leaves_the_statistics(device: torch.device) -> None:
    """torch's InstanceNorm counts no batches, so None cannot average; it takes part as 0."""
    module = nn.InstanceNorm2d(4, track_running_stats=True, momentum=None, device=device)
    module(torch.randn(2, 4, 3, 3, device=device) + 5)
    assert not module.running_mean.any()
