"""The layers against NumPy in float64: every placement, a thousand steps, float32 and bfloat16, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nn import recurrent_definitions as definitions
from nn.recurrent import BATCH_LSTM, BATCH_PLACEMENTS, GRU, LSTM, RNN, ROW_PLACEMENTS, Recurrent, flat, weighted_sum
from nn.recurrent import PLACED as EVERY
from normkit import reference
from tolerances import SUM_UNITS, ulp

ROWS = {LSTM: "lstm", GRU: "gru", RNN: "rnn"}
PLACED = [(case, norm) for case in ROWS for norm in ROW_PLACEMENTS]
EPS = 1e-5


def arrays(layer: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in layer.named_parameters()}


def exact(case: Recurrent, layer: Any, x: torch.Tensor, noise: Any = definitions.no_noise) -> tuple[np.ndarray, ...]:
    step = getattr(definitions.Definition(layer.norm, arrays(layer), layer.eps, noise), ROWS[case])
    zeros = np.zeros((x.shape[1], layer.hidden_size))
    state = (zeros, zeros) if case.has_c else (zeros,)
    if layer.proj_size:
        state = (np.zeros((x.shape[1], layer.proj_size)), zeros)
    return definitions.run(step, x.double().numpy(), *state)


@pytest.mark.parametrize(("case", "norm"), PLACED, ids=str)
def test_every_placement_is_its_definition(case: Recurrent, norm: str) -> None:
    """float64 on both sides, a few steps of a hundred operations on numbers of order 1."""
    for options in ({}, {"bias": False}, {"proj_size": 3} if case.has_c else {"bias": True}):
        layer = case.build(4, 5, norm=norm, dtype=torch.float64, **options)
        x = torch.randn(6, 3, 4, dtype=torch.float64)
        y, *state = (t.detach().numpy() for t in flat(layer(x)))
        want_y, *want_state = exact(case, layer, x)
        np.testing.assert_allclose(y, want_y, rtol=0, atol=1e-13)
        for got, want in zip(state, want_state, strict=True):
            np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-13)


def exact_and_spread(case: Recurrent, layer: Any, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The exact outputs, and how far float32 may be from them: what its errors do to the definition.

    A value that enters sigmoid or tanh errs by at most 16 u (1 + |a|): 8 u (1 + |x̂|) for a norm (``tolerances``),
    as much again for the products (dot products of 16 terms in float32), the bias and the sum; the functions
    themselves by a unit. Errors of that size, each with a random sign, are put into every step of a copy of the
    batch; what they do to the outputs is taken over the batch and all units, since where an error falls is chance,
    up to each step, and counts fourfold for the random signs.
    """
    rng = np.random.default_rng(0)
    n = x.shape[1]

    def noise(a: np.ndarray) -> np.ndarray:
        off = 16 * 2.0**-24 * (1 + np.abs(a)) * rng.choice([-1.0, 1.0], a.shape)
        off[:n] = 0
        return np.asarray(a + off)

    y = exact(case, layer, torch.cat([x, x], 1), noise)[0]
    return y[:, :n], spread(y[:, :n], y[:, n:])


def spread(y: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    off = np.abs(noisy - y).max(axis=(1, 2), keepdims=True)
    return 4 * np.maximum.accumulate(off, axis=0) + 2.0**-24


LONG = [
    (case, norm, dtype)
    for case, norms in ((LSTM, ("separate", "rms_separate")), (GRU, ("separate",)), (RNN, ("sum",)))
    for norm in norms
    for dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize(("case", "norm", "dtype"), LONG, ids=str)
def test_a_thousand_steps_stay_exact(case: Recurrent, norm: str, dtype: torch.dtype) -> None:
    """16-bit states are float32 from step to step, so that outputs are rounded once: half an ulp more."""
    layer = case.build(4, 16, norm=norm).to(dtype)
    x = torch.randn(1000, 2, 4).to(dtype)
    with torch.no_grad():
        y = layer(x)[0].double().numpy()
    want, bound = exact_and_spread(case, layer, x)
    assert bound.max() < 1e-2  # the errors of a thousand steps do not add up, or the bound would excuse anything
    if dtype == torch.bfloat16:
        bound = bound + 0.5 * ulp(want, dtype)
    assert (np.abs(y - want) <= bound).all()


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", BATCH_PLACEMENTS[1:])
def test_a_thousand_steps_of_batch_norm_stay_exact(norm: str, dtype: torch.dtype, mode: str) -> None:
    """As ``exact_and_spread``, with errors also in the products: 16 u of the sum of the magnitudes of their 16 terms.

    So are the running statistics of a training call, those of the 901 steps that share a place included; sums over
    steps add ``tolerances.SUM_UNITS`` u to ``tolerances.statistic``.
    """
    layer = BATCH_LSTM.build(4, 16, norm=norm, max_steps=100).to(dtype)
    layer.train(mode == "training")
    x = torch.randn(1000, 6, 4).to(dtype)
    before = {name: buffer.double().numpy().copy() for name, buffer in layer.named_buffers()}
    with torch.no_grad():
        y = layer(x)[0].double().numpy()

    rng = np.random.default_rng(0)

    def noise(a: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
        return a + 16 * 2.0**-24 * (1 + np.abs(a) if size is None else size) * rng.choice([-1.0, 1.0], a.shape)

    zeros = np.zeros((6, 16))
    runs = []
    for noisy in (definitions.no_noise, noise):
        running = None if layer.training else before
        definition = definitions.BatchDefinition(arrays(layer), EPS, noisy, running)
        want = definitions.run(definition.lstm, x.double().numpy(), zeros, zeros)[0]
        runs.append((want, updated(before, definition) if layer.training else before))
    (want, statistics), (noisy_y, noisy_statistics) = runs
    bound = spread(want, noisy_y)
    assert bound.max() < 1e-2
    if dtype == torch.bfloat16:
        bound = bound + 0.5 * ulp(want, dtype)
    assert (np.abs(y - want) <= bound).all()
    for name, buffer in layer.named_buffers():
        value, off = statistics[name], np.abs(noisy_statistics[name] - statistics[name]).max()
        at_most = 4 * off + (16 + SUM_UNITS) * 2.0**-24 * np.abs(value).max()
        assert (np.abs(buffer.double().numpy() - value) <= at_most).all(), name


def updated(before: dict[str, np.ndarray], definition: definitions.BatchDefinition) -> dict[str, np.ndarray]:
    """The running statistics after one training call: the last place takes the moments of all values from there on."""
    after = {}
    for place, rows in definition.entered.items():
        last = len(before[f"statistics_{place}_l0.running_mean"]) - 1
        values = [*rows[:last], np.concatenate(rows[last:])]
        for kind, found in (("mean", [v.mean(0) for v in values]), ("var", [v.var(0, ddof=1) for v in values])):
            name = f"statistics_{place}_l0.running_{kind}"
            after[name] = 0.9 * before[name] + 0.1 * np.stack(found)
    return after


@pytest.mark.parametrize("norm", ROW_PLACEMENTS)
def test_a_projection_onto_one_value(norm: str) -> None:
    """A norm of the multiples of one value is nearly its sign: an eps as large as the value keeps errors small."""
    layer = LSTM.build(4, 16, norm=norm, proj_size=1, eps=1.0)
    x = torch.randn(20, 3, 4)
    want, bound = exact_and_spread(LSTM, layer, x)
    assert bound.max() < 1e-3
    assert (np.abs(layer(x)[0].detach().double().numpy() - want) <= bound).all()


@pytest.mark.parametrize(
    ("case", "step", "backward"),
    [
        (LSTM, reference.layer_norm_lstm_step, reference.layer_norm_lstm_step_backward),
        (GRU, reference.layer_norm_gru_step, reference.layer_norm_gru_step_backward),
        (RNN, reference.layer_norm_rnn_step, reference.layer_norm_rnn_step_backward),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_gradients_are_the_references(case: Recurrent, step: Any, backward: Any, dtype: torch.dtype) -> None:
    """The reference's hand-written steps, forward and backward through time; both dtypes by the units of theirs."""
    steps, n = 6, 3
    layer = case.build(4, 5).to(dtype)
    x = torch.randn(steps, n, 4, dtype=dtype, requires_grad=True)
    y, *last = flat(layer(x))
    rng = np.random.default_rng(0)
    dys = rng.standard_normal(y.shape)
    dlast = [rng.standard_normal((n, 5)) for _ in last]
    torch.autograd.backward(
        [y, *last], [torch.from_numpy(dys).to(dtype), *(torch.from_numpy(d)[None].to(dtype) for d in dlast)]
    )

    names = {"norm_weight_sum": "ln_weight", "norm_bias_sum": "ln_bias"}
    p = {name.removesuffix("_l0"): value for name, value in arrays(layer).items()}
    p = {
        names.get(k, k.replace("norm_weight_", "ln_") + "_weight" if k.startswith("norm_weight") else k): v
        for k, v in p.items()
    }
    p = {(k.replace("norm_bias_", "ln_") + "_bias" if k.startswith("norm_bias") else k): v for k, v in p.items()}
    state: list[np.ndarray] = [np.zeros((n, 5)) for _ in last]
    caches = []
    for rows in x.detach().double().numpy():
        *state, cache = step(rows, *state, **p, eps=EPS)
        caches.append(cache)
    carried = list(dlast)
    totals: dict[str, np.ndarray] = {}
    dxs = []
    for cache, dy in zip(reversed(caches), dys[::-1], strict=True):
        found = backward(carried[0] + dy, *carried[1:], cache)._asdict()
        dxs.append(found.pop("dx"))
        carried = [found.pop(name) for name in ("dh", "dc")[: len(last)]]
        for name, value in found.items():
            totals[name] = totals.get(name, 0) + value

    assert x.grad is not None
    unit = torch.finfo(dtype).eps
    bound = {"rtol": 0, "atol": 2000 * unit}  # six steps of some 300 operations on numbers of order 1
    np.testing.assert_allclose(x.grad.numpy(), dxs[::-1], **bound)
    grads = {name.removesuffix("_l0"): g.grad.numpy() for name, g in layer.named_parameters() if g.grad is not None}
    assert len(grads) == len(totals)
    for name, got in grads.items():
        kind, _, place = name.removeprefix("norm_").partition("_")
        key = f"d{name}"
        if name.startswith("norm_"):
            key = f"dln_{kind}" if place == "sum" else f"dln_{place}_{kind}"
        np.testing.assert_allclose(got, totals[key], err_msg=name, **bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("case", "norm"), EVERY, ids=str)
def test_nan_stays_in_its_sequence(case: Recurrent, norm: str, dtype: torch.dtype) -> None:
    """Outputs, states and the gradients of inputs, by the kernels and without. BatchNorm in evaluation: in training
    the statistics are of all sequences.
    """
    layer = case.build(4, 5, norm=norm, num_layers=2, bidirectional=True).to(dtype).eval()
    x = torch.randn(6, 3, 4).to(dtype)
    dirt = x.clone()
    dirt[3, 1, 2] = torch.nan
    dirt[0, 2, 0] = torch.inf
    found = []
    for given in (x, dirt):
        outputs = flat(layer(given.requires_grad_()))
        found.append([*outputs, *torch.autograd.grad(weighted_sum(outputs), given)])
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(dirty[:, 0], clean[:, 0])
        assert dirty[:, 1].isnan().any()


@pytest.mark.parametrize("case", list(ROWS), ids=str)
def test_a_sequence_does_not_depend_on_its_batch(case: Recurrent) -> None:
    """To rounding: the products are torch's, and it may add them up in another order for another batch size."""
    layer = case.build(4, 5, num_layers=2, bidirectional=True)
    x = torch.randn(6, 9, 4)
    together = layer(x)[0]
    for i in range(9):
        torch.testing.assert_close(layer(x[:, i : i + 1])[0], together[:, i : i + 1], rtol=1e-5, atol=1e-6)
