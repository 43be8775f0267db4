"""The reference against torch's own functions in float64, on ordinary input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from normkit import reference

# Both in float64 on numbers of order 1; torch's variance may lose a few digits, the reference none.
TOLERANCE = 1e-13

SHAPES = [(4, 6), (2, 6, 5), (3, 6, 4, 2), (2, 6, 2, 3, 2)]
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
with_affine = pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])


def tensors(shape, parameter_shape, affine):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(s, dtype=torch.float64, generator=generator) for s in (shape, parameter_shape, parameter_shape)
    )
    return (x, w, b) if affine else (x, None, None)


def assert_close(got, want):
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=TOLERANCE)


@by_shape
@with_affine
def test_layer_norm(shape, affine):
    x, w, b = tensors(shape, shape[1:], affine)
    y, _ = reference.layer_norm(x, shape[1:], w, b, eps=1e-4)
    assert_close(y, F.layer_norm(x, shape[1:], w, b, eps=1e-4))


@by_shape
@with_affine
def test_layer_norm_statistics_have_torch_shapes(shape, affine):
    x, w, b = tensors(shape, shape[-1:], affine)
    _, cache = reference.layer_norm(x, shape[-1], w, b)
    _, mean, rstd = torch.native_layer_norm(x, shape[-1:], w, b, 1e-5)
    assert_close(cache.mean, mean)
    assert_close(cache.rstd, rstd)


@by_shape
@with_affine
def test_rms_norm(shape, affine):
    x, w, _ = tensors(shape, shape[1:], affine)
    y, _ = reference.rms_norm(x, shape[1:], w, 1e-4)
    assert_close(y, F.rms_norm(x, shape[1:], w, eps=1e-4))


@by_shape
@with_affine
@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_group_norm(shape, affine, num_groups):
    x, w, b = tensors(shape, shape[1:2], affine)
    y, cache = reference.group_norm(x, num_groups, w, b, eps=1e-4)
    assert_close(y, F.group_norm(x, num_groups, w, b, eps=1e-4))
    assert cache.mean.shape == cache.var.shape == cache.rstd.shape == (shape[0], num_groups)


@by_shape
@with_affine
def test_batch_norm(shape, affine):
    x, w, b = tensors(shape, shape[1:2], affine)
    y, _ = reference.batch_norm(x, w, b, eps=1e-4)
    assert_close(y, F.batch_norm(x, None, None, w, b, training=True, eps=1e-4))


@by_shape
@with_affine
def test_batch_norm_inference(shape, affine):
    x, w, b = tensors(shape, shape[1:2], affine)
    mean = torch.linspace(-1, 1, 6, dtype=torch.float64)
    var = torch.linspace(0.1, 3, 6, dtype=torch.float64)
    y, _ = reference.batch_norm_inference(x, mean, var, w, b, eps=1e-4)
    assert_close(y, F.batch_norm(x, mean, var, w, b, training=False, eps=1e-4))


@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda shape: "x".join(map(str, shape)))
@with_affine
def test_instance_norm(shape, affine):
    x, w, b = tensors(shape, shape[1:2], affine)
    y, cache = reference.instance_norm(x, w, b, eps=1e-4)
    assert_close(y, F.instance_norm(x, weight=w, bias=b, eps=1e-4))
    assert cache.mean.shape == cache.var.shape == cache.rstd.shape == shape[:2]


@with_affine
def test_layer_norm2d_is_layer_norm_of_the_channels_last_view(affine):
    x, w, b = tensors((3, 6, 4, 2), (6,), affine)
    y, _ = reference.layer_norm2d(x, w, b, eps=1e-4)
    assert_close(y, F.layer_norm(x.permute(0, 2, 3, 1), (6,), w, b, eps=1e-4).permute(0, 3, 1, 2))


def test_default_eps_is_torch_s():
    """On input so small that eps is all there is below the fraction."""
    x = torch.tensor([[[1e-9, -1e-9], [3e-9, 2e-9]]], dtype=torch.float64)
    mean, var = torch.zeros(2, dtype=torch.float64), torch.full((2,), 1e-18, dtype=torch.float64)
    for y, want in [
        (reference.layer_norm(x, 2)[0], F.layer_norm(x, (2,))),
        (reference.add_layer_norm(x, 0 * x, 2)[0], F.layer_norm(x, (2,))),
        (reference.group_norm(x, 1)[0], F.group_norm(x, 1)),
        (reference.instance_norm(x)[0], F.instance_norm(x)),
        (reference.batch_norm(x)[0], F.batch_norm(x, None, None, training=True)),
        (reference.batch_norm_inference(x, mean, var)[0], F.batch_norm(x, mean, var)),
        (reference.layer_norm2d(x[..., None])[0][..., 0], F.layer_norm(x.mT, (2,), eps=1e-6).mT),
    ]:
        np.testing.assert_allclose(y, want.numpy(), rtol=1e-12)
