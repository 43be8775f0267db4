"""What cells refuse, by which class and in which words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from nn.recurrent import ALL, BATCH_LSTM, LSTM, Recurrent, step_of
from normkit import nn
from normkit.errors import ArgumentError, DtypeError, ShapeError

x = torch.randn(5, 3, 4)

STEPS: list[tuple[str, Any, type[Exception], str]] = [
    (
        "a sequence",
        x,
        ShapeError,
        "expected 2-d (N, C) or 1-d (C) input, got 3-d [5, 3, 4]; use the layer for that number of axes, or reshape.",
    ),
    (
        "size",
        torch.randn(3, 6),
        ShapeError,
        "expected input_size=4 values on the input's last axis, got 6; build the layer for 6.",
    ),
    (
        "dtype",
        x[0].double(),
        DtypeError,
        "expected input of the weights' dtype float32, got float64; "
        "convert the input with .to(torch.float32) or the layer with .to(torch.float64).",
    ),
    (
        "packed",
        pack_padded_sequence(x, [5, 4, 2]),
        DtypeError,
        "expected input to be a torch.Tensor, got PackedSequence; give it to a layer of sequences, or its data to "
        "this one.",
    ),
]


@pytest.mark.parametrize(("given", "error", "message"), [s[1:] for s in STEPS], ids=[s[0] for s in STEPS])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_cells(case: Recurrent, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        case.cell(4, 5)(given, **step_of(case))
    assert str(caught.value) == f"{case.cell.__name__}: {message}"


@pytest.mark.parametrize(
    ("h", "error", "got"),
    [
        (
            torch.zeros(4, 5),
            ShapeError,
            "h_0 of shape [3, 5] for this layer and input, got [4, 5]; leave it out for zeros",
        ),
        (torch.zeros(5), ShapeError, "h_0 of shape [3, 5] for this layer and input, got [5]; leave it out for zeros"),
        (
            torch.zeros(3, 5).double(),
            DtypeError,
            "h_0 of the input's dtype float32, got float64; convert it with .to(torch.float32)",
        ),
        ([0.0], DtypeError, "h_0 to be a torch.Tensor, got list; convert it with torch.as_tensor"),
    ],
    ids=["shape", "rank", "dtype", "type"],
)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_states_of_cells(case: Recurrent, h: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error) as caught:
        case.cell(4, 5)(x[0], (h, h) if case.has_c else h, **step_of(case))
    assert str(caught.value) == f"{case.cell.__name__}: expected {got}."


@pytest.mark.parametrize("case", [LSTM, BATCH_LSTM], ids=str)
def test_a_pair_of_states_of_cells(case: Recurrent) -> None:
    cell, h = case.cell(4, 5), torch.zeros(3, 5)
    with pytest.raises(DtypeError) as caught:
        cell(x[0], h, **step_of(case))
    assert str(caught.value) == (
        f"{case.cell.__name__}: expected hx to be a pair of tensors (h_0, c_0), got Tensor; give both or neither."
    )
    with pytest.raises(ShapeError, match=r"expected c_0 of shape \[3, 5\] .* got \[3, 4\]"):
        cell(x[0], (h, torch.zeros(3, 4)), **step_of(case))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_constructors_of_cells(case: Recurrent) -> None:
    name = case.cell.__name__
    with pytest.raises(ShapeError, match=f"^{name}: expected hidden_size of at least 1, got 0; give a larger one"):
        case.cell(4, 0)
    with pytest.raises(ArgumentError, match=f"^{name}: expected norm 'none', .* got 'layer'; use one of these"):
        case.cell(4, 5, norm="layer")
    with pytest.raises(ArgumentError, match=f"^{name}: expected eps to be a finite number, .* got nan; 1e-5 is usual"):
        case.cell(4, 5, eps=float("nan"))


def test_a_step_before_the_first() -> None:
    with pytest.raises(ShapeError) as caught:
        nn.BatchNormLSTMCell(4, 5)(x[0], step=-1)
    assert str(caught.value) == (
        "BatchNormLSTMCell: expected step of at least 0, got -1; give the number of the time step, from 0."
    )
