"""The compiled time loop of BatchNormLSTM against NumPy and torch operations in float64: results, gradients, bits."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nn.recurrent import BATCH_LSTM, flat, weighted_sum
from normkit import reference
from normkit.kernels import batch_lstm

PLACEMENTS = ("separate", "sum", "input")
LENGTHS = ([6, 6, 6, 6, 6], [6, 6, 4, 2, 1], [5, 5, 5, 3, 3])
MODES = ("training", "evaluation")
EPS = 1e-5


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each call of the kernel gave the result, so that no test compares a path with itself."""
    seen: list[bool] = []
    original = batch_lstm.run

    def watched(*args: Any) -> Any:
        found = original(*args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(batch_lstm, "run", watched)
    yield seen
    assert seen, "no call has reached the kernel"


def built(norm: str, n_in: int, n_hidden: int, **options: Any) -> torch.nn.RNNBase:
    """With weights that keep an error from growing, and norms' weights near the 0.1 that they start from."""
    return BATCH_LSTM.build(n_in, n_hidden, norm=norm, **options)


def outcome(layer: torch.nn.Module, x: Tensor, lengths: list[int], hx: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Outputs, final states, the gradients of everything with random dy, and the statistics after the call."""
    inputs = [t.clone().requires_grad_() for t in (x, *hx)]
    outputs = flat(layer(inputs[0], (inputs[1], inputs[2]), lengths=lengths))
    gradients = torch.autograd.grad(weighted_sum(outputs), [*inputs, *layer.parameters()])
    return [t.detach().clone() for t in (*outputs, *gradients, *layer.buffers())]


def check_close(
    norm: str, lengths: list[int], n_in: int, n_hidden: int, mode: str = "training", **options: Any
) -> None:
    """float32 against float64, the same numbers.

    Errors are a few units of float32, of the largest value, once for each step that they pass through and each term
    of the sums over rows. A norm of few sequences that happen to be close multiplies them by the inverse of its
    deviation: as much as a unit in every input does to the exact result, at each step.
    """
    single = built(norm, n_in, n_hidden, **options)
    single.train(mode == "training")
    generator = torch.Generator().manual_seed(4)
    n, steps, directions = len(lengths), max(lengths), 2 if single.bidirectional else 1
    x = torch.randn(steps, n, n_in, generator=generator)
    shapes = [(directions * single.num_layers, n, size) for size in (single.proj_size or n_hidden, n_hidden)]
    hx = tuple(0.5 * torch.randn(shape, generator=generator) for shape in shapes)
    double = copy.deepcopy(single).double()
    got = outcome(single, x, lengths, hx)
    want = outcome(double, x.double(), lengths, tuple(s.double() for s in hx))
    inputs = [a_unit_off(t.double(), generator) for t in (x, *hx)]
    for parameter in double.parameters():
        parameter.data = a_unit_off(parameter.data, generator)
    nearby = outcome(double, inputs[0], lengths, (inputs[1], inputs[2]))[: len(want) - len(list(double.buffers()))]
    bound = 16 * (steps + math.sqrt(sum(lengths))) * 2.0**-24
    for number, (a, b, c) in enumerate(zip_longest(got, want, nearby)):
        spread = 0.0 if c is None else (b - c).abs().max().item()
        off = (a.double() - b).abs().max().item()
        assert off <= bound * (1 + b.abs().max().item()) + 16 * steps * spread, (number, off, bound, spread)


def a_unit_off(t: Tensor, generator: torch.Generator) -> Tensor:
    return t * (1 + 2.0**-24 * (2 * torch.randint(2, t.shape, generator=generator) - 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("norm", PLACEMENTS)
def test_every_placement(norm: str, lengths: list[int], mode: str, served: list[bool], poisoned_memory: None) -> None:
    check_close(norm, lengths, 3, 20, mode)
    assert served == [True]


@pytest.mark.parametrize("norm", PLACEMENTS)
def test_with_a_projection_layers_and_directions(norm: str, served: list[bool], poisoned_memory: None) -> None:
    check_close(norm, [6, 6, 4, 2, 1], 3, 20, proj_size=7)
    check_close(norm, [4, 3, 3], 3, 18, proj_size=16, num_layers=2, bidirectional=True, bias=False)
    assert all(served)


@pytest.mark.parametrize("n_hidden", [1, 2, 15, 16, 17, 31, 33, 129])
def test_every_width(n_hidden: int, poisoned_memory: None) -> None:
    for norm in PLACEMENTS:
        check_close(norm, [3, 3, 3, 2, 2], 3, n_hidden)


@pytest.mark.parametrize("n", [3, 5, 6, 7, 12, 13, 17, 64, 65, 130])
def test_every_batch(n: int, poisoned_memory: None) -> None:
    check_close("separate", [3] * (n - n // 3) + [2] * (n // 3), 2, 18)


def test_steps_beyond_the_bound(served: list[bool]) -> None:
    for mode in MODES:
        check_close("separate", [6, 6, 4, 2, 1], 3, 5, mode, max_steps=2)
    assert served == [True, True]


def by_hand(norm: str, p: dict[str, np.ndarray], x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """y and all gradients of equal lengths, forward and backward through time on the reference's BatchNorm."""

    def normed(place: str, v: np.ndarray) -> tuple[np.ndarray, Any]:
        if f"norm_weight_{place}" not in p:
            return v, None
        return reference.batch_norm(v, p[f"norm_weight_{place}"], p.get(f"norm_bias_{place}"), EPS)

    found = {name: np.zeros_like(value) for name, value in p.items()}

    def back(place: str, g: np.ndarray, cache: Any) -> np.ndarray:
        if cache is None:
            return g
        dx, dw, db = reference.batch_norm_backward(g, cache)
        found[f"norm_weight_{place}"] += dw
        if f"norm_bias_{place}" in p:
            found[f"norm_bias_{place}"] += db
        return dx

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    biases = p["bias_ih"] + p["bias_hh"]
    h = c = np.zeros((x.shape[1], p["weight_hh"].shape[1]))
    kept, outputs = [], []
    for x_t in x:
        pre_x, of_x = normed("ih", x_t @ p["weight_ih"].T)
        pre_h, of_h = normed("hh", h @ p["weight_hh"].T)
        a, of_a = normed("sum", pre_x + pre_h + biases)
        i, f, g, o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c_next = f * c + i * g
        u, of_c = normed("c", c_next)
        kept.append((x_t, h, c, i, f, g, o, np.tanh(u), of_x, of_h, of_a, of_c))
        h, c = o * np.tanh(u), c_next
        outputs.append(h)
    dh = dc = np.zeros_like(h)
    dxs = []
    for (x_t, h_before, c_before, i, f, g, o, s, of_x, of_h, of_a, of_c), dy_t in zip(
        kept[::-1], dy[::-1], strict=True
    ):
        dh = dh + dy_t
        dc = dc + back("c", dh * o * (1 - s**2), of_c)
        da = np.concatenate(
            [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g**2), dh * s * o * (1 - o)], axis=1
        )
        ds = back("sum", da, of_a)
        found["bias_ih"] += ds.sum(0)
        found["bias_hh"] += ds.sum(0)
        du, dq = back("ih", ds, of_x), back("hh", ds, of_h)
        found["weight_ih"] += du.T @ x_t
        found["weight_hh"] += dq.T @ h_before
        dxs.append(du @ p["weight_ih"])
        dh, dc = dq @ p["weight_hh"], dc * f
    return {"y": np.stack(outputs), "x": np.stack(dxs[::-1]), **found}


@pytest.mark.parametrize("norm", PLACEMENTS)
def test_is_the_reference_forward_and_backward(norm: str) -> None:
    """Errors as in ``check_close``; a bias that the batch's mean takes off again has those of the terms of its sum."""
    layer = built(norm, 4, 18)
    x = torch.randn(7, 9, 4, requires_grad=True)
    dy = torch.randn(7, 9, 18)
    y = layer(x)[0]
    y.backward(dy)
    p = {name.removesuffix("_l0"): value.detach().double().numpy() for name, value in layer.named_parameters()}
    want = by_hand(norm, p, x.detach().double().numpy(), dy.double().numpy())
    assert x.grad is not None
    got = {"y": y.detach(), "x": x.grad} | {
        name.removesuffix("_l0"): value.grad for name, value in layer.named_parameters()
    }
    assert got.keys() == want.keys()
    for name, value in want.items():
        bound = 256 * (7 + math.sqrt(63)) * 2.0**-24 * (1 + np.abs(value).max())
        np.testing.assert_allclose(got[name].double().numpy(), value, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", PLACEMENTS)
def test_padded_is_packed(norm: str, mode: str) -> None:
    """Bit by bit, since inside both are the same rows; statistics included."""
    lengths = [4, 7, 1, 7, 3]
    results = []
    for how in ("padded", "packed"):
        layer = built(norm, 3, 12, bidirectional=True)
        layer.train(mode == "training")
        x = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if how == "padded":
            y, states = layer(x, lengths=lengths)
        else:
            y, states = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
            y = pad_packed_sequence(y)[0]
        grads = torch.autograd.grad(weighted_sum([y, *states]), [x, *layer.parameters()])
        results.append([y, *states, *grads, *layer.buffers()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm", PLACEMENTS)
def test_one_by_one_in_evaluation(norm: str) -> None:
    layer = built(norm, 3, 12).eval()
    x = torch.randn(6, 4, 3)
    lengths = [6, 2, 5, 1]
    together = flat(layer(x, lengths=lengths))
    for i, length in enumerate(lengths):
        y, h, c = flat(layer(x[:length, i]))
        torch.testing.assert_close(together[0][:length, i], y, rtol=1e-5, atol=1e-6)
        for a, b in zip(together[1:], (h, c), strict=True):
            torch.testing.assert_close(a[:, i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", PLACEMENTS)
def test_the_same_bits_for_every_number_of_threads(norm: str) -> None:
    """Of the loop itself: sums over time, after it, are torch's."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(of_the_loop(norm))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def of_the_loop(norm: str) -> list[Tensor]:
    """What the kernel gives, forward and backward, at a size that several threads share."""
    n_hidden, n, steps = 90, 40, 4
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    gates = 4 * n_hidden
    places = {"separate": ("ih", "hh", "c"), "sum": ("sum",), "input": ("ih",)}[norm]
    sizes = {"ih": gates, "hh": gates, "sum": gates, "c": n_hidden}
    own = [leaf(sizes[p]) if p in places else None for p in batch_lstm.PLACES for _ in range(2)]
    running = [(torch.zeros(1, sizes[p]), torch.ones(1, sizes[p])) if p in places else None for p in batch_lstm.PLACES]
    loop = batch_lstm.Loop([n, n, n // 2, 1], True, EPS, 1, running)
    u = leaf(sum(loop.sizes), gates)
    arguments = [u, leaf(n, n_hidden), leaf(n, n_hidden), leaf(gates, n_hidden), None, *own]
    assert steps == len(loop.sizes)
    found = batch_lstm.run(loop, arguments, lambda *_: ())
    assert found is not None
    outputs, stats = found
    dy = torch.randn(outputs[0].shape, generator=generator)
    wanted = [t for t in (*arguments[:3], *own) if t is not None]
    return [*outputs, *(s for s in stats if s is not None), *torch.autograd.grad(outputs[0], wanted, dy)]


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_are_handed_over(mode: str) -> None:
    found = {}
    for dtype in (torch.float32, torch.float64):
        layer = built("separate", 3, 8, dtype=torch.float32).to(dtype)
        layer.train(mode == "training")
        x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
        y = layer(x, lengths=[4, 4, 3, 2, 1])[0]
        parameters = list(layer.parameters())
        grads = torch.autograd.grad(weighted_sum([y.square()]), [x, *parameters], create_graph=True)
        total = sum((g.square().sum() for g in grads), torch.zeros((), dtype=dtype))
        found[dtype] = torch.autograd.grad(total, [x, *parameters], allow_unused=True)
    for a, b in zip(found[torch.float32], found[torch.float64], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("frozen", range(7))
def test_gradients_that_nobody_wants_are_left_out(frozen: int) -> None:
    whole, some = (built("separate", 3, 8) for _ in range(2))
    x = torch.randn(4, 5, 3)
    kept = list(some.parameters())
    kept.pop(frozen).requires_grad_(False)
    everything = torch.autograd.grad(weighted_sum(flat(whole(x))), list(whole.parameters()))
    found = torch.autograd.grad(weighted_sum(flat(some(x))), kept)
    rest = [g for number, g in enumerate(everything) if number != frozen]
    assert all(torch.equal(a, b) for a, b in zip(found, rest, strict=True))


@pytest.mark.parametrize("value", [1e25, -1e30, 3e38])
def test_values_whose_squares_overflow_go_the_exact_way(value: float, served: list[bool]) -> None:
    layer = built("input", 3, 8)
    x = torch.randn(4, 5, 3)
    x[1, 2] = value
    want, _ = copy.deepcopy(layer).double()(x.double())
    y, _ = layer(x)
    assert served == [False]
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
    assert y.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite(value: float) -> None:
    """In evaluation it stays in its sequence. In training the statistics are of all: nobody is kept from it."""
    layer = built("separate", 3, 8).eval()
    x = torch.randn(4, 5, 3)
    clean = layer(x)[0]
    x[1, 2, 0] = value
    dirty = layer(x)[0]
    others = [0, 1, 3, 4]
    assert torch.equal(clean[:, others], dirty[:, others])
    assert torch.equal(clean[:1], dirty[:1])
    dirty = layer.train()(x)[0]
    assert dirty[1:].isnan().any(2).all()
    assert dirty[0].isfinite().all()


def test_a_constant_state_gives_the_bias(served: list[bool]) -> None:
    """From zero states the recurrent product is the same for all at step 0: its deviation is 0, and nothing is NaN."""
    layer = built("separate", 3, 8)
    x = torch.zeros(3, 5, 3, requires_grad=True)
    y = layer(x)[0]
    (g,) = torch.autograd.grad(y, x, torch.randn(y.shape))
    assert served == [True]
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert g.isfinite().all()


def test_mean_far_from_zero(served: list[bool]) -> None:
    """Statistics are exact to float32 of what they are taken of, however far that is from zero."""
    layer = built("input", 1, 5)
    layer.weight_ih_l0.data.fill_(1.0)
    x = 4096 + torch.randint(-8, 9, (3, 6, 1)).float() / 8
    want = copy.deepcopy(layer).double()(x.double())[0]
    torch.testing.assert_close(layer(x)[0].double(), want, rtol=0, atol=32 * 2.0**-24)
    assert served[0]
