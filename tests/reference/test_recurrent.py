"""The recurrent steps: torch's cells when the norm is taken out, and back-propagation over several steps."""

import importlib

import numpy as np
import pytest
import torch

from normkit import reference
from reference import cases

# float64 on both sides, a hundred operations on numbers of order 1.
TOLERANCE = 1e-13

CELLS = [
    ("layer_norm_rnn_step", torch.nn.RNNCell),
    ("layer_norm_lstm_step", torch.nn.LSTMCell),
    ("layer_norm_gru_step", torch.nn.GRUCell),
]


@pytest.mark.parametrize(("name", "cell_class"), CELLS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_step_without_the_norm_is_torch_s_cell(monkeypatch, name, cell_class, bias):
    """Gate order, the place of the biases and the state formula, with torch's parameters by torch's names."""
    module = importlib.import_module(f"normkit.reference._{name.removesuffix('_step')}")
    monkeypatch.setattr(module, "layer_norm", lambda x, *_: (x, None))
    torch.manual_seed(0)
    cell = cell_class(4, 5, bias=bias, dtype=torch.float64)
    x, h, c = torch.randn(3, 4), torch.randn(3, 5), torch.randn(3, 5)
    x, h, c = x.double(), h.double(), c.double()
    parameters = {key: value.detach().numpy() for key, value in cell.named_parameters()}

    if cell_class is torch.nn.LSTMCell:
        *got, _ = reference.layer_norm_lstm_step(x, h, c, **parameters)
        want = cell(x, (h, c))
    else:
        *got, _ = getattr(reference, name)(x, h, **parameters)
        want = (cell(x, h),)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", cases.STEPS, ids=lambda case: case.name)
def test_four_steps_back_propagate_as_autograd_does(case):
    """Each step's dh and dc go to the step before; the parameters' gradients add up."""
    inputs = case.inputs(5)
    states = [name for name in ("h", "c") if name in inputs]
    rng = np.random.default_rng(6)
    xs = rng.standard_normal((4, *case.shapes["x"]))
    dhs = rng.standard_normal((4, *case.shapes["h"]))

    caches, state = [], {s: inputs[s] for s in states}
    for x in xs:
        outputs, cache = case.forward(inputs | state | {"x": x})
        caches.append(cache)
        state = dict(zip(states, outputs, strict=True))
    total = {name: np.zeros_like(value) for name, value in inputs.items() if name not in ("x", *states)}
    carried = tuple(np.zeros(case.shapes[s]) for s in states)
    dxs = []
    for cache, dh in zip(reversed(caches), reversed(dhs), strict=True):
        gradients = case.backward((carried[0] + dh, *carried[1:]), cache)
        carried = tuple(gradients[s] for s in states)
        dxs.append(gradients["x"])
        for name in total:
            total[name] += gradients[name]

    t = {name: torch.from_numpy(value).requires_grad_() for name, value in inputs.items() if name != "x"}
    torch_xs = [torch.from_numpy(x).requires_grad_() for x in xs]
    state, loss = {s: t[s] for s in states}, torch.zeros((), dtype=torch.float64)
    for x, dh in zip(torch_xs, dhs, strict=True):
        outputs = case.plain(t | state | {"x": x})
        loss = loss + (outputs[0] * torch.from_numpy(dh)).sum()
        state = dict(zip(states, outputs, strict=True))
    loss.backward()

    for got, x in zip(reversed(dxs), torch_xs, strict=True):
        np.testing.assert_allclose(got, x.grad.numpy(), rtol=0, atol=1e-11)
    for name, got in (total | dict(zip(states, carried, strict=True))).items():
        np.testing.assert_allclose(got, t[name].grad.numpy(), rtol=0, atol=1e-11, err_msg=name)


def test_lstm_cell_is_carried_on_without_its_norm():
    """Ba et al. normalize c on its way to h only: c itself keeps its scale."""
    _, c, _ = reference.layer_norm_lstm_step(
        np.zeros((1, 1)),
        np.zeros((1, 2)),
        [[200.0, 400.0]],
        weight_ih=np.zeros((8, 1)),
        weight_hh=np.zeros((8, 2)),
    )
    np.testing.assert_array_equal(c, [[100.0, 200.0]])


def test_gru_normalizes_r_and_z_together_and_n_alone():
    """Scaling n's rows of the hidden weight changes nothing; scaling z's rows shifts weight from r to z."""
    case = cases.STEPS[2]
    inputs = case.inputs()
    inputs["ln_hh_bias"] = inputs["bias_hh"] = np.zeros(15)

    def forward(gate):
        scaled = inputs["weight_hh"].copy()
        scaled[5 * gate : 5 * (gate + 1)] *= 1e6
        _, cache = case.forward(inputs | {"weight_hh": scaled})
        return cache

    before = case.forward(inputs)[1]
    np.testing.assert_allclose(forward(2).r, before.r, rtol=0, atol=1e-15)
    np.testing.assert_allclose(forward(2).n, before.n, rtol=0, atol=1e-2)  # eps fades as n's variance grows
    assert np.abs(forward(1).r - before.r).max() > 0.05


@pytest.mark.parametrize("a", [-800.0, -40.0, 0.0, 40.0, 800.0])
def test_gates_neither_overflow_nor_cancel(a):
    """c_next = sigmoid(f) * c: at -40 the gate is 4.2e-18, not 0, and at -800 there is no overflow warning."""
    bias = np.zeros(8)
    bias[2:4] = a
    _, c, _ = reference.layer_norm_lstm_step(
        [[0.0]], np.zeros((1, 2)), [[1.0, 1.0]], weight_ih=np.zeros((8, 1)), weight_hh=np.zeros((8, 2)), bias_ih=bias
    )
    exact = np.exp(a) / (1 + np.exp(a)) if a < 0 else 1 / (1 + np.exp(-a))
    np.testing.assert_allclose(c, [[exact, exact]], rtol=1e-15)
