"""One step of the layer-normalized GRU."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from normkit.reference._arguments import Array, bias_or_zeros, like, weight_or_ones
from normkit.reference._layer_norm import layer_norm, layer_norm_backward
from normkit.reference._recurrent import sigmoid, step_inputs
from normkit.reference._standardize import NormCache


class GateNormCache(NamedTuple):
    """The two norms of one product: over the 2H values of r and z together, and over the H of n."""

    rz: NormCache
    n: NormCache


@dataclass(frozen=True, eq=False)
class GRUStepCache:
    """What one step keeps: its inputs, the norms' caches, and the gates after their activations.

    ``q_n`` is the hidden product's share of n before the reset gate, LN(W_hn h) + b_hn.
    """

    x: Array
    h: Array
    weight_ih: Array
    weight_hh: Array
    ln_ih: GateNormCache
    ln_hh: GateNormCache
    r: Array
    z: Array
    n: Array
    q_n: Array


class GRUStepGradients(NamedTuple):
    """The gradient of each argument of `layer_norm_gru_step`: d and its name."""

    dx: Array
    dh: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array
    dbias_hh: Array
    dln_ih_weight: Array
    dln_ih_bias: Array
    dln_hh_weight: Array
    dln_hh_bias: Array


def layer_norm_gru_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    *,
    weight_ih: npt.ArrayLike,
    weight_hh: npt.ArrayLike,
    bias_ih: npt.ArrayLike | None = None,
    bias_hh: npt.ArrayLike | None = None,
    ln_ih_weight: npt.ArrayLike | None = None,
    ln_ih_bias: npt.ArrayLike | None = None,
    ln_hh_weight: npt.ArrayLike | None = None,
    ln_hh_bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, GRUStepCache]:
    """One step of a GRU with LayerNorm on both products.

        (p_r, p_z) = LN(W_ih[r,z] x) + b_ih[r,z]        p_n = LN(W_ih[n] x) + b_ih[n]
        (q_r, q_z) = LN(W_hh[r,z] h) + b_hh[r,z]        q_n = LN(W_hh[n] h) + b_hh[n]
        r = sigmoid(p_r + q_r)        z = sigmoid(p_z + q_z)        n = tanh(p_n + r * q_n)
        h_next = (1 - z) * n + z * h

    Placement: of each product, one norm over the 2H values of r and z together, and one over the H of n, as
    in the paper and in its authors' code (https://github.com/ryankiros/layer-norm); not one over all 3H. The
    norms' weights are [3H] and split the same way. The reset gate acts after the hidden product, as in torch,
    and the biases come after the norms, so that b_hh[n] stays inside the reset gate. Gates in torch's order,
    r z n; z keeps the old state.

    Args:
        x: the input at this time.
        h: the state before.
        weight_ih: W_ih, as torch.nn.GRU's weight_ih_l0.
        weight_hh: W_hh.
        bias_ih: b_ih, or None for zeros.
        bias_hh: b_hh, or None for zeros.
        ln_ih_weight: weight of the norms of W_ih x, or None for ones.
        ln_ih_bias: their bias, or None for zeros.
        ln_hh_weight: weight of the norms of W_hh h, or None for ones.
        ln_hh_bias: their bias, or None for zeros.
        eps: of all norms.

    Shape:
        x [N, I]; h and h_next [N, H]; weight_ih [3H, I]; weight_hh [3H, H]; all else [3H].

    Dtypes:
        float64 throughout.

    Returns:
        h_next, cache.

    Raises:
        ShapeError: the shapes do not fit each other.
        ArgumentError: eps is negative or not finite.

    Example:
        >>> h, cache = layer_norm_gru_step([[1.0]], [[2.0, 4.0]],
        ...     weight_ih=np.zeros((6, 1)), weight_hh=np.zeros((6, 2)))
        >>> h
        array([[1., 2.]])

    Differs from torch:
        torch has no such cell; without the LN it is torch.nn.GRUCell.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, supplementary material, the GRU of "Order embeddings and
        skip-thoughts", https://arxiv.org/abs/1607.06450; gate order and biases of torch.nn.GRU.
    """
    call = "layer_norm_gru_step"
    x, h, w_ih, w_hh = step_inputs(call, x, h, weight_ih, weight_hh, gates=3)
    gates = (3 * h.shape[1],)
    b_ih = bias_or_zeros(call, "bias_ih", bias_ih, gates)
    b_hh = bias_or_zeros(call, "bias_hh", bias_hh, gates)
    ln_ih_w = weight_or_ones(call, "ln_ih_weight", ln_ih_weight, gates)
    ln_ih_b = bias_or_zeros(call, "ln_ih_bias", ln_ih_bias, gates)
    ln_hh_w = weight_or_ones(call, "ln_hh_weight", ln_hh_weight, gates)
    ln_hh_b = bias_or_zeros(call, "ln_hh_bias", ln_hh_bias, gates)

    from_x, ln_ih = _norm_gates(x @ w_ih.T, ln_ih_w, ln_ih_b, eps)
    from_h, ln_hh = _norm_gates(h @ w_hh.T, ln_hh_w, ln_hh_b, eps)
    p_r, p_z, p_n = np.split(from_x + b_ih, 3, axis=1)
    q_r, q_z, q_n = np.split(from_h + b_hh, 3, axis=1)

    r, z = sigmoid(p_r + q_r), sigmoid(p_z + q_z)
    n = np.tanh(p_n + r * q_n)
    h_next = (1 - z) * n + z * h
    return h_next, GRUStepCache(x, h, w_ih, w_hh, ln_ih, ln_hh, r, z, n, q_n)


def layer_norm_gru_step_backward(dh_next: npt.ArrayLike, cache: GRUStepCache) -> GRUStepGradients:
    """Gradients of `layer_norm_gru_step`, derived in docs/derivations/recurrent.md.

        dn = dh_next * (1 - z)        dz = dh_next * (h - n)
        da_n = dn * (1 - n^2)         da_z = dz * z(1-z)        da_r = da_n * q_n * r(1-r)
        dp = (da_r, da_z, da_n)       dq = (da_r, da_z, da_n * r)
        db_ih = sum(dp)               db_hh = sum(dq)                             (over the batch)
        du = layer_norm_backward(dp, ln_ih).dx        dx = du W_ih        dW_ih = du^T x
        dv = layer_norm_backward(dq, ln_hh).dx        dW_hh = dv^T h
        dh = dv W_hh + dh_next * z

    Args:
        dh_next: the loss's gradient with respect to h_next, from the output and from the next step.
        cache: what `layer_norm_gru_step` returned.

    Shape:
        dh_next [N, H]; each gradient as its argument.
    """
    k = cache
    dh_next = like("layer_norm_gru_step_backward", "dh_next", dh_next, k.h.shape)

    da_n = dh_next * (1 - k.z) * (1 - k.n**2)
    da_z = dh_next * (k.h - k.n) * k.z * (1 - k.z)
    da_r = da_n * k.q_n * k.r * (1 - k.r)
    dp = np.concatenate([da_r, da_z, da_n], axis=1)
    dq = np.concatenate([da_r, da_z, da_n * k.r], axis=1)

    du, dln_ih_weight, dln_ih_bias = _norm_gates_backward(dp, k.ln_ih)
    dv, dln_hh_weight, dln_hh_bias = _norm_gates_backward(dq, k.ln_hh)
    return GRUStepGradients(
        dx=du @ k.weight_ih,
        dh=dv @ k.weight_hh + dh_next * k.z,
        dweight_ih=du.T @ k.x,
        dweight_hh=dv.T @ k.h,
        dbias_ih=dp.sum(axis=0),
        dbias_hh=dq.sum(axis=0),
        dln_ih_weight=dln_ih_weight,
        dln_ih_bias=dln_ih_bias,
        dln_hh_weight=dln_hh_weight,
        dln_hh_bias=dln_hh_bias,
    )


def _norm_gates(product: Array, w: Array, b: Array, eps: float) -> tuple[Array, GateNormCache]:
    """One product [N, 3H] with r and z normalized together and n by itself."""
    rz_size = product.shape[1] * 2 // 3
    rz, rz_cache = layer_norm(product[:, :rz_size], rz_size, w[:rz_size], b[:rz_size], eps)
    n, n_cache = layer_norm(product[:, rz_size:], rz_size // 2, w[rz_size:], b[rz_size:], eps)
    return np.concatenate([rz, n], axis=1), GateNormCache(rz_cache, n_cache)


def _norm_gates_backward(dy: Array, cache: GateNormCache) -> tuple[Array, Array, Array]:
    """dx, dw, db of `_norm_gates`."""
    rz_size = dy.shape[1] * 2 // 3
    of_rz = layer_norm_backward(dy[:, :rz_size], cache.rz)
    of_n = layer_norm_backward(dy[:, rz_size:], cache.n)
    dx, dw, db = (np.concatenate(pair, axis=-1) for pair in zip(of_rz, of_n, strict=True))
    return dx, dw, db
