"""What is timed, as data: operations, shapes, layouts, dtypes, and the least bytes that each must move."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from normkit.errors import ArgumentError

Mode = Literal["fwd", "fwd+bwd"]
Layout = Literal["contiguous", "channels_last"]
DType = Literal["float32", "bfloat16"]
Slab = Literal["row", "pixel", "channel", "group", "instance"]

MODES: tuple[Mode, ...] = get_args(Mode)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
DTYPES: tuple[DType, ...] = get_args(DType)
ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}

ROW_SHAPES = ((32, 768), (512, 768), (4096, 768), (4096, 4096))
MAP_SHAPES = ((32, 64, 56, 56), (32, 256, 14, 14), (8, 512, 7, 7))
RECURRENT_OPS = ("lstm", "gru", "rnn", "batch_lstm")
SEQUENCE_SHAPES = ((50, 1, 128, 128), (50, 32, 128, 128), (100, 64, 256, 256), (100, 32, 512, 512))

# A statistic whose values fit a core's own cache needs no second read from memory. 1 MiB is the second-level cache
# of one core on the servers this was written for; a fixed number keeps the bytes of a case the same everywhere.
RESIDENT_BYTES = 2**20


@dataclass(frozen=True)
class Accesses:
    """Reads and writes of something as large as the input: in the forward, and in the backward."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Op:
    """One operation. Each side says in a file of its own how its users would write it."""

    name: str
    slab: Slab  # the values behind one statistic
    resident: Accesses  # where such a slab stays in cache between the statistics and their use
    streaming: Accesses  # where it does not
    has_residual: bool = False  # takes a second input
    has_kink: bool = False  # ends in a ReLU
    unmasked: str | None = None  # the operation that this is under a mask, by which one position in eight is padding

    @property
    def n_dims(self) -> int:
        return 2 if self.slab == "row" else 4


_ONE_INPUT = (Accesses(2, 3), Accesses(3, 5))
_PER_ROW = (Accesses(2, 3), Accesses(2, 3))  # a row, or the channels of a pixel, always stays
_ADD_PER_ROW = (Accesses(4, 4), Accesses(4, 4))  # the sum is an output too; one gradient serves both inputs
_ADD_RELU = (Accesses(3, 4), Accesses(4, 6))

OPS = {
    op.name: op
    for op in (
        Op("layer_norm", "row", *_PER_ROW),
        Op("rms_norm", "row", *_PER_ROW),
        Op("add_layer_norm", "row", *_ADD_PER_ROW, has_residual=True),
        Op("add_rms_norm", "row", *_ADD_PER_ROW, has_residual=True),
        Op("batch_norm", "channel", *_ONE_INPUT),
        Op("batch_norm_masked", "channel", *_ONE_INPUT, unmasked="batch_norm"),
        Op("batch_norm_eval", "channel", *_PER_ROW),  # no statistic to compute
        Op("batch_norm_eval_masked", "channel", *_PER_ROW, unmasked="batch_norm_eval"),
        Op("batch_norm_relu", "channel", *_ONE_INPUT, has_kink=True),
        Op("batch_norm_add_relu", "channel", *_ADD_RELU, has_residual=True, has_kink=True),
        Op("group_norm", "group", *_ONE_INPUT),
        Op("group_norm_masked", "group", *_ONE_INPUT, unmasked="group_norm"),
        Op("group_norm_silu", "group", *_ONE_INPUT),
        Op("instance_norm", "instance", *_ONE_INPUT),
        Op("instance_norm_masked", "instance", *_ONE_INPUT, unmasked="instance_norm"),
        Op("layer_norm2d", "pixel", *_PER_ROW),
    )
}


@dataclass(frozen=True)
class Workload:
    """One operation on one kind of input. The fields are plain, so that it crosses to other processes."""

    op: str
    shape: tuple[int, ...]
    layout: Layout
    dtype: DType

    def __str__(self) -> str:
        layout = "" if len(self.shape) == 2 else f" {self.layout}"
        return f"{self.op} {shape_text(self.shape)}{layout} {self.dtype}"


@dataclass(frozen=True)
class Cell:
    """What one row of the table times."""

    workload: Workload
    mode: Mode

    def __str__(self) -> str:
        return f"{self.workload} {self.mode}"


@dataclass(frozen=True)
class Sequences:
    """One recurrent layer on one kind of input: T steps of N sequences of I values each, and H hidden values."""

    op: str
    shape: tuple[int, ...]  # T, N, I, H

    def __str__(self) -> str:
        return f"{self.op} {shape_text(self.shape)}"


def n_groups(channels: int) -> int:
    """32 groups, as most models have, or as many of them as divide the channels.

    Example:
        >>> n_groups(64), n_groups(48)
        (32, 16)
    """
    return math.gcd(32, channels)


def floor_bytes(cell: Cell) -> int:
    """The least traffic with memory: each input read and each output written, statistics from cache where they fit.

    Parameters and statistics themselves are left out: they are a thousandth of it.

    Example:
        >>> floor_bytes(Cell(Workload("layer_norm", (4096, 768), "contiguous", "float32"), "fwd")) // (4096 * 768)
        8
    """
    op, item = OPS[cell.workload.op], ITEM_BYTES[cell.workload.dtype]
    slab = _slab_bytes(op, cell.workload)
    forward = op.resident if slab <= RESIDENT_BYTES else op.streaming
    backward = op.resident if 2 * slab <= RESIDENT_BYTES else op.streaming  # x and dy stay
    accesses = forward.forward + (backward.backward if cell.mode == "fwd+bwd" else 0)
    return accesses * item * math.prod(cell.workload.shape)


def _slab_bytes(op: Op, workload: Workload) -> int:
    """Bytes that one statistic spans. In channels_last the channels of a position lie together, and so do slabs."""
    item = ITEM_BYTES[workload.dtype]
    if op.slab in ("row", "pixel"):
        return item * workload.shape[1]
    samples, channels, *positions = workload.shape
    size = item * math.prod(positions)
    if workload.layout == "channels_last":
        return size * channels * (samples if op.slab == "channel" else 1)
    together = {"channel": samples, "group": channels // n_groups(channels), "instance": 1}
    return size * together[op.slab]


@dataclass(frozen=True)
class Grid:
    """A choice of cases, and the time they may take."""

    name: str
    limit_s: float  # all norms together, compilation included
    slice_s: float  # timing of one cell
    overhead_s: float  # what a cell takes beside it
    ops: tuple[str, ...] = (*OPS, *RECURRENT_OPS)
    shapes: tuple[tuple[int, ...], ...] = ROW_SHAPES + MAP_SHAPES
    layouts: tuple[Layout, ...] = LAYOUTS
    dtypes: tuple[DType, ...] = DTYPES
    sequences: tuple[tuple[int, ...], ...] = SEQUENCE_SHAPES

    def workloads(self) -> tuple[Workload, ...]:
        """Every combination of the norms that makes sense: inputs of two dimensions have one layout.

        Raises:
            ArgumentError: an unknown operation.
        """
        return tuple(
            Workload(op.name, shape, layout, dtype)
            for op in (OPS[name] for name in map(_known, self.ops) if name in OPS)
            for shape in self.shapes
            if len(shape) == op.n_dims
            for layout in (self.layouts if op.n_dims == 4 else LAYOUTS[:1])
            for dtype in self.dtypes
        )

    def recurrent(self) -> tuple[Sequences, ...]:
        """Every recurrent layer on every shape of sequences; float32 only, BatchNorm not of one sequence alone.

        Raises:
            ArgumentError: an unknown operation.
        """
        ops = [name for name in map(_known, self.ops) if name in RECURRENT_OPS]
        return tuple(
            Sequences(op, shape)
            for op in ops
            for shape in self.sequences
            if "float32" in self.dtypes and not (op == "batch_lstm" and shape[1] == 1)
        )


GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "quick",
            100.0,
            0.4,
            0.6,
            shapes=((512, 768), (32, 256, 14, 14)),
            layouts=LAYOUTS[:1],
            dtypes=DTYPES[:1],
            sequences=SEQUENCE_SHAPES[1:2],
        ),
        Grid("full", 1000.0, 0.8, 1.2),
        Grid("none", 0.0, 0.4, 0.0, ops=()),
    )
}


def shape_text(shape: Sequence[int]) -> str:
    """4096x768 for (4096, 768)."""
    return "x".join(map(str, shape))


def parse_shape(text: str, least: int = 2) -> tuple[int, ...]:
    """The inverse of :func:`shape_text`.

    Raises:
        ArgumentError: not two or four whole numbers from ``least`` on.

    Example:
        >>> parse_shape("32x64x56x56")
        (32, 64, 56, 56)
    """
    parts = text.lower().split("x")
    if len(parts) not in (2, 4) or not all(part.isdecimal() and int(part) >= least for part in parts):
        raise ArgumentError(
            f"bench: expected a shape of two or four sizes of at least {least}, got {text!r}; write 4096x768 or "
            "32x64x56x56."
        )
    return tuple(map(int, parts))


def _known(name: str) -> str:
    known = (*OPS, *RECURRENT_OPS)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; choose from those."
        raise ArgumentError(f"bench: expected an operation of {', '.join(known)}, got {name!r}{hint}")
    return name
