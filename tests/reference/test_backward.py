"""Every backward is the derivative of its forward: by differences, and by torch's autograd on plain algebra."""

import numpy as np
import pytest
import torch

from reference import cases

BY_NAME = [pytest.param(case, id=case.name.replace(" ", "-")) for case in cases.ALL]

# The five-point quotient errs by h^4 |f'''''| / 30 + 1.5 u |f| / h. Some groups of these inputs have a standard
# deviation of only 0.1, which lets the fifth derivative reach 1e6: with h = 2e-4 the first term is 5e-11, and with
# a loss of order 10 the second is 1e-11. A term left out of a backward changes a gradient by order 1e-2 to 1.
STEP = 2e-4
DIFFERENCE_TOLERANCE = 3e-10

# Both sides are float64 and do some hundred operations on numbers of order 1 to 100: 1e2 * 1e2 * 1.1e-16.
AUTOGRAD_TOLERANCE = 1e-12


def random_like(outputs, seed=1):
    """Never ones: the sum of a normalized row is constant, and the gradient of a constant tests nothing."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(out.shape) for out in outputs)


@pytest.mark.parametrize("case", BY_NAME)
def test_backward_is_the_difference_quotient_of_the_forward(case):
    inputs = case.inputs()
    outputs, cache = case.forward(inputs)
    douts = random_like(outputs)
    gradients = case.backward(douts, cache)

    def loss(name, at, shift):
        moved = {key: value.copy() for key, value in inputs.items()}
        moved[name][at] += shift
        return sum(float((d * out).sum()) for d, out in zip(douts, case.forward(moved)[0], strict=True))

    assert gradients.keys() == inputs.keys()
    for name, value in inputs.items():
        quotient = np.empty_like(value)
        for at in np.ndindex(value.shape):
            near, far = ([loss(name, at, s * k * STEP) for s in (1, -1)] for k in (1, 2))
            quotient[at] = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * STEP)
        scale = max(1.0, np.abs(quotient).max())
        np.testing.assert_allclose(gradients[name], quotient, rtol=0, atol=DIFFERENCE_TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize("case", BY_NAME)
@pytest.mark.parametrize("seed", [2, 3])
def test_forward_and_backward_agree_with_torch_autograd_on_plain_algebra(case, seed):
    inputs = case.inputs(seed)
    outputs, cache = case.forward(inputs)
    douts = random_like(outputs, seed + 10)
    gradients = case.backward(douts, cache)

    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in inputs.items()}
    plain = case.plain(tensors)
    expected = torch.autograd.grad(plain, list(tensors.values()), [torch.from_numpy(d) for d in douts])

    for out, plain_out in zip(outputs, plain, strict=True):
        np.testing.assert_allclose(out, plain_out.detach().numpy(), rtol=0, atol=AUTOGRAD_TOLERANCE)
    for (name, value), plain_gradient in zip(gradients.items(), expected, strict=True):
        scale = max(1.0, float(plain_gradient.abs().max()))
        np.testing.assert_allclose(value, plain_gradient.numpy(), rtol=0, atol=AUTOGRAD_TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize("case", BY_NAME)
def test_neither_forward_nor_backward_changes_its_arguments(case):
    inputs = case.inputs()
    before = {name: value.copy() for name, value in inputs.items()}
    outputs, cache = case.forward(inputs)
    douts = random_like(outputs)
    douts_before = [d.copy() for d in douts]
    case.backward(douts, cache)

    for name, value in inputs.items():
        np.testing.assert_array_equal(value, before[name])
    for d, d_before in zip(douts, douts_before, strict=True):
        np.testing.assert_array_equal(d, d_before)
