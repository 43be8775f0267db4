"""The numbers that follow from times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.example import BATCH_NORM, LAYER_NORM, cell, record
from normkit.bench.results import COPY, CellResult, Record, below_par, costs_of_masks, geometric_mean


def test_the_ratio_is_against_the_faster_of_eager_and_compiled() -> None:
    one = cell(LAYER_NORM, "fwd", torch=800, compile=400, normkit=100)
    other = cell(LAYER_NORM, "fwd", torch=200, compile=400, normkit=100)
    assert (one.best_torch, one.ratio) == ("compile", 4.0)
    assert (other.best_torch, other.ratio) == ("torch", 2.0)


def test_without_compilation_it_is_against_eager() -> None:
    assert cell(LAYER_NORM, "fwd", torch=300, normkit=100).ratio == 3.0


def test_speed_counts_the_least_bytes_and_is_held_against_the_copy() -> None:
    one = cell(LAYER_NORM, "fwd", torch=800, normkit=100, **{COPY: 75})
    assert one.gb_per_s == pytest.approx(30.0)  # 3 MB in 100 µs
    assert one.copy_share == 0.75


def test_what_was_not_timed_has_no_numbers() -> None:
    red = CellResult(cell(BATCH_NORM, "fwd").cell, "red", 1)
    assert (red.best_torch, red.ratio, red.gb_per_s, red.copy_share) == (None,) * 4


def test_the_slower_cells_are_listed_worst_first() -> None:
    assert [(str(r.cell), ratio) for r, ratio in below_par(record().cells)] == [
        ("layer_norm 512x768 float32 fwd+bwd", 0.5),
        ("batch_norm 32x64x56x56 channels_last bfloat16 fwd", 0.97),
    ]


def test_a_mask_costs_what_the_same_cell_takes_longer() -> None:
    masked = replace(BATCH_NORM, op="batch_norm_masked")
    cells = [
        cell(BATCH_NORM, "fwd", torch=97, normkit=100),
        cell(masked, "fwd", torch=970, normkit=125, unmasked=100),
        cell(masked, "fwd+bwd", torch=970, normkit=125),  # of an older record: nothing to compare with
        CellResult(cell(masked, "fwd").cell, "red", 1),
    ]
    assert costs_of_masks(cells) == [(cells[1], 1.25)]


def test_the_mean_is_geometric_and_over_what_is_known() -> None:
    assert geometric_mean([0.5, 2.0, None, 8.0]) == pytest.approx(2.0)
    assert geometric_mean([None]) is None


def test_a_record_is_red_if_anything_is() -> None:
    example = record()
    assert example.is_red
    assert not Record({}, example.cells[:3], (), example.models[:1]).is_red
    assert Record({}, (), (), example.models).is_red


def test_a_recurrent_layer_has_two_bars() -> None:
    met, missed, red = record().recurrent
    assert (met.times_plain, met.times_loop, met.misses) == (1.0, 4.0, ())
    assert missed.misses == (
        "2.00 times the plain layer's time, not 1.25",
        "2.00 times as fast as the loop, not 4",
    )
    assert (red.times_plain, red.times_loop, red.misses) == (None, None, ())
    assert Record({}, recurrent=(red,)).is_red
    assert not Record({}, recurrent=(met, missed)).is_red
