"""Equalities between the norms: each holds exactly in mathematics, and here to a few units of float64."""

import numpy as np
import pytest

from normkit import reference

EQUAL = {"rtol": 0, "atol": 1e-14}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_group_norm_with_one_group_is_layer_norm_over_the_sample(rng):
    x, dy = rng.standard_normal((2, 2, 6, 3, 4))
    group, group_cache = reference.group_norm(x, 1)
    layer, layer_cache = reference.layer_norm(x, (6, 3, 4))
    np.testing.assert_allclose(group, layer, **EQUAL)
    np.testing.assert_allclose(
        reference.group_norm_backward(dy, group_cache)[0],
        reference.layer_norm_backward(dy, layer_cache)[0],
        **EQUAL,
    )


def test_group_norm_with_a_group_a_channel_is_instance_norm(rng):
    x, dy = rng.standard_normal((2, 2, 6, 3, 4))
    w, b = rng.standard_normal((2, 6))
    group, group_cache = reference.group_norm(x, 6, w, b)
    instance, instance_cache = reference.instance_norm(x, w, b)
    np.testing.assert_allclose(group, instance, **EQUAL)
    for a, c in zip(
        reference.group_norm_backward(dy, group_cache),
        reference.instance_norm_backward(dy, instance_cache),
        strict=True,
    ):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-13)


def test_batch_norm_of_one_image_is_instance_norm(rng):
    x, dy = rng.standard_normal((2, 1, 6, 3, 4))
    w, b = rng.standard_normal((2, 6))
    batch, batch_cache = reference.batch_norm(x, w, b)
    instance, instance_cache = reference.instance_norm(x, w, b)
    np.testing.assert_allclose(batch, instance, **EQUAL)
    for a, c in zip(
        reference.batch_norm_backward(dy, batch_cache),
        reference.instance_norm_backward(dy, instance_cache),
        strict=True,
    ):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-13)


def test_batch_norm_of_two_samples_is_a_sign_function(rng):
    x = rng.standard_normal((2, 1000))
    y, _ = reference.batch_norm(x, eps=0.0)
    np.testing.assert_allclose(y[0], np.sign(x[0] - x[1]), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(y[1], -y[0])


def test_batch_norm_is_layer_norm_of_the_transpose(rng):
    x = rng.standard_normal((5, 7))
    np.testing.assert_allclose(reference.batch_norm(x)[0], reference.layer_norm(x.T, 5)[0].T, **EQUAL)


def test_layer_norm2d_of_one_pixel_is_layer_norm_of_the_channels(rng):
    x = rng.standard_normal((4, 6, 1, 1))
    y, _ = reference.layer_norm2d(x, eps=1e-5)
    np.testing.assert_allclose(y[:, :, 0, 0], reference.layer_norm(x[:, :, 0, 0], 6)[0], **EQUAL)


def test_layer_norm_is_rms_norm_of_the_centred_row(rng):
    x = rng.standard_normal((4, 6))
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(reference.layer_norm(x, 6)[0], reference.rms_norm(centred, 6, None, 1e-5)[0], **EQUAL)


def test_inference_with_the_batch_s_own_statistics_is_training(rng):
    x = rng.standard_normal((3, 4, 5))
    y, cache = reference.batch_norm(x)
    again, _ = reference.batch_norm_inference(x, cache.mean, cache.var)
    np.testing.assert_allclose(again, y, **EQUAL)


def test_output_ignores_shift_and_positive_scale_of_a_row(rng):
    x = rng.standard_normal((4, 6))
    y, _ = reference.layer_norm(x, 6, eps=0.0)
    np.testing.assert_allclose(reference.layer_norm(3 * x - 8, 6, eps=0.0)[0], y, rtol=0, atol=1e-14)
    y, _ = reference.rms_norm(x, 6, None, 0.0)
    np.testing.assert_allclose(reference.rms_norm(3 * x, 6, None, 0.0)[0], y, rtol=0, atol=1e-14)


def test_sum_of_the_output_has_no_gradient_and_a_random_loss_has(rng):
    """Why no test of a norm uses y.sum() as its loss: sum(y) of a row is constant."""
    x = rng.standard_normal((4, 6))
    _, cache = reference.layer_norm(x, 6)
    np.testing.assert_allclose(reference.layer_norm_backward(np.ones((4, 6)), cache)[0], 0, atol=1e-15)
    assert np.abs(reference.layer_norm_backward(rng.standard_normal((4, 6)), cache)[0]).min() > 1e-3


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_dx_is_a_projection_orthogonal_to_ones_and_x_hat(rng, eps):
    """Orthogonal to ones always; to x_hat exactly at eps = 0, else up to the share of eps in the variance."""
    x, dy = rng.standard_normal((2, 4, 6))
    y, cache = reference.layer_norm(x, 6, eps=eps)
    dx, _, _ = reference.layer_norm_backward(dy, cache)
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-14)
    left = cache.rstd[:, 0] * (dy * y).sum(axis=1) * eps / (cache.var[:, 0] + eps)
    np.testing.assert_allclose((dx * y).sum(axis=1), left, atol=1e-14)


def test_difference_of_raw_moments_loses_the_variance(rng):
    """What the derivations warn of: E[x^2] - E[x]^2 is wrong in float32 where the centred form is right."""
    x = (rng.standard_normal(4096) + 1e4).astype(np.float32)
    raw = np.mean(x * x) - np.mean(x) ** 2
    _, cache = reference.layer_norm(x, 4096)
    np.testing.assert_allclose(cache.var, np.var(x.astype(np.float64)), rtol=1e-9)
    assert abs(raw - cache.var[0]) > 0.5
