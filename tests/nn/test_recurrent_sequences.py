"""Padded, packed and one by one: the same sequences give the same outputs, states and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from nn.recurrent import ALL, BATCH_LSTM, PLACED, ROW_LAYERS, Recurrent, flat, weighted_sum

LENGTHS = [4, 7, 1, 7, 3]
T, N, I, H = 7, 5, 3, 4  # noqa: E741
OPTIONS: dict[str, Any] = {"num_layers": 2, "bidirectional": True}


def sequences(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The same numbers, those of float32, in either dtype."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(length, I, generator=generator).to(dtype) for length in LENGTHS]


def gradients(layer: torch.nn.Module, outputs: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(weighted_sum(outputs), [*xs, *layer.parameters()]))


def built(case: Recurrent, **options: Any) -> torch.nn.RNNBase:
    return case.build(I, H, dtype=torch.float64, **OPTIONS, **options)


def run(layer: torch.nn.Module, how: str, xs: list[Tensor]) -> list[Tensor]:
    """Outputs, zeros in the padding, and states, as a function of the sequences."""
    first = layer.batch_first
    if how == "one by one":
        found = [flat(layer(x)) for x in xs]
        y = pad_sequence([y for y, *_ in found], batch_first=first)
        return [y, *(torch.stack(states, 1) for states in zip(*(s for _, *s in found), strict=True))]
    padded = pad_sequence(xs, batch_first=first, padding_value=torch.nan)
    if how == "padded":
        return flat(layer(padded, lengths=torch.tensor(LENGTHS)))
    packed = pack_padded_sequence(padded, LENGTHS, batch_first=first, enforce_sorted=False)
    y, states = layer(packed)
    return [pad_packed_sequence(y, batch_first=first)[0], *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.parametrize(("case", "norm"), PLACED, ids=str)
def test_three_ways_are_one(case: Recurrent, norm: str) -> None:
    """BatchNorm in evaluation here: one by one there are no statistics to take."""
    layer = built(case, norm=norm, batch_first=norm.startswith("rms_")).eval()
    results = []
    for how in ("padded", "packed", "one by one"):
        xs = [x.requires_grad_() for x in sequences()]
        outputs = run(layer, how, xs)
        results.append([*outputs, *gradients(layer, outputs, xs)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["padded", "packed", "one by one"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_in_float32_too(case: Recurrent, how: str) -> None:
    """Where the time loop is compiled: against float64, which it is not compiled for. BatchNorm in evaluation.

    Errors are a few units of float32, of the largest value, once for each step that they pass through, which here
    are those of two layers, and for each term of the sums over rows.
    """
    bound = 16 * (2 * T + sum(LENGTHS) ** 0.5) * 2.0**-24
    for norm in case.placements:
        single = case.build(I, H, norm=norm, **OPTIONS).eval()
        results = []
        for dtype in (torch.float32, torch.float64):
            layer = copy.deepcopy(single).to(dtype)
            xs = [x.requires_grad_() for x in sequences(dtype)]
            outputs = run(layer, how, xs)
            results.append([*outputs, *gradients(layer, outputs, xs)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=bound * (1 + b.abs().max().item()))


@pytest.mark.parametrize("norm", ["sum", "separate", "input"])
def test_a_training_batch_norm_sees_no_padding(norm: str) -> None:
    """Padded is packed, statistics and gradients included, whatever the padding holds and however much there is."""
    results = []
    for how, extra in (("packed", 0), ("padded", 0), ("padded", 3)):
        layer = built(BATCH_LSTM, norm=norm)
        xs = [x.requires_grad_() for x in sequences()]
        padded = pad_sequence([*xs, torch.zeros(T + extra, I)], padding_value=torch.nan)[:, :N]
        if how == "packed":
            y, states = layer(pack_padded_sequence(padded, LENGTHS, enforce_sorted=False))
            outputs = [pad_packed_sequence(y)[0], *states]
        else:
            y, states = layer(padded, lengths=LENGTHS)
            assert y[T:].abs().sum() == 0
            outputs = [y[:T], *states]
        results.append([*outputs, *gradients(layer, outputs, xs), *layer.buffers()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_initial_states_follow_their_sequences(case: Recurrent) -> None:
    layer = built(case).eval()
    xs = sequences()
    shape = (4, N, H)
    states = tuple(torch.randn(shape, dtype=torch.float64) for _ in range(2 if case.has_c else 1))
    padded = pad_sequence(xs)
    packed = pack_padded_sequence(padded, LENGTHS, enforce_sorted=False)
    hx = states if case.has_c else states[0]
    in_padding = flat(layer(padded, hx, lengths=LENGTHS))
    y, last = layer(packed, hx)
    in_packing = [pad_packed_sequence(y)[0], *(last if case.has_c else (last,))]
    for i, x in enumerate(xs):
        own = tuple(s[:, i] for s in states)
        alone = flat(layer(x, own if case.has_c else own[0]))
        for together in (in_padding, in_packing):
            torch.testing.assert_close(together[0][: len(x), i], alone[0])
            for a, b in zip(together[1:], alone[1:], strict=True):
                torch.testing.assert_close(a[:, i], b)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_packed_sequence_keeps_its_order(case: Recurrent) -> None:
    packed = pack_padded_sequence(pad_sequence(sequences()), LENGTHS, enforce_sorted=False)
    y, _ = built(case).eval()(packed)
    assert isinstance(y, PackedSequence)
    for a, b in zip(y[1:], packed[1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", ROW_LAYERS, ids=str)
def test_a_memory_of_its_own_is_not_needed(case: Recurrent) -> None:
    """Strided input gives what its copy gives."""
    layer = built(case)
    x = torch.randn(T, I, N, 2, dtype=torch.float64)[..., 0].transpose(1, 2)
    for a, b in zip(flat(layer(x)), flat(layer(x.contiguous())), strict=True):
        assert torch.equal(a, b)
