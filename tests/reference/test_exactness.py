"""The reference against the 60-digit definitions: right to a few units of float64, wherever the input lies."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from normkit import reference
from reference import definitions

UNIT = 2.0**-53

# y is centred * rstd * w + b. Centring, the variance, the root and the four operations err by half a unit each,
# and a pairwise mean of 1000 squares by some (16 + log2 1000) / 2 units at worst, about 1 in practice. Worst
# measured 2.8 units; a mean taken off once only would miss by 1e6 units at an offset of 1e6. A float32 ulp is
# 2**30 units.
FORWARD_UNITS = 8
# A gradient sums three terms that may cancel: units of its largest element. Worst measured 2.2.
BACKWARD_UNITS = 16

KINDS = {
    "layer_norm": (
        definitions.layer_norm(2),
        (2, 2, 4),
        (4,),
        lambda x, w, b, eps: reference.layer_norm(x, 4, w, b, eps),
        reference.layer_norm_backward,
    ),
    "layer_norm over two axes": (
        definitions.layer_norm(1),
        (2, 3, 2),
        (3, 2),
        lambda x, w, b, eps: reference.layer_norm(x, (3, 2), w, b, eps),
        reference.layer_norm_backward,
    ),
    "layer_norm2d": (
        definitions.layer_norm2d,
        (1, 5, 2, 2),
        (5,),
        reference.layer_norm2d,
        reference.layer_norm2d_backward,
    ),
    "batch_norm": (
        definitions.batch_norm,
        (3, 2, 2),
        (2,),
        reference.batch_norm,
        reference.batch_norm_backward,
    ),
    "group_norm": (
        definitions.group_norm(2),
        (2, 4, 2),
        (4,),
        lambda x, w, b, eps: reference.group_norm(x, 2, w, b, eps),
        reference.group_norm_backward,
    ),
    "instance_norm": (
        definitions.instance_norm,
        (2, 2, 4),
        (2,),
        reference.instance_norm,
        reference.instance_norm_backward,
    ),
}
by_kind = pytest.mark.parametrize("kind", [pytest.param(v, id=k.replace(" ", "-")) for k, v in KINDS.items()])


def float32_numbers(rng, shape, offset, magnitude):
    """Normal numbers `offset` standard deviations from zero, times magnitude, each exactly a float32."""
    return ((rng.standard_normal(shape) + offset) * magnitude).astype(np.float32).astype(np.float64)


def units_off(y, exact, scale):
    """The largest |y - exact| in units of 2**-53 * scale, the subtraction at 60 digits."""
    with mpmath.workdps(definitions.DIGITS):
        error = np.vectorize(lambda got, want: float(abs(mpmath.mpf(got) - want)))(y, exact)
    return np.max(error / scale) / UNIT


def output_scale(y, x_hat, w, b):
    """No sum can be better than its terms: |y|, |b|, or |w| (1 + |x_hat|), 1 for the mean in units of sigma."""
    return np.maximum(np.maximum(np.abs(y), np.abs(b)), np.abs(w) * (1 + np.abs(x_hat)))


@by_kind
@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
@pytest.mark.parametrize("magnitude", [1e-30, 1, 1e30])
def test_forward_is_its_definition(kind, offset, magnitude):
    definition, shape, parameter_shape, forward, _ = kind
    rng = np.random.default_rng(0)
    x = float32_numbers(rng, shape, offset, magnitude)
    w, b = rng.standard_normal(parameter_shape), rng.standard_normal(parameter_shape)
    eps = 1e-3 * min(1, magnitude) ** 2

    y, cache = forward(x, w, b, eps)
    exact = definitions.forward(definition, x, w, b, eps)

    if len(shape) > 2 and parameter_shape == shape[1:2]:
        w, b = (p.reshape(-1, *[1] * (len(shape) - 2)) for p in (w, b))
    assert units_off(y, exact, output_scale(y, cache.x_hat, w, b)) <= FORWARD_UNITS


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
@pytest.mark.parametrize("magnitude", [1e-30, 1, 1e30])
def test_forward_of_long_rows_is_its_definition(offset, magnitude):
    rng = np.random.default_rng(1)
    x = float32_numbers(rng, (2, 1000), offset, magnitude)
    w, b = rng.standard_normal(1000), rng.standard_normal(1000)
    eps = 1e-5 * min(1, magnitude) ** 2

    y, cache = reference.layer_norm(x, 1000, w, b, eps)
    exact = definitions.forward(definitions.layer_norm(1), x, w, b, eps)
    assert units_off(y, exact, output_scale(y, cache.x_hat, w, b)) <= FORWARD_UNITS

    y, cache = reference.rms_norm(x, 1000, w, eps)
    exact = definitions.forward(definitions.rms_norm(1), x, w, np.zeros(1000), eps)
    assert units_off(y, exact, np.abs(y)) <= FORWARD_UNITS


@by_kind
@pytest.mark.parametrize("offset", [0, 1e6])
def test_backward_is_the_derivative_of_the_definition(kind, offset):
    definition, shape, parameter_shape, forward, backward = kind
    rng = np.random.default_rng(2)
    x = float32_numbers(rng, shape, offset, 1)
    w, b = rng.standard_normal(parameter_shape), rng.standard_normal(parameter_shape)
    dy = rng.standard_normal(shape)

    _, cache = forward(x, w, b, 1e-3)
    for got, want in zip(backward(dy, cache), definitions.gradients(definition, dy, x, w, b, 1e-3), strict=True):
        assert got.shape == want.shape
        assert np.max(np.abs(got - want)) <= BACKWARD_UNITS * UNIT * np.max(np.abs(want))


@pytest.mark.parametrize("offset", [0, 1e6])
def test_rms_norm_backward_is_the_derivative_of_the_definition(offset):
    rng = np.random.default_rng(3)
    x, w, dy = float32_numbers(rng, (3, 4), offset, 1), rng.standard_normal(4), rng.standard_normal((3, 4))

    _, cache = reference.rms_norm(x, 4, w, 1e-3)
    dx, dw = reference.rms_norm_backward(dy, cache)
    want_dx, want_dw, _ = definitions.gradients(definitions.rms_norm(1), dy, x, w, np.zeros(4), 1e-3)

    # dx is a difference of terms of size rstd * |dy * w|, of which little may remain: rows far from zero
    # change their direction little.
    assert np.max(np.abs(dx - want_dx)) <= BACKWARD_UNITS * UNIT * np.max(cache.rstd * np.abs(dy * w))
    assert np.max(np.abs(dw - want_dw)) <= BACKWARD_UNITS * UNIT * np.max(np.abs(want_dw))


def test_mean_is_correctly_rounded_and_variance_is_the_population_variance():
    x = np.random.default_rng(5).standard_normal((40, 300)) + 1e6
    _, cache = reference.layer_norm(x, 300)
    for row, mean, var in zip(x, cache.mean[:, 0], cache.var[:, 0], strict=True):
        exact = [Fraction(value) for value in row]
        exact_mean = sum(exact) / 300
        exact_var = sum((value - exact_mean) ** 2 for value in exact) / 300
        assert mean == float(exact_mean)
        assert abs(Fraction(var) - exact_var) <= FORWARD_UNITS * Fraction(UNIT) * exact_var


@pytest.mark.parametrize("value", [0.1, -7e-33, 3.3e38, 1e149, np.pi * 1e6])
@pytest.mark.parametrize("n", [1, 3, 1000, 65537])
def test_constant_rows_give_exactly_the_bias(value, n):
    w, b = np.full(n, 3.0), np.full(n, 0.7)
    y, _ = reference.layer_norm(np.full((2, n), value), n, w, b, 1e-5)
    np.testing.assert_array_equal(y, np.full((2, n), 0.7))


@pytest.mark.parametrize("n", [2, 5])
def test_variance_far_below_eps_is_not_lost_in_it(n):
    """x_hat is then (x - mean) / sqrt(eps), down to float32's least number."""
    x = np.zeros((1, n))
    x[0, 0] = 1.4e-45
    y, _ = reference.layer_norm(x, n, eps=1e-5)
    np.testing.assert_allclose(y[0, 0], 1.4e-45 * (1 - 1 / n) / np.sqrt(1e-5), rtol=1e-15)


@by_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_with_the_elements_they_share_a_mean_with(kind, bad):
    definition, shape, parameter_shape, forward, backward = kind
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    first = (0,) * len(shape)
    x[first] = bad
    y, cache = forward(x, np.ones(parameter_shape), np.zeros(parameter_shape), 1e-5)
    dx, _, _ = backward(dy, cache)
    for at in np.ndindex(shape):
        spoilt = definition.group_of(at) == definition.group_of(first)
        assert np.isnan(y[at]) == spoilt
        assert np.isnan(dx[at]) == spoilt
