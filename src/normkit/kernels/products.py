"""Products of all rows of a call with a matrix, by the faster of the two libraries that torch carries for them.

``torch.mm`` asks MKL, which keeps its AVX-512 code for Intel's processors; oneDNN, which convolutions ask, has one for
all. A convolution with a kernel of 1x1 over an image one pixel wide is the same product, with the same derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normkit.composite import without_autocast
from normkit.kernels import choose, cpu

MKL_LEAVES_AVX512: bool = (
    cpu.LIBRARY is not None
    and cpu.LIBRARY.is_amd_with_avx512()
    and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)
# Fewer multiplications than this take no longer than what a convolution does before it begins; with fewer rows oneDNN
# spends more on laying out the matrix than it gains; and smaller images than this torch keeps from it.
LEAST_PRODUCTS = 1 << 23
LEAST_ROWS = 256
LEAST_VALUES = 20481


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of x [R, K] and w [N, K]."""
    if (
        torch.compiler.is_compiling()
        or x.dim() != 2
        or not _is_faster_as_convolution(x, w, x.numel() * w.shape[0])
        or choose.path_of(x, w, b) != "kernel"
    ):
        return F.linear(x, w, b)
    y = F.conv2d(_as_image(x), w[:, :, None, None]).permute(0, 2, 3, 1).reshape(x.shape[0], w.shape[0])
    if b is None:
        return y
    # Added here, for oneDNN would add up its gradient in one long chain.
    return y + b if torch.is_grad_enabled() else y.add_(b)


def sum_of_outer_products(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b of a [R, N] and b [R, K], in their dtype: the gradient of a weight, outside autograd."""
    if _is_faster_as_convolution(b, a, b.numel() * a.shape[1]):
        w = a.new_empty(a.shape[1], b.shape[1], 1, 1)  # of its shape alone anything is asked
        found: Tensor = torch.ops.aten.convolution_backward(
            _as_image(a), _as_image(b), w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (False, True, False)
        )[1]
        return found.view(w.shape[:2])
    with without_autocast(a):
        return a.T @ b


def _is_faster_as_convolution(x: Tensor, other: Tensor, n_products: int) -> bool:
    """Whether a product of the rows of x is, of so many numbers."""
    return (
        n_products >= LEAST_PRODUCTS
        and MKL_LEAVES_AVX512
        and x.shape[0] >= LEAST_ROWS
        and x.numel() >= LEAST_VALUES
        and x.dtype == other.dtype == torch.float32
        and torch.get_num_threads() > 1  # by one torch asks MKL also for convolutions
        and onednn_is_on_and_exact()
    )


def onednn_is_on_and_exact() -> bool:
    """Whether the user's settings are such. Who lets convolutions be less exact did not mean these."""
    precision = torch.backends.mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    return bool(torch.backends.mkldnn.enabled) and precision in ("none", "ieee")


def _as_image(rows: Tensor) -> Tensor:
    """[R, K] as [1, K, R, 1], where the channels of a pixel lie beside one another."""
    return rows.contiguous()[None, :, None, :].permute(0, 3, 1, 2)
