"""What the reference accepts and refuses: shapes at the edges, and the words of every error."""

import numpy as np
import pytest

from normkit import reference
from normkit.errors import ArgumentError, ShapeError

X = np.zeros((2, 6, 3, 3))

REFUSED = {
    "negative eps": (
        lambda: reference.layer_norm(X, 3, eps=-1e-5),
        ArgumentError,
        "layer_norm: expected a finite eps >= 0, got -1e-05; use 1e-5, say.",
    ),
    "eps not a number": (
        lambda: reference.rms_norm(X, 3, None, float("nan")),
        ArgumentError,
        "rms_norm: expected a finite eps >= 0, got nan; use 1e-5, say.",
    ),
    "normalized_shape elsewhere": (
        lambda: reference.layer_norm(X, 6),
        ShapeError,
        "layer_norm: expected normalized_shape to be the last dimensions of x, got (6,) for x of shape "
        "(2, 6, 3, 3); pass the sizes of the last dimensions, x.shape[-1:] for one.",
    ),
    "normalized_shape empty": (
        lambda: reference.rms_norm(X, (), None, 1e-5),
        ShapeError,
        "rms_norm: expected normalized_shape to be the last dimensions of x, got () for x of shape "
        "(2, 6, 3, 3); pass the sizes of the last dimensions, x.shape[-1:] for one.",
    ),
    "a number without dimensions": (
        lambda: reference.layer_norm(3.0, ()),
        ShapeError,
        "layer_norm: expected normalized_shape to be the last dimensions of x, got () for x of shape (); "
        "pass the sizes of the last dimensions, x.shape[-1:] for one.",
    ),
    "weight of the right size in another shape": (
        lambda: reference.batch_norm(X, weight=np.ones((6, 1))),
        ShapeError,
        "batch_norm: expected weight of shape (6,), got (6, 1); pass an array of that shape.",
    ),
    "weight that would broadcast": (
        lambda: reference.layer_norm(X, (3, 3), weight=np.ones(3)),
        ShapeError,
        "layer_norm: expected weight of shape (3, 3), got (3,); pass an array of that shape.",
    ),
    "bias of another length": (
        lambda: reference.batch_norm(X, bias=np.ones(3)),
        ShapeError,
        "batch_norm: expected bias of shape (6,), got (3,); pass an array of that shape.",
    ),
    "batch_norm of a vector": (
        lambda: reference.batch_norm(np.ones(3)),
        ShapeError,
        "batch_norm: expected x of at least 2 dimensions [N, C, *spatial], got shape (3,); "
        "add the missing dimension with x[None] or reshape.",
    ),
    "instance_norm without space": (
        lambda: reference.instance_norm(np.ones((2, 3))),
        ShapeError,
        "instance_norm: expected x of at least 3 dimensions [N, C, *spatial], got shape (2, 3); "
        "add the missing dimension with x[None] or reshape.",
    ),
    "layer_norm2d of a sequence": (
        lambda: reference.layer_norm2d(np.ones((2, 3, 4))),
        ShapeError,
        "layer_norm2d: expected x of 4 dimensions [N, C, H, W], got shape (2, 3, 4); "
        "use layer_norm to normalize over the last dimensions.",
    ),
    "groups that do not divide": (
        lambda: reference.group_norm(X, 4),
        ArgumentError,
        "group_norm: expected num_groups that divides the 6 channels of x, got 4; use one of [1, 2, 3, 6].",
    ),
    "no groups": (
        lambda: reference.group_norm(X, 0),
        ArgumentError,
        "group_norm: expected num_groups that divides the 6 channels of x, got 0; use one of [1, 2, 3, 6].",
    ),
    "running_var of another length": (
        lambda: reference.batch_norm_inference(X, np.zeros(6), np.ones(5)),
        ShapeError,
        "batch_norm_inference: expected running_var of shape (6,), got (5,); pass an array of that shape.",
    ),
    "dy of another shape": (
        lambda: reference.layer_norm_backward(np.ones(3), reference.layer_norm(X, 3)[1]),
        ShapeError,
        "layer_norm_backward: expected dy of shape (2, 6, 3, 3), got (3,); pass an array of that shape.",
    ),
    "residual of another shape": (
        lambda: reference.add_layer_norm(X, np.ones(3), 3),
        ShapeError,
        "add_layer_norm: expected residual of shape (2, 6, 3, 3), got (3,); pass an array of that shape.",
    ),
    "a sequence for a step": (
        lambda: reference.layer_norm_rnn_step(
            np.ones((7, 2, 1)), np.ones((2, 1)), weight_ih=[[1.0]], weight_hh=[[1.0]]
        ),
        ShapeError,
        "layer_norm_rnn_step: expected x of shape [N, I] and h of shape [N, H], got (7, 2, 1) and (2, 1); "
        "pass one time step of a batch, x[None] for a single sample.",
    ),
    "weights of another cell": (
        lambda: reference.layer_norm_lstm_step(
            [[1.0]], [[1.0]], [[1.0]], weight_ih=np.ones((3, 1)), weight_hh=np.ones((4, 1))
        ),
        ShapeError,
        "layer_norm_lstm_step: expected weight_ih of shape (4, 1), got (3, 1); pass an array of that shape.",
    ),
    "norm's weight by its own name": (
        lambda: reference.layer_norm_gru_step(
            [[1.0]], [[1.0]], weight_ih=np.ones((3, 1)), weight_hh=np.ones((3, 1)), ln_hh_weight=[1.0]
        ),
        ShapeError,
        "layer_norm_gru_step: expected ln_hh_weight of shape (3,), got (1,); pass an array of that shape.",
    ),
}


@pytest.mark.parametrize(
    ("call", "error", "message"), [pytest.param(*v, id=k.replace(" ", "-")) for k, v in REFUSED.items()]
)
def test_refusal_says_the_rule_the_value_and_what_to_do(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


EDGES = {
    "layer_norm no rows": ((0, 4), (4,), lambda x: reference.layer_norm(x, 4), reference.layer_norm_backward),
    "layer_norm empty rows": (
        (3, 0),
        (0,),
        lambda x: reference.layer_norm(x, 0),
        reference.layer_norm_backward,
    ),
    "layer_norm one element": (
        (3, 1),
        (1,),
        lambda x: reference.layer_norm(x, 1),
        reference.layer_norm_backward,
    ),
    "batch_norm no samples": ((0, 3, 2), (3,), reference.batch_norm, reference.batch_norm_backward),
    "batch_norm no channels": ((2, 0, 2), (0,), reference.batch_norm, reference.batch_norm_backward),
    "batch_norm one value": ((1, 3), (3,), reference.batch_norm, reference.batch_norm_backward),
    "group_norm no samples": (
        (0, 4, 2),
        (4,),
        lambda x: reference.group_norm(x, 2),
        reference.group_norm_backward,
    ),
    "group_norm no positions": (
        (2, 4, 0),
        (4,),
        lambda x: reference.group_norm(x, 2),
        reference.group_norm_backward,
    ),
    "group_norm one value": (
        (2, 4),
        (4,),
        lambda x: reference.group_norm(x, 4),
        reference.group_norm_backward,
    ),
    "instance_norm no positions": (
        (2, 3, 0),
        (3,),
        reference.instance_norm,
        reference.instance_norm_backward,
    ),
    "instance_norm one value": (
        (2, 3, 1),
        (3,),
        reference.instance_norm,
        reference.instance_norm_backward,
    ),
    "layer_norm2d no pixels": (
        (2, 3, 0, 4),
        (3,),
        reference.layer_norm2d,
        reference.layer_norm2d_backward,
    ),
    "layer_norm2d one channel": (
        (2, 1, 2, 2),
        (1,),
        reference.layer_norm2d,
        reference.layer_norm2d_backward,
    ),
}


@pytest.mark.parametrize(
    ("x_shape", "parameter_shape", "forward", "backward"),
    [pytest.param(*v, id=k.replace(" ", "-")) for k, v in EDGES.items()],
)
def test_nothing_to_normalize_gives_zeros_where_there_is_anything(x_shape, parameter_shape, forward, backward):
    """No element, or one by itself: y = b = 0, nothing depends on x, and nobody warns of an empty mean."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal(x_shape), rng.standard_normal(x_shape)
    y, cache = forward(x)
    dx, dw, db = backward(dy, cache)
    np.testing.assert_array_equal(y, np.zeros(x_shape))
    np.testing.assert_array_equal(dx, np.zeros(x_shape))
    np.testing.assert_array_equal(dw, np.zeros(parameter_shape))
    assert db.shape == parameter_shape
    np.testing.assert_allclose(db.sum(), dy.sum(), atol=1e-14)


def test_rms_norm_of_one_element_keeps_its_sign():
    y, _ = reference.rms_norm([[2.0], [-3.0], [0.0]], 1, None, 1e-12)
    np.testing.assert_allclose(y, [[1.0], [-1.0], [0.0]], atol=1e-12)


def test_rms_norm_of_no_rows_has_a_zero_gradient():
    y, cache = reference.rms_norm(np.zeros((0, 4)), 4, None, 1e-5)
    dx, dw = reference.rms_norm_backward(y, cache)
    assert y.shape == dx.shape == (0, 4)
    np.testing.assert_array_equal(dw, np.zeros(4))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_everything_is_computed_and_returned_in_float64(dtype):
    x = np.arange(12).reshape(3, 4).astype(dtype)
    y, cache = reference.layer_norm(x, 4, weight=np.ones(4, dtype))
    outputs = [y, cache.mean, cache.rstd, *reference.layer_norm_backward(x, cache)]
    assert {out.dtype for out in outputs} == {np.dtype(np.float64)}


def test_strided_and_reversed_input_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 5))
    for view in (x.transpose(2, 0, 1), x[::2, ::-1], x[:, :, 1::2]):
        for forward in (reference.batch_norm, lambda v: reference.layer_norm(v, v.shape[1:])):
            np.testing.assert_array_equal(forward(view)[0], forward(view.copy())[0])
