"""The compiled library for the CPU: whether it is there, why not, and its functions on tensors.

The functions here trust their caller (``choose``): contiguous CPU tensors of the dtypes in ``DTYPE_CODES``, whose
memory may be read. They know nothing of autograd.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from normkit.composite import Activation

Norm = Literal["layer_norm", "rms_norm"]

# As numbered in csrc/core.
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
NORM_CODES: dict[Norm, int] = {"layer_norm": 0, "rms_norm": 1}
DTYPES = tuple(DTYPE_CODES)
NORMS = tuple(NORM_CODES)
STATS_PER_ROW: dict[Norm, int] = {"layer_norm": 3, "rms_norm": 1}
ACTIVATION_CODES: dict[Activation | None, int] = {None: 0, "relu": 1, "silu": 2, "gelu": 3}
ACTIVATIONS = tuple(ACTIVATION_CODES)
STATS_DTYPES = {dtype: torch.float64 if dtype == torch.float64 else torch.float32 for dtype in DTYPE_CODES}

# Whether the process's heap is told to keep freed memory, as csrc/core/kernels.h has it; and what keeps it from that.
KEEPS_FREED_MEMORY = os.environ.get("NORMKIT_KEEP_FREED", "").lower() not in ("0", "off", "false", "no")
HEAP_LIMITS = tuple(
    name
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
    if name in os.environ
) + (("GLIBC_TUNABLES",) if "malloc" in os.environ.get("GLIBC_TUNABLES", "") else ())


def _load() -> tuple[Any, str]:
    """The library, or None; and which one it is, or why there is none."""
    try:
        library = import_module("normkit._C")
    except ImportError as error:
        note = Path(__file__).parents[1] / "_C.reason"
        reason = note.read_text().strip() if note.exists() else str(error)
        return None, f"the compiled library is not there: {reason}"
    if KEEPS_FREED_MEMORY:
        library.keep_freed_memory()
    return library, f"compiled kernels for {library.isa()}"


# Found once, at import: it cannot change while the process lives.
LIBRARY, DESCRIPTION = _load()


def library_file() -> Path | None:
    """The file of the compiled library, if one is in use: its content is the identity of what the kernels compute."""
    return None if LIBRARY is None else Path(LIBRARY.__file__)


# The bodies below are written out rather than composed: for small tensors Python's own calls are the cost.


def row_norm(
    norm: Norm,
    x: Tensor,
    n_cols: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    keep_stats: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """y, and what the backward needs of the statistics if they are to be kept. ``out`` (y, if given) may be x."""
    dtype = x.dtype
    n_rows = x.numel() // n_cols if n_cols else 0
    y = torch.empty_like(x) if out is None else out
    stats, stats_address = None, 0
    if keep_stats:
        stats = torch.empty(n_rows * STATS_PER_ROW[norm], dtype=STATS_DTYPES[dtype])
        stats_address = stats.data_ptr()
    w_address, w_code = (0, 0) if w is None else (w.data_ptr(), DTYPE_CODES[w.dtype])
    b_address, b_code = (0, 0) if b is None else (b.data_ptr(), DTYPE_CODES[b.dtype])
    LIBRARY.row_norm_forward(
        NORM_CODES[norm], DTYPE_CODES[dtype], n_rows, n_cols, eps, x.data_ptr(),
        w_address, w_code, b_address, b_code, y.data_ptr(), stats_address, 0, 0, 0.0, 0,
    )  # fmt: skip
    return y, stats


def add_row_norm(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    n_cols: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    dropout_p: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, z = residual + dropout(x), and the statistics of z. The seed decides the mask."""
    dtype = x.dtype
    n_rows = x.numel() // n_cols if n_cols else 0
    y, z = torch.empty_like(x), torch.empty_like(x)
    stats = torch.empty(n_rows * STATS_PER_ROW[norm], dtype=STATS_DTYPES[dtype])
    w_address, w_code = (0, 0) if w is None else (w.data_ptr(), DTYPE_CODES[w.dtype])
    b_address, b_code = (0, 0) if b is None else (b.data_ptr(), DTYPE_CODES[b.dtype])
    LIBRARY.row_norm_forward(
        NORM_CODES[norm], DTYPE_CODES[dtype], n_rows, n_cols, eps, x.data_ptr(),
        w_address, w_code, b_address, b_code, y.data_ptr(), stats.data_ptr(),
        residual.data_ptr(), z.data_ptr(), dropout_p, seed,
    )  # fmt: skip
    return y, z, stats


class RowGradients(NamedTuple):
    dx: Tensor | None
    dw: Tensor | None
    db: Tensor | None
    dropped: Tensor | None  # dx through the dropout, if there was one


def row_norm_backward(
    norm: Norm,
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    n_cols: int,
    w: Tensor | None,
    eps: float,
    need_dx: bool,
    need_dw: bool,
    db_dtype: torch.dtype | None,
    dz: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: int = 0,
) -> RowGradients:
    """The gradients that are needed; db is if its dtype is given. dz is added to dx."""
    dx = dw = db = dropped = None
    dx_address = dropped_address = w_address = w_code = dw_address = db_address = db_code = 0
    if need_dx:
        dx = torch.empty_like(x)
        dx_address = dx.data_ptr()
        if dropout_p > 0:
            dropped = torch.empty_like(x)
            dropped_address = dropped.data_ptr()
    if w is not None:
        w_address, w_code = w.data_ptr(), DTYPE_CODES[w.dtype]
        if need_dw:
            dw = torch.empty_like(w)
            dw_address = dw.data_ptr()
    if db_dtype is not None:
        db = torch.empty(n_cols, dtype=db_dtype)
        db_address, db_code = db.data_ptr(), DTYPE_CODES[db_dtype]
    LIBRARY.row_norm_backward(
        NORM_CODES[norm], DTYPE_CODES[x.dtype], x.numel() // n_cols if n_cols else 0, n_cols, eps,
        dy.data_ptr(), x.data_ptr(), stats.data_ptr(), w_address, w_code, 0 if dz is None else dz.data_ptr(),
        dx_address, dropped_address, dropout_p, seed, dw_address, w_code, db_address, db_code,
    )  # fmt: skip
    return RowGradients(dx, dw, db, dropped)


def channel_norm(
    x: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    *,
    residual: Tensor | None = None,
    given: tuple[Tensor, Tensor] | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.0,
    out: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y, and the statistics [slabs, 4]: m0, dm, rstd, var, where m0 + dm is the mean.

    A slab is a group of channels of one sample, or with ``n_groups=0`` a channel of the whole batch. ``given`` mean
    and variance normalize in place of x's own. ``running`` ones are updated. A residual lies in memory as x does, and
    goes with the activations None and relu. ``out`` (y, if given) lies so, too, and if x is contiguous may be x.
    Where a contiguous bool ``mask`` [N, *] is False x takes no part; y is 0 there, and in the backward dx.
    """
    dtype = x.dtype
    n, c, *rest = x.shape
    positions = math.prod(rest)
    y = torch.empty_like(x) if out is None else out
    stats = torch.empty(n * n_groups or c, 4, dtype=STATS_DTYPES[dtype])
    w_address, w_code = (0, 0) if w is None else (w.data_ptr(), DTYPE_CODES[w.dtype])
    b_address, b_code = (0, 0) if b is None else (b.data_ptr(), DTYPE_CODES[b.dtype])
    mean = var = running_mean = running_var = (0, 0)
    if given is not None:
        mean, var = _array(given[0]), _array(given[1])
    if running is not None:
        running_mean, running_var = _array(running[0]), _array(running[1])
    LIBRARY.channel_norm_forward(
        _layout(x, positions, n_groups), DTYPE_CODES[dtype], n, c, positions, n_groups, eps, x.data_ptr(),
        address(residual), w_address, w_code, b_address, b_code, ACTIVATION_CODES[activation], *mean, *var,
        y.data_ptr(), stats.data_ptr(), *running_mean, *running_var, momentum, address(mask),
    )  # fmt: skip
    return y, stats


def channel_norm_backward(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    n_groups: int,
    w: Tensor | None,
    b: Tensor | None,
    eps: float,
    activation: Activation | None = None,
    *,
    constant_stats: bool,
    need_dx: bool,
    dw: Tensor | None,
    db: Tensor | None,
    mask: Tensor | None = None,
) -> Tensor | None:
    """dx; dw and db are written where given. dy lies in memory as x does. b is read with an activation only."""
    dx = torch.empty_like(x) if need_dx else None
    LIBRARY.channel_norm_backward(
        *_channel_shape(x, n_groups), eps, constant_stats, dy.data_ptr(), x.data_ptr(), stats.data_ptr(), *_array(w),
        *_array(b), ACTIVATION_CODES[activation], address(dx), *_array(dw), *_array(db), address(mask),
    )  # fmt: skip
    return dx


def layer_norm2d(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, keep_stats: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """y, and the statistics [N, 3, positions] if they are to be kept: m0, dm, rstd. x is a contiguous (N, C, H, W).

    ``out`` (y, if given) may be x.
    """
    n, c, height, width = x.shape
    dtype = x.dtype
    y = torch.empty_like(x) if out is None else out
    stats, stats_address = None, 0
    if keep_stats:
        stats = torch.empty(n, 3, height * width, dtype=STATS_DTYPES[dtype])
        stats_address = stats.data_ptr()
    LIBRARY.layer_norm2d_forward(
        DTYPE_CODES[dtype], n, c, height * width, eps, x.data_ptr(), *_array(w), *_array(b), y.data_ptr(), stats_address
    )
    return y, stats


def layer_norm2d_backward(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    w: Tensor | None,
    eps: float,
    *,
    need_dx: bool,
    dw: Tensor | None,
    db: Tensor | None,
) -> Tensor | None:
    """dx; dw and db are written where given."""
    n, c, height, width = x.shape
    dx = torch.empty_like(x) if need_dx else None
    LIBRARY.layer_norm2d_backward(
        DTYPE_CODES[x.dtype], n, c, height * width, eps, dy.data_ptr(), x.data_ptr(), stats.data_ptr(), *_array(w),
        address(dx), *_array(dw), *_array(db),
    )  # fmt: skip
    return dx


def _channel_shape(x: Tensor, n_groups: int) -> tuple[int, int, int, int, int, int]:
    """Layout (0 planes, 1 pixels), dtype, and the sizes; x is contiguous or in a channels_last format."""
    n, c = x.shape[:2]
    positions = x.numel() // (n * c) if x.numel() else 0
    return _layout(x, positions, n_groups), DTYPE_CODES[x.dtype], n, c, positions, n_groups


def _layout(x: Tensor, positions: int, n_groups: int) -> int:
    """As ``channel_shape_of`` in ``csrc/arguments.h``."""
    return int(n_groups == 0 if positions == 1 else not x.is_contiguous())


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """Each in contiguous memory, where it is there."""
    return [None if t is None else t.contiguous() for t in tensors]


def address(t: Tensor | None) -> int:
    """Where the values lie; 0 for none."""
    return 0 if t is None else t.data_ptr()


def _array(t: Tensor | None) -> tuple[int, int]:
    return (0, 0) if t is None else (t.data_ptr(), DTYPE_CODES[t.dtype])
