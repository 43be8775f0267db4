"""One step of the layer-normalized LSTM."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from normkit.reference._arguments import Array, bias_or_zeros, like, weight_or_ones
from normkit.reference._layer_norm import layer_norm, layer_norm_backward
from normkit.reference._recurrent import sigmoid, step_inputs
from normkit.reference._standardize import NormCache


@dataclass(frozen=True, eq=False)
class LSTMStepCache:
    """What one step keeps: its inputs, the three norms' caches, and the gates after their activations.

    ``tanh_c`` is tanh of the normalized new cell, so that h_next = o * tanh_c.
    """

    x: Array
    h: Array
    c: Array
    weight_ih: Array
    weight_hh: Array
    ln_ih: NormCache
    ln_hh: NormCache
    ln_c: NormCache
    i: Array
    f: Array
    g: Array
    o: Array
    tanh_c: Array


class LSTMStepGradients(NamedTuple):
    """The gradient of each argument of `layer_norm_lstm_step`: d and its name."""

    dx: Array
    dh: Array
    dc: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array
    dbias_hh: Array
    dln_ih_weight: Array
    dln_ih_bias: Array
    dln_hh_weight: Array
    dln_hh_bias: Array
    dln_c_weight: Array
    dln_c_bias: Array


def layer_norm_lstm_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    c: npt.ArrayLike,
    *,
    weight_ih: npt.ArrayLike,
    weight_hh: npt.ArrayLike,
    bias_ih: npt.ArrayLike | None = None,
    bias_hh: npt.ArrayLike | None = None,
    ln_ih_weight: npt.ArrayLike | None = None,
    ln_ih_bias: npt.ArrayLike | None = None,
    ln_hh_weight: npt.ArrayLike | None = None,
    ln_hh_bias: npt.ArrayLike | None = None,
    ln_c_weight: npt.ArrayLike | None = None,
    ln_c_bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, LSTMStepCache]:
    """One step of an LSTM with LayerNorm on both products and on the new cell.

        (i, f, g, o) = LN(W_ih x; ln_ih) + LN(W_hh h; ln_hh) + b_ih + b_hh
        c_next = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h_next = sigmoid(o) * tanh(LN(c_next; ln_c))

    Placement: one norm over all 4H input products, one over all 4H hidden products, one over the H new cells;
    the cell is carried on as it is, normalized only on its way to h_next; the biases come after the norms.
    Gates in torch's order, i f g o.

    Args:
        x: the input at this time.
        h: the hidden state before.
        c: the cell before.
        weight_ih: W_ih, as torch.nn.LSTM's weight_ih_l0.
        weight_hh: W_hh.
        bias_ih: b_ih, or None for zeros.
        bias_hh: b_hh, or None for zeros.
        ln_ih_weight: weight of the norm of W_ih x, or None for ones.
        ln_ih_bias: its bias, or None for zeros.
        ln_hh_weight: weight of the norm of W_hh h, or None for ones.
        ln_hh_bias: its bias, or None for zeros.
        ln_c_weight: weight of the norm of c_next, or None for ones.
        ln_c_bias: its bias, or None for zeros.
        eps: of all three norms.

    Shape:
        x [N, I]; h, c, h_next and c_next [N, H]; weight_ih [4H, I]; weight_hh [4H, H]; ln_c_weight and
        ln_c_bias [H]; all else [4H].

    Dtypes:
        float64 throughout.

    Returns:
        h_next, c_next, cache.

    Raises:
        ShapeError: the shapes do not fit each other.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> h, c, cache = layer_norm_lstm_step([[1.0]], [[0.0, 0.0]], [[2.0, 4.0]],
        ...     weight_ih=np.zeros((8, 1)), weight_hh=np.zeros((8, 2)), eps=0.01)
        >>> c, h.round(3)
        (array([[1., 2.]]), array([[-0.377,  0.377]]))

    Differs from torch:
        torch has no such cell; without the three LN it is torch.nn.LSTMCell.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, supplementary material, the LSTM of "Teaching machines to
        read and comprehend", https://arxiv.org/abs/1607.06450
    """
    call = "layer_norm_lstm_step"
    x, h, w_ih, w_hh = step_inputs(call, x, h, weight_ih, weight_hh, gates=4)
    c = like(call, "c", c, h.shape)
    hidden, gates = h.shape[1:], (4 * h.shape[1],)
    b_ih = bias_or_zeros(call, "bias_ih", bias_ih, gates)
    b_hh = bias_or_zeros(call, "bias_hh", bias_hh, gates)
    ln_ih_w = weight_or_ones(call, "ln_ih_weight", ln_ih_weight, gates)
    ln_ih_b = bias_or_zeros(call, "ln_ih_bias", ln_ih_bias, gates)
    ln_hh_w = weight_or_ones(call, "ln_hh_weight", ln_hh_weight, gates)
    ln_hh_b = bias_or_zeros(call, "ln_hh_bias", ln_hh_bias, gates)
    ln_c_w = weight_or_ones(call, "ln_c_weight", ln_c_weight, hidden)
    ln_c_b = bias_or_zeros(call, "ln_c_bias", ln_c_bias, hidden)

    from_x, ln_ih = layer_norm(x @ w_ih.T, gates, ln_ih_w, ln_ih_b, eps)
    from_h, ln_hh = layer_norm(h @ w_hh.T, gates, ln_hh_w, ln_hh_b, eps)
    a_i, a_f, a_g, a_o = np.split(from_x + from_h + b_ih + b_hh, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)

    c_next = f * c + i * g
    normed_c, ln_c = layer_norm(c_next, hidden, ln_c_w, ln_c_b, eps)
    tanh_c = np.tanh(normed_c)
    h_next = o * tanh_c
    return h_next, c_next, LSTMStepCache(x, h, c, w_ih, w_hh, ln_ih, ln_hh, ln_c, i, f, g, o, tanh_c)


def layer_norm_lstm_step_backward(
    dh_next: npt.ArrayLike, dc_next: npt.ArrayLike, cache: LSTMStepCache
) -> LSTMStepGradients:
    """Gradients of `layer_norm_lstm_step`, derived in docs/derivations/recurrent.md.

        do = dh_next * tanh_c                dtanh_c = dh_next * o
        dc' = dc_next + layer_norm_backward(dtanh_c * (1 - tanh_c^2), ln_c).dx
        di = dc' * g        df = dc' * c        dg = dc' * i        dc = dc' * f
        da = (di * i(1-i), df * f(1-f), dg * (1-g^2), do * o(1-o))
        db_ih = db_hh = sum(da)                                      (over the batch)
        dp = layer_norm_backward(da, ln_ih).dx        dx = dp W_ih        dW_ih = dp^T x
        dq = layer_norm_backward(da, ln_hh).dx        dh = dq W_hh        dW_hh = dq^T h

    where i, f, g, o are the gates after their activations.

    Args:
        dh_next: the loss's gradient with respect to h_next, from the output and from the next step.
        dc_next: its gradient with respect to c_next, from the next step; zeros at the last.
        cache: what `layer_norm_lstm_step` returned.

    Shape:
        dh_next and dc_next [N, H]; each gradient as its argument.
    """
    k = cache
    call = "layer_norm_lstm_step_backward"
    dh_next = like(call, "dh_next", dh_next, k.o.shape)
    dc_next = like(call, "dc_next", dc_next, k.o.shape)

    through_ln_c, dln_c_weight, dln_c_bias = layer_norm_backward(dh_next * k.o * (1 - k.tanh_c**2), k.ln_c)
    dc_total = dc_next + through_ln_c
    da_i = dc_total * k.g * k.i * (1 - k.i)
    da_f = dc_total * k.c * k.f * (1 - k.f)
    da_g = dc_total * k.i * (1 - k.g**2)
    da_o = dh_next * k.tanh_c * k.o * (1 - k.o)
    da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)

    dp, dln_ih_weight, dln_ih_bias = layer_norm_backward(da, k.ln_ih)
    dq, dln_hh_weight, dln_hh_bias = layer_norm_backward(da, k.ln_hh)
    dbias = da.sum(axis=0)
    return LSTMStepGradients(
        dx=dp @ k.weight_ih,
        dh=dq @ k.weight_hh,
        dc=dc_total * k.f,
        dweight_ih=dp.T @ k.x,
        dweight_hh=dq.T @ k.h,
        dbias_ih=dbias,
        dbias_hh=dbias.copy(),
        dln_ih_weight=dln_ih_weight,
        dln_ih_bias=dln_ih_bias,
        dln_hh_weight=dln_hh_weight,
        dln_hh_bias=dln_hh_bias,
        dln_c_weight=dln_c_weight,
        dln_c_bias=dln_c_bias,
    )
