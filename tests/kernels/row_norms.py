"""The kernels of the row norms on plain tensors, and what they should have returned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import tolerances
from normkit import reference
from normkit.kernels import cpu

NORMS: tuple[cpu.Norm, ...] = ("layer_norm", "rms_norm")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# One element, around one vector of 16, around four, odd, around the block of 4096 and past it.
WIDTHS = (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 255, 768, 4095, 4096, 4097, 8209)


@dataclass
class RowCase:
    """Input of one call: x, dy and d_sum of [n_rows, n_cols], weight and bias of [n_cols]."""

    norm: cpu.Norm
    x: Tensor
    w: Tensor | None
    b: Tensor | None
    dy: Tensor
    eps: float = 1e-5

    def forward(self) -> tuple[Tensor, Tensor]:
        y, stats = cpu.row_norm(self.norm, self.x, self.x.shape[1], self.w, self.b, self.eps, True)
        assert stats is not None
        return y, stats

    def backward(self, stats: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        dx, dw, db, _ = cpu.row_norm_backward(
            self.norm, self.dy, self.x, stats, self.x.shape[1], self.w, self.eps,
            True, self.w is not None, None if self.b is None else self.b.dtype,
        )  # fmt: skip
        assert dx is not None
        return dx, dw, db

    def results(self) -> list[Tensor]:
        y, stats = self.forward()
        return [t for t in (y, stats, *self.backward(stats)) if t is not None]


def row_case(
    norm: cpu.Norm,
    n_rows: int,
    n_cols: int,
    dtype: torch.dtype,
    *,
    offset: float = 0.0,
    scale: float = 1.0,
    parameters: torch.dtype | None = None,
    affine: bool = True,
    eps: float = 1e-5,
) -> RowCase:
    """Random input with standard deviation ``scale`` around ``offset`` standard deviations."""
    x = ((torch.randn(n_rows, n_cols, dtype=torch.float64) + offset) * scale).to(dtype)
    w = torch.randn(n_cols).to(parameters or dtype) if affine else None
    b = torch.randn(n_cols).to(parameters or dtype) if affine and norm == "layer_norm" else None
    return RowCase(norm, x, w, b, torch.randn(n_rows, n_cols).to(dtype), eps)


def check_against_reference(case: RowCase) -> None:
    """Every result within the bounds of ``tolerances``, which NaN is not."""
    n_cols, dtype = case.x.shape[1], case.x.dtype
    x, dy = case.x.double().numpy(), case.dy.double().numpy()
    w = np.ones(n_cols) if case.w is None else case.w.double().numpy()
    b = np.zeros(n_cols) if case.b is None else case.b.double().numpy()
    if case.norm == "layer_norm":
        y, cache = reference.layer_norm(x, n_cols, w, b, case.eps)
        dx, dw, db = reference.layer_norm_backward(dy, cache)
    else:
        y, rms_cache = reference.rms_norm(x, n_cols, w, case.eps)
        cache = rms_cache  # type: ignore[assignment]
        dx, dw = reference.rms_norm_backward(dy, rms_cache)
        db = np.zeros(n_cols)
    slices = np.broadcast_to(np.arange(x.shape[0])[:, None], x.shape)
    got_y, stats = case.forward()
    got_dx, got_dw, got_db = case.backward(stats)
    x_hat = cache.x_hat
    _check("y", got_y, y, tolerances.normalized(y, x_hat, w, b, dtype))
    rstd = np.broadcast_to(cache.rstd, x.shape)
    limit = tolerances.input_gradient(dx, dy * w, x_hat, rstd, tolerances.MeanOver(slices), dtype)
    _check("dx", got_dx, dx, limit)
    for name, got, exact, terms in (
        ("dw", got_dw, dw, np.abs(dy) * (1 + np.abs(x_hat))),
        ("db", got_db, db, np.abs(dy)),
    ):
        if got is not None:
            _check(name, got, exact, tolerances.parameter_gradient(exact, terms.sum(0), dtype, got.dtype))


def _check(name: str, got: Tensor, exact: np.ndarray, bound: np.ndarray) -> None:
    error = np.abs(got.double().numpy() - exact)
    worst = np.max(np.where(error == 0, 0.0, error / np.maximum(bound, 1e-300)))
    assert (error <= bound).all(), f"{name}: {worst:.3g} times the bound"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN with NaN."""
    size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.shape == b.shape and bool((a.contiguous().view(size) == b.contiguous().view(size)).all())
