"""What is refused, by which class and in which words; nothing is changed by a call that raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from nn.recurrent import ALL, BATCH_LSTM, GRU, LSTM, RNN, Recurrent, step_of
from normkit import nn
from normkit.errors import ArgumentError, DtypeError, ShapeError, SingleValueError
from normkit.kernels import batch_lstm

x = torch.randn(5, 3, 4)

CONSTRUCTORS: list[tuple[Recurrent, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (LSTM, (0, 5), {}, ShapeError, "LayerNormLSTM: expected input_size of at least 1, got 0; give a larger one."),
    (
        GRU,
        (4, 5.0),
        {},
        DtypeError,
        "LayerNormGRU: expected hidden_size to be an integer, got 5.0; give a whole number.",
    ),
    (RNN, (4, 5, 0), {}, ShapeError, "LayerNormRNN: expected num_layers of at least 1, got 0; give a larger one."),
    (
        LSTM,
        (4, 5),
        {"proj_size": 5},
        ArgumentError,
        "LayerNormLSTM: expected proj_size smaller than hidden_size, got 5 and 5; 0 projects nothing.",
    ),
    (
        LSTM,
        (4, 5),
        {"proj_size": -1},
        ShapeError,
        "LayerNormLSTM: expected proj_size of at least 0, got -1; 0 projects nothing.",
    ),
    (
        LSTM,
        (4, 5),
        {"norm": "layer"},
        ArgumentError,
        "LayerNormLSTM: expected norm 'none', 'sum', 'separate', 'input', 'rms_sum', 'rms_separate' or 'rms_input', "
        "got 'layer'; use one of these.",
    ),
    (
        BATCH_LSTM,
        (4, 5),
        {"norm": "rms_sum"},
        ArgumentError,
        "BatchNormLSTM: expected norm 'none', 'sum', 'separate' or 'input', got 'rms_sum'; use one of these.",
    ),
    (
        RNN,
        (4, 5),
        {"nonlinearity": "gelu"},
        ArgumentError,
        "LayerNormRNN: expected nonlinearity 'tanh' or 'relu', got 'gelu'; use one of these.",
    ),
    (
        GRU,
        (4, 5),
        {"dropout": 1.5},
        ArgumentError,
        "LayerNormGRU: expected dropout between 0 and 1, got 1.5; 0.0 drops nothing.",
    ),
    (
        LSTM,
        (4, 5),
        {"dropout": True},
        ArgumentError,
        "LayerNormLSTM: expected dropout between 0 and 1, got True; 0.0 drops nothing.",
    ),
    (
        LSTM,
        (4, 5),
        {"eps": -1.0},
        ArgumentError,
        "LayerNormLSTM: expected eps to be a finite number, at least 0, got -1.0; 1e-5 is usual.",
    ),
    (
        BATCH_LSTM,
        (4, 5),
        {"eps": 0.0},
        ArgumentError,
        "BatchNormLSTM: expected eps to be a finite number, positive, got 0.0; 1e-5 is usual.",
    ),
    (
        BATCH_LSTM,
        (4, 5),
        {"max_steps": 0},
        ShapeError,
        "BatchNormLSTM: expected max_steps of at least 1, got 0; give a larger one.",
    ),
    (
        BATCH_LSTM,
        (4, 5),
        {"momentum": None},
        DtypeError,
        "BatchNormLSTM: expected momentum to be a number, got None; 0.1 is usual.",
    ),
]


@pytest.mark.parametrize(("case", "args", "options", "error", "message"), CONSTRUCTORS)
def test_constructors(
    case: Recurrent, args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        case.layer(*args, **options)
    assert str(caught.value) == message


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (
        "rank",
        (torch.randn(5, 3, 4, 1),),
        {},
        ShapeError,
        "expected 3-d (T, N, C) or 2-d (T, C) input, got 4-d [5, 3, 4, 1]; "
        "use the layer for that number of axes, or reshape.",
    ),
    (
        "size",
        (torch.randn(5, 3, 6),),
        {},
        ShapeError,
        "expected input_size=4 values on the input's last axis, got 6; build the layer for 6.",
    ),
    (
        "no steps",
        (torch.randn(0, 3, 4),),
        {},
        ShapeError,
        "expected input (T, N, C) of at least 1 step, got [0, 3, 4]; leave out empty sequences.",
    ),
    (
        "dtype",
        (x.double(),),
        {},
        DtypeError,
        "expected input of the weights' dtype float32, got float64; "
        "convert the input with .to(torch.float32) or the layer with .to(torch.float64).",
    ),
    (
        "integers",
        (x.long(),),
        {},
        DtypeError,
        "expected input of dtype float32, float64, bfloat16 or float16, got int64; call .float() on it.",
    ),
    (
        "a list",
        ([1.0],),
        {},
        DtypeError,
        "expected input to be a torch.Tensor, got list; convert it with torch.as_tensor.",
    ),
    (
        "a length of zero",
        (x,),
        {"lengths": [5, 0, 2]},
        ShapeError,
        "expected lengths from 1 to the input's 5 steps, got 0 for sequence 1; leave out empty sequences.",
    ),
    (
        "a length beyond the padding",
        (x,),
        {"lengths": torch.tensor([5, 6, 2])},
        ShapeError,
        "expected lengths from 1 to the input's 5 steps, got 6 for sequence 1; leave out empty sequences.",
    ),
    (
        "lengths for others",
        (x,),
        {"lengths": [5, 2]},
        ShapeError,
        "expected lengths of 3 integers, got [5, 2]; give one a sequence.",
    ),
    (
        "one length for all",
        (x,),
        {"lengths": 5},
        ShapeError,
        "expected lengths of 3 integers, got 5; give one a sequence.",
    ),
    (
        "one length of NumPy for all",
        (x,),
        {"lengths": np.array(5)},
        ShapeError,
        "expected lengths of 3 integers, got 5; give one a sequence.",
    ),
    (
        "a mask in place of lengths",
        (x,),
        {"lengths": torch.tensor([True, True, False])},
        ShapeError,
        "expected lengths of 3 integers, got [True, True, False]; give one a sequence.",
    ),
    (
        "fractions of steps",
        (x,),
        {"lengths": [2.5, 3, 1]},
        ShapeError,
        "expected lengths of 3 integers, got [2.5, 3, 1]; give one a sequence.",
    ),
    (
        "lengths of one sequence",
        (x[:, 0],),
        {"lengths": [5]},
        ShapeError,
        "expected lengths only with a batch of sequences, got unbatched input; cut it at its length.",
    ),
    (
        "lengths twice",
        (pack_padded_sequence(x, [5, 4, 2]),),
        {"lengths": [5, 4, 2]},
        ArgumentError,
        "expected lengths only with padded input, got a PackedSequence and lengths; a PackedSequence knows its own.",
    ),
    (
        "unsorted",
        (PackedSequence(torch.randn(6, 4), torch.tensor([1, 2, 3])),),
        {},
        ShapeError,
        "expected a PackedSequence whose batch_sizes are integers that never grow and add up to its 6 rows, got "
        "[1, 2, 3]; sort the sequences longest first, or let pack_padded_sequence(enforce_sorted=False) do it.",
    ),
    (
        "packed fractions",
        (PackedSequence(torch.randn(6, 4), torch.tensor([3.0, 2.0, 1.0])),),
        {},
        ShapeError,
        "expected a PackedSequence whose batch_sizes are integers that never grow and add up to its 6 rows, got "
        "[3.0, 2.0, 1.0]; sort the sequences longest first, or let pack_padded_sequence(enforce_sorted=False) do it.",
    ),
    (
        "the order of others",
        (PackedSequence(torch.randn(6, 4), torch.tensor([3, 2, 1]), torch.tensor([1, 0]), torch.tensor([1, 0])),),
        {},
        ShapeError,
        "expected a PackedSequence whose indices name each of its 3 sequences once, got indices of shape [2]; let "
        "pack_padded_sequence(enforce_sorted=False) make them.",
    ),
    (
        "packed nothing",
        (PackedSequence(torch.randn(0, 4), torch.tensor([], dtype=torch.int64)),),
        {},
        ShapeError,
        "expected a PackedSequence whose batch_sizes are integers that never grow and add up to its 0 rows, got []; "
        "sort the sequences longest first, or let pack_padded_sequence(enforce_sorted=False) do it.",
    ),
    (
        "packed images",
        (PackedSequence(torch.randn(3, 4, 1), torch.tensor([2, 1])),),
        {},
        ShapeError,
        "expected a PackedSequence of data (sum of lengths, C), got 3-d [3, 4, 1]; pack sequences of vectors.",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_calls(
    case: Recurrent, args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer = case.layer(4, 5)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(error) as caught:
        layer(*args, **options)
    assert str(caught.value) == f"{case}: {message}"
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


STATES = [
    (
        "shape",
        torch.zeros(2, 3, 5),
        ShapeError,
        "expected h_0 of shape [1, 3, 5] for this layer and input, got [2, 3, 5]; leave it out for zeros.",
    ),
    (
        "rank",
        torch.zeros(3, 5),
        ShapeError,
        "expected h_0 of shape [1, 3, 5] for this layer and input, got [3, 5]; leave it out for zeros.",
    ),
    (
        "dtype",
        torch.zeros(1, 3, 5, dtype=torch.float64),
        DtypeError,
        "expected h_0 of the input's dtype float32, got float64; convert it with .to(torch.float32).",
    ),
    ("type", [0.0], DtypeError, "expected h_0 to be a torch.Tensor, got list; convert it with torch.as_tensor."),
]


@pytest.mark.parametrize(("h", "error", "message"), [s[1:] for s in STATES], ids=[s[0] for s in STATES])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_initial_states(case: Recurrent, h: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        case.layer(4, 5)(x, (h, h) if case.has_c else h)
    assert str(caught.value) == f"{case}: {message}"


@pytest.mark.parametrize("case", [LSTM, BATCH_LSTM], ids=str)
def test_a_pair_of_states(case: Recurrent) -> None:
    with pytest.raises(DtypeError) as caught:
        case.layer(4, 5)(x, torch.zeros(1, 3, 5))
    assert (
        str(caught.value)
        == f"{case}: expected hx to be a pair of tensors (h_0, c_0), got Tensor; give both or neither."
    )
    with pytest.raises(DtypeError, match="got 1 of them"):
        case.layer(4, 5)(x, (torch.zeros(1, 3, 5),))
    with pytest.raises(ShapeError, match=r"expected c_0 of shape \[1, 3, 5\]"):
        case.layer(4, 5, proj_size=2)(x, (torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)))


@pytest.mark.parametrize("what", ["weight_hh", "bias_hh", "norm_weight_ih"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_parameters_of_another_size(case: Recurrent, what: str) -> None:
    """The kernels take sizes from the layer: a smaller tensor put in a weight's place had its neighbours read."""
    cell, layer = case.cell(4, 5, norm="input"), case.layer(4, 5, norm="input")
    for module, name, given in ((cell, what, (x[0],)), (layer, f"{what}_l0", (x,))):
        shape = list(getattr(module, name).shape)
        setattr(module, name, torch.nn.Parameter(torch.ones(shape[0] - 1)))
        with pytest.raises(ShapeError) as caught:
            module(*given, **(step_of(case) if module is cell else {}))
        assert str(caught.value) == (
            f"{type(module).__name__}: expected {name} of shape {shape}, as the layer was built, got shape "
            f"[{shape[0] - 1}]; build the layer for those sizes."
        )


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_parameter_that_was_taken_away(case: Recurrent) -> None:
    layer = case.layer(4, 5)
    layer.weight_hh_l0 = None
    with pytest.raises(
        ShapeError, match=f"^{case}: expected weight_hh_l0 of shape .*, as the layer was built, got none"
    ):
        layer(x)


def test_statistics_for_fewer_steps_than_the_layer_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the kernel, which would read beyond them."""
    monkeypatch.setattr(batch_lstm, "run", lambda *_: pytest.fail("the kernel was called"))
    layer = nn.BatchNormLSTM(4, 5, max_steps=2).eval()
    for statistics in layer.children():
        statistics.max_steps = 10**6
    with pytest.raises(IndexError):
        layer(x)


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor(case: Recurrent) -> None:
    with pytest.raises(DtypeError) as caught:
        case.cell(4, 5)(torch.nested.nested_tensor([x[0, 0], x[0, 1]]), **step_of(case))
    assert str(caught.value) == (
        f"{case.cell.__name__}: expected (N, C) or (C) input, got a nested tensor; call the cell step by step on a "
        "padded batch."
    )
    with pytest.raises(DtypeError) as caught:
        case.layer(4, 5)(torch.nested.nested_tensor([x[:, 0], x[:3, 1]]))
    assert str(caught.value) == (
        f"{case}: expected a padded batch or a PackedSequence, got a nested tensor; call .to_padded_tensor(0.0) and "
        "give lengths."
    )


def test_lengths_of_numpy_are_integers() -> None:
    lengths = (5, 3, 1)
    layer = nn.LayerNormLSTM(4, 5)
    want = layer(x, lengths=list(lengths))[0]
    assert torch.equal(layer(x, lengths=np.array(lengths))[0], want)
    assert torch.equal(layer(x, lengths=list(np.array(lengths)))[0], want)


def test_a_training_batch_of_one_sequence() -> None:
    layer = nn.BatchNormLSTM(4, 5)
    with pytest.raises(SingleValueError) as caught:
        layer(x[:, :1])
    assert str(caught.value) == (
        "BatchNormLSTM: expected more than 1 sequence in a training batch, got 1; the output would not depend on the "
        "input; use larger batches, .eval(), or LayerNormLSTM."
    )
    layer.eval()(x[:, :1])
    nn.BatchNormLSTM(4, 5, norm="none")(x[:, :1])
    with pytest.raises(
        SingleValueError, match=r"^BatchNormLSTMCell: expected more than 1 sequence in a training batch"
    ):
        nn.BatchNormLSTMCell(4, 5)(x[0, :1], step=0)


def test_sizes_of_numpy_are_integers() -> None:
    layer = nn.LayerNormLSTM(np.int64(4), np.int64(5), np.int64(2), proj_size=np.int64(3))
    assert layer(x)[0].shape == (5, 3, 3)
