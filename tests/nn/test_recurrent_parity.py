"""Without a norm the layers and cells are torch's: numbers, shapes, names, whatever the options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import normkit.nn as nk
from nn.recurrent import ALL, BATCH_LSTM, LSTM, ROW_LAYERS, Recurrent, flat, step_of, weighted_sum

T, N, I, H = 5, 6, 3, 4  # noqa: E741
LENGTHS = [5, 3, 4, 1, 5, 2]
OPTIONS = [
    {"num_layers": n, "dropout": dropout, "bidirectional": bidirectional, "bias": bias, "proj_size": proj_size}
    for (n, dropout), bidirectional, bias, proj_size in itertools.product(
        ((1, 0.0), (3, 0.0), (3, 0.5)), (False, True), (False, True), (0, 2)
    )
]


def same(a: torch.Tensor, b: torch.Tensor, share: float = 1e-6) -> None:
    """To this share of the largest value, in the same shape."""
    largest = b.abs().max().item() if b.numel() else 0.0
    torch.testing.assert_close(a, b, rtol=0, atol=share * largest)


def close(ours: Any, theirs: Any) -> None:
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        same(a, b)


def pair(case: Recurrent, **options: Any) -> tuple[torch.nn.RNNBase, torch.nn.RNNBase]:
    if not case.has_c:
        options.pop("proj_size", None)
    theirs = case.torch_layer(I, H, **options)
    ours = case.layer(I, H, norm="none", **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_torch_loads_what_was_trained_here(case: Recurrent) -> None:
    ours, theirs = pair(case, num_layers=2, bidirectional=True, proj_size=2)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(T, N, I)
    close(ours(x), theirs(x))


@pytest.mark.parametrize("case", [LSTM, BATCH_LSTM], ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_onto_one_value_is_torchs(case: Recurrent) -> None:
    ours, theirs = pair(case, num_layers=2, bidirectional=True, proj_size=1)
    x = torch.randn(T, N, I)
    close(ours(x), theirs(x))
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    close(ours(packed), theirs(packed))


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.parametrize("form", ["padded", "batch_first", "unbatched", "packed", "packed batch_first"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_every_combination_is_torchs(case: Recurrent, form: str) -> None:
    first = form.endswith("batch_first")
    x = torch.randn(N, T, I) if first else torch.randn(T, N, I)
    inputs: Any = x
    if form == "unbatched":
        inputs = torch.randn(T, I)
    elif form.startswith("packed"):
        inputs = pack_padded_sequence(x, LENGTHS, batch_first=first, enforce_sorted=False)
    for options in OPTIONS:
        if options["proj_size"] and not case.has_c:
            continue
        ours, theirs = (layer.eval() for layer in pair(case, batch_first=first, **options))
        theirs_result = theirs(inputs)
        close(ours(inputs), theirs_result)
        state = tuple(torch.randn_like(s) for s in flat(theirs_result)[1:])
        hx = state if case.has_c else state[0]
        close(ours(inputs, hx), theirs(inputs, hx))


@pytest.mark.parametrize("case", ROW_LAYERS, ids=str)
@pytest.mark.parametrize("batch", [1, 8], ids=["one sequence", "eight"])
def test_a_usual_size_is_torchs(case: Recurrent, batch: int) -> None:
    """Widths that fill whole vectors and panels of the kernels, and fifty steps for an error to grow in."""
    theirs = case.torch_layer(128, 128)
    ours = case.layer(128, 128, norm="none")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(50, batch, 128)
    close(ours(x), theirs(x))


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_gradients_are_torchs(case: Recurrent) -> None:
    """To twice what outputs may be off by: a gradient passes through the steps forward and back."""
    ours, theirs = pair(case, num_layers=2, bidirectional=True, proj_size=2)
    grads = []
    for layer in (ours, theirs):
        x = torch.arange(float(T * N * I)).sin().view(T, N, I).requires_grad_()
        packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        weighted_sum(flat(layer(packed))).backward()
        grads.append([x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*grads, strict=True):
        same(a, b, 2e-6)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_same_seed_gives_torchs_weights(case: Recurrent) -> None:
    """Also with a norm: its parameters draw no random numbers."""
    torch.manual_seed(3)
    theirs = case.torch_layer(I, H, num_layers=2, bidirectional=True)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    ours = dict(case.layer(I, H, num_layers=2, bidirectional=True).named_parameters())
    assert torch.equal(torch.get_rng_state(), after)
    for name, weight in theirs.named_parameters():
        assert torch.equal(ours.pop(name), weight)
    assert ours
    assert all(name.startswith("norm_") for name in ours)


def test_dropout_is_between_layers_and_follows_the_seed() -> None:
    ours, _ = pair(LSTM, num_layers=3, dropout=0.5)
    x = torch.randn(T, N, I)
    one, other = flat(ours(x)), flat(ours(x))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1][0], other[1][0])  # before the first dropout
    torch.manual_seed(1)
    again = flat(ours(x))[0]
    torch.manual_seed(1)
    assert torch.equal(flat(ours(x))[0], again)


def test_dropout_with_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        LSTM.layer(I, H, dropout=0.5)


def test_relu() -> None:
    theirs = torch.nn.RNN(I, H, 2, "relu")
    ours = ALL[2].layer(I, H, 2, "relu", norm="none")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, N, I)
    close(ours(x), theirs(x))


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(N, I), (I,)], ids=["batch", "unbatched"])
def test_cells_are_torchs(case: Recurrent, bias: bool, shape: tuple[int, ...]) -> None:
    theirs = case.torch_cell(I, H, bias)
    ours = case.cell(I, H, bias, norm="none")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    step = step_of(case)
    x, hidden = torch.randn(shape), torch.randn(*shape[:-1], H)
    hx = (hidden, torch.randn_like(hidden)) if case.has_c else hidden
    for state in (None, hx):
        got, want = ours(x, state, **step), theirs(x, state)
        got, want = (r if isinstance(r, tuple) else (r,) for r in (got, want))
        for a, b in zip(got, want, strict=True):
            same(a, b)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_an_empty_batch_is_torchs(case: Recurrent) -> None:
    ours, theirs = pair(case)
    x = torch.randn(T, 0, I)
    close(ours(x), theirs(x))
    for norm in case.placements:
        layer = case.layer(I, H, norm=norm)
        for given in ({}, {"lengths": []}):
            close(layer(x, **given), theirs(x))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_layer_is_its_cell_step_after_step(case: Recurrent) -> None:
    for norm in case.placements:
        layer = case.build(I, H, norm=norm)
        cell = case.cell(I, H, norm=norm)
        cell.load_state_dict({name.replace("_l0", ""): value for name, value in layer.state_dict().items()})
        x = torch.randn(T, N, I)
        y, *last = flat(layer(x))
        state: Any = None
        for t in range(T):
            state = cell(x[t], state, **step_of(case, t))
            torch.testing.assert_close(state[0] if case.has_c else state, y[t], rtol=1e-5, atol=1e-6)
        for a, b in zip(state if case.has_c else (state,), last, strict=True):
            torch.testing.assert_close(a, b[0], rtol=1e-5, atol=1e-6)
        for (name, a), b in zip(cell.named_buffers(), layer.buffers(), strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradient_of_relu_where_it_is_nan() -> None:
    """One step of one sequence is NaN: steps before it get what torch's layer gives them."""
    theirs = torch.nn.RNN(4, 4, nonlinearity="relu")
    ours = nk.LayerNormRNN(4, 4, nonlinearity="relu", norm="none")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 2, 4)
    x[1, 0, 0] = torch.nan
    found, right = (
        torch.autograd.grad(layer(leaf)[0].sum(), leaf)[0]
        for layer, leaf in ((ours, x.clone().requires_grad_()), (theirs, x.clone().requires_grad_()))
    )
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6, equal_nan=True)
