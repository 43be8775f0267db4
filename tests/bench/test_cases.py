"""The cases as data: which there are, and the least bytes that each moves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from normkit.bench.cases import (
    DTYPES,
    GRIDS,
    LAYOUTS,
    MAP_SHAPES,
    OPS,
    RECURRENT_OPS,
    ROW_SHAPES,
    SEQUENCE_SHAPES,
    Cell,
    DType,
    Grid,
    Layout,
    Mode,
    Sequences,
    Workload,
    floor_bytes,
    parse_shape,
)
from normkit.errors import ArgumentError


def test_the_full_grid_has_every_operation_on_every_input_it_takes() -> None:
    found = GRIDS["full"].workloads()
    assert len(set(found)) == len(found)
    rows = {op.name for op in OPS.values() if op.slab == "row"}
    for name in OPS:
        shapes, n_layouts = (ROW_SHAPES, 1) if name in rows else (MAP_SHAPES, len(LAYOUTS))
        mine = [w for w in found if w.op == name]
        assert {w.shape for w in mine} == set(shapes)
        assert len(mine) == len(shapes) * n_layouts * len(DTYPES)


def test_the_quick_grid_has_each_operation_once() -> None:
    assert [w.op for w in GRIDS["quick"].workloads()] == list(OPS)


def test_the_full_grid_has_every_recurrent_layer_on_every_shape_of_sequences() -> None:
    found = GRIDS["full"].recurrent()
    alone = [shape for shape in SEQUENCE_SHAPES if shape[1] == 1]  # BatchNorm has no statistics of one sequence
    assert len(set(found)) == len(found) == len(RECURRENT_OPS) * len(SEQUENCE_SHAPES) - len(alone)
    assert {(case.op, case.shape) for case in found}.isdisjoint(("batch_lstm", shape) for shape in alone)
    assert [case.op for case in GRIDS["quick"].recurrent()] == list(RECURRENT_OPS)


def test_recurrent_layers_are_float32() -> None:
    own = Grid("own", 1.0, 1.0, 1.0, ops=("lstm", "layer_norm"), sequences=((5, 1, 3, 2),))
    assert own.recurrent() == (Sequences("lstm", (5, 1, 3, 2)),)
    assert replace(own, dtypes=("bfloat16",)).recurrent() == ()
    assert {w.op for w in own.workloads()} == {"layer_norm"}


def test_the_empty_grid_is_empty() -> None:
    assert GRIDS["none"].workloads() == ()
    assert GRIDS["none"].recurrent() == ()


# Bytes an element, from the table of accesses: reads and writes of the input's size times the bytes of an item.
@pytest.mark.parametrize(
    ("op", "shape", "layout", "dtype", "mode", "per_element"),
    [
        ("layer_norm", (64, 768), "contiguous", "float32", "fwd", 8),
        ("layer_norm", (64, 768), "contiguous", "float32", "fwd+bwd", 20),
        ("rms_norm", (64, 768), "contiguous", "bfloat16", "fwd+bwd", 10),
        ("add_layer_norm", (64, 768), "contiguous", "float32", "fwd", 16),
        ("add_rms_norm", (64, 768), "contiguous", "float32", "fwd+bwd", 32),
        ("batch_norm", (32, 64, 56, 56), "contiguous", "float32", "fwd", 8),
        ("batch_norm", (32, 64, 56, 56), "contiguous", "float32", "fwd+bwd", 20),
        ("batch_norm", (32, 64, 56, 56), "channels_last", "float32", "fwd", 12),
        ("batch_norm", (32, 64, 56, 56), "channels_last", "float32", "fwd+bwd", 32),
        ("batch_norm", (64, 64, 56, 56), "contiguous", "float32", "fwd+bwd", 8 + 20),  # x stays; x and dy do not
        ("batch_norm_eval", (32, 64, 56, 56), "channels_last", "float32", "fwd+bwd", 20),
        ("batch_norm_relu", (32, 64, 56, 56), "contiguous", "bfloat16", "fwd", 4),
        ("batch_norm_add_relu", (8, 512, 7, 7), "contiguous", "float32", "fwd", 12),
        ("batch_norm_add_relu", (8, 512, 7, 7), "contiguous", "float32", "fwd+bwd", 28),
        ("batch_norm_add_relu", (32, 64, 56, 56), "channels_last", "float32", "fwd+bwd", 40),
        ("group_norm", (32, 64, 56, 56), "channels_last", "float32", "fwd", 8),
        ("group_norm", (32, 64, 56, 56), "channels_last", "float32", "fwd+bwd", 28),
        ("group_norm_silu", (8, 512, 7, 7), "contiguous", "float32", "fwd+bwd", 20),
        ("instance_norm", (2, 3, 600, 600), "contiguous", "float32", "fwd", 12),
        ("layer_norm2d", (32, 64, 56, 56), "contiguous", "float32", "fwd+bwd", 20),
    ],
)
def test_the_least_bytes_moved(
    op: str, shape: tuple[int, ...], layout: Layout, dtype: DType, mode: Mode, per_element: int
) -> None:
    cell = Cell(Workload(op, shape, layout, dtype), mode)
    assert floor_bytes(cell) == per_element * math.prod(shape)


def test_names_leave_out_the_layout_where_there_is_but_one() -> None:
    assert str(Cell(Workload("layer_norm", (4, 8), "contiguous", "float32"), "fwd")) == "layer_norm 4x8 float32 fwd"
    assert str(Workload("batch_norm", (2, 3, 4, 5), "channels_last", "bfloat16")) == (
        "batch_norm 2x3x4x5 channels_last bfloat16"
    )


def test_an_unknown_operation_is_named_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"expected an operation of layer_norm, .*, got 'layernorm'; did you mean"):
        Grid("own", 1.0, 1.0, 1.0, ops=("layernorm",)).workloads()
    with pytest.raises(ArgumentError, match=r"got 'lsmt'; did you mean lstm"):
        Grid("own", 1.0, 1.0, 1.0, ops=("lsmt",)).recurrent()


@pytest.mark.parametrize("text", ["", "4096", "4x8x9", "4x-8", "axb", "1x8"])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="expected a shape of two or four sizes of at least 2"):
        parse_shape(text)


def test_a_single_sequence_is_one() -> None:
    assert parse_shape("50x1x128x128", least=1) == (50, 1, 128, 128)
