"""One step of the layer-normalized tanh RNN."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from normkit.reference._arguments import Array, bias_or_zeros, like, weight_or_ones
from normkit.reference._layer_norm import layer_norm, layer_norm_backward
from normkit.reference._recurrent import step_inputs
from normkit.reference._standardize import NormCache


@dataclass(frozen=True, eq=False)
class RNNStepCache:
    """What one step keeps: its inputs, the norm's cache, and the new state."""

    x: Array
    h: Array
    weight_ih: Array
    weight_hh: Array
    ln: NormCache
    h_next: Array


class RNNStepGradients(NamedTuple):
    """The gradient of each argument of `layer_norm_rnn_step`: d and its name."""

    dx: Array
    dh: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array
    dbias_hh: Array
    dln_weight: Array
    dln_bias: Array


def layer_norm_rnn_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    *,
    weight_ih: npt.ArrayLike,
    weight_hh: npt.ArrayLike,
    bias_ih: npt.ArrayLike | None = None,
    bias_hh: npt.ArrayLike | None = None,
    ln_weight: npt.ArrayLike | None = None,
    ln_bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, RNNStepCache]:
    """One step of a tanh RNN with LayerNorm on the summed inputs.

        a = W_ih x + b_ih + W_hh h + b_hh        h_next = tanh(LN(a; ln_weight, ln_bias))

    Placement: one norm over the H sums, biases included; Ba et al. write the bias as the norm's own, ln_bias.

    Args:
        x: the input at this time.
        h: the state before.
        weight_ih: W_ih, as torch.nn.RNN's weight_ih_l0.
        weight_hh: W_hh.
        bias_ih: b_ih, or None for zeros.
        bias_hh: b_hh, or None for zeros.
        ln_weight: the norm's weight, or None for ones.
        ln_bias: the norm's bias, or None for zeros.
        eps: the norm's.

    Shape:
        x [N, I]; h and h_next [N, H]; weight_ih [H, I]; weight_hh [H, H]; all else [H].

    Dtypes:
        float64 throughout.

    Returns:
        h_next, cache.

    Raises:
        ShapeError: the shapes do not fit each other.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> h, cache = layer_norm_rnn_step([[1.0]], [[0.0, 0.0]],
        ...     weight_ih=[[1.0], [3.0]], weight_hh=np.zeros((2, 2)), eps=0.0)
        >>> h.round(3)
        array([[-0.762,  0.762]])

    Differs from torch:
        torch has no such cell; without the LN it is torch.nn.RNNCell.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, equation 4, https://arxiv.org/abs/1607.06450
    """
    call = "layer_norm_rnn_step"
    x, h, w_ih, w_hh = step_inputs(call, x, h, weight_ih, weight_hh, gates=1)
    hidden = h.shape[1:]
    b_ih = bias_or_zeros(call, "bias_ih", bias_ih, hidden)
    b_hh = bias_or_zeros(call, "bias_hh", bias_hh, hidden)
    ln_w = weight_or_ones(call, "ln_weight", ln_weight, hidden)
    ln_b = bias_or_zeros(call, "ln_bias", ln_bias, hidden)

    a = x @ w_ih.T + b_ih + h @ w_hh.T + b_hh
    normed, ln = layer_norm(a, hidden, ln_w, ln_b, eps)
    h_next = np.tanh(normed)
    return h_next, RNNStepCache(x, h, w_ih, w_hh, ln, h_next)


def layer_norm_rnn_step_backward(dh_next: npt.ArrayLike, cache: RNNStepCache) -> RNNStepGradients:
    """Gradients of `layer_norm_rnn_step`, derived in docs/derivations/recurrent.md.

        da, dln_weight, dln_bias = layer_norm_backward(dh_next * (1 - h_next^2))
        dx = da W_ih        dW_ih = da^T x        db_ih = db_hh = sum(da)
        dh = da W_hh        dW_hh = da^T h                                    (sums over the batch)

    Args:
        dh_next: the loss's gradient with respect to h_next, from the output and from the next step.
        cache: what `layer_norm_rnn_step` returned.

    Shape:
        dh_next [N, H]; each gradient as its argument.
    """
    k = cache
    dh_next = like("layer_norm_rnn_step_backward", "dh_next", dh_next, k.h_next.shape)

    da, dln_weight, dln_bias = layer_norm_backward(dh_next * (1 - k.h_next**2), k.ln)
    dbias = da.sum(axis=0)
    return RNNStepGradients(
        dx=da @ k.weight_ih,
        dh=da @ k.weight_hh,
        dweight_ih=da.T @ k.x,
        dweight_hh=da.T @ k.h,
        dbias_ih=dbias,
        dbias_hh=dbias.copy(),
        dln_weight=dln_weight,
        dln_bias=dln_bias,
    )
