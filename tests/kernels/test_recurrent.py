"""The compiled time loop against the same maths in torch operations, in float64: results, gradients, bits."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import instruction_sets
from normkit import recurrence
from normkit.kernels import cpu, lstm, recurrent
from normkit.recurrence import GRU, LSTM, RNN, Norms, RowNorm, Weights

CELLS = ("lstm", "gru", "tanh", "relu")
PLACES = ("none", "sum", "separate", "input", "rms_sum", "rms_separate")
EQUAL, SHORTER = "equal lengths", "ever fewer"


def cell_of(name: str, place: str, n_in: int, n_hidden: int, dtype: torch.dtype, seed: int = 0, n_out: int = 0) -> Any:
    """A cell with random parameters; the same numbers, rounded to float32, for each dtype. ``n_out``: a projection."""
    generator = torch.Generator().manual_seed(seed)
    gates = {"lstm": 4, "gru": 3}.get(name, 1) * n_hidden

    def leaf(*shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        value = offset + scale * torch.randn(shape, generator=generator)
        return value.to(dtype).requires_grad_()

    def norm(size: int) -> RowNorm:
        kind = "rms" if place.startswith("rms_") else "layer"
        bias = leaf(size, scale=0.3) if kind == "layer" else None
        stretches = [2 * n_hidden, n_hidden] if name == "gru" else [size]
        return RowNorm(kind, leaf(size, scale=0.3, offset=1), bias, 1e-5, stretches)

    weights = Weights(
        leaf(gates, n_in, scale=n_in**-0.5),
        leaf(gates, n_out or n_hidden, scale=n_hidden**-0.5),
        leaf(gates),
        leaf(gates),
        leaf(n_out, n_hidden, scale=n_hidden**-0.5) if n_out else None,
    )
    where = place.removeprefix("rms_")
    norms = Norms(
        ih=norm(gates) if where in ("input", "separate") else None,
        hh=norm(gates) if where == "separate" else None,
        sum=norm(gates) if where == "sum" else None,
        c=norm(n_hidden) if where == "separate" and name == "lstm" else None,
    )
    if name == "gru":
        return GRU(weights, norms)
    return LSTM(weights, norms) if name == "lstm" else RNN(weights, norms, name)


def leaves(cell: Any) -> list[Tensor]:
    of_norms = [t for n in cell.norms if n is not None for t in (n.weight, n.bias)]
    return [t for t in (*cell.w, *of_norms) if t is not None]


def sizes_of(how: str, steps: int, n: int) -> list[int]:
    return [n] * steps if how == EQUAL else [max(1, n - n * t // steps) for t in range(steps)]


def run(
    name: str, place: str, sizes: list[int], n_in: int, n_hidden: int, dtype: torch.dtype, n_out: int = 0
) -> list[Tensor]:
    """Outputs, final states, and the gradients of everything, by whichever path takes the dtype."""
    cell = cell_of(name, place, n_in, n_hidden, dtype, n_out=n_out)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(sum(sizes), n_in, generator=generator).to(dtype).requires_grad_()]
    inputs += [
        (0.5 * torch.randn(sizes[0], size, generator=generator)).to(dtype).requires_grad_()
        for size in ((n_out or n_hidden, n_hidden) if name == "lstm" else (n_hidden,))
    ]
    y, state = recurrence.run(cell, inputs[0], sizes, tuple(inputs[1:]))
    outputs = [y, *state]
    gradients = [torch.randn(t.shape, generator=generator).to(dtype) for t in outputs]
    return [*outputs, *torch.autograd.grad(outputs, [*inputs, *leaves(cell)], gradients)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[recurrent.Loop]]:
    """The kernel's calls, so that a test cannot compare a path with itself."""
    seen: list[recurrent.Loop] = []

    original = recurrent.run

    def watched(kernel: recurrent.Kernel, loop: recurrent.Loop, *rest: Any) -> Any:
        seen.append(loop)
        return original(kernel, loop, *rest)

    monkeypatch.setattr(recurrent, "run", watched)
    yield seen
    assert seen, "no call has reached the kernel"


def check_close(name: str, place: str, sizes: list[int], n_in: int, n_hidden: int, n_out: int = 0) -> None:
    """Errors are a few units of float32, of the largest value, once for each step that they pass through."""
    got = run(name, place, sizes, n_in, n_hidden, torch.float32, n_out)
    want = run(name, place, sizes, n_in, n_hidden, torch.float64, n_out)
    bound = 16 * (len(sizes) + math.sqrt(sum(sizes))) * 2.0**-24
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        off = (a.double() - b).abs().max().item()
        assert off <= bound * (1 + b.abs().max().item()), (number, off, bound)


@pytest.mark.parametrize("how", [EQUAL, SHORTER])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_and_place(name: str, place: str, how: str, calls: list[Any], poisoned_memory: None) -> None:
    check_close(name, place, sizes_of(how, 6, 5), 3, 20)


@pytest.mark.parametrize("n_hidden", [1, 2, 15, 16, 17, 31, 48, 127, 129, 260])
def test_every_width(n_hidden: int, calls: list[Any], poisoned_memory: None) -> None:
    for name in ("lstm", "gru"):
        check_close(name, "separate" if n_hidden > 2 else "none", sizes_of(SHORTER, 3, 4), 3, n_hidden)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 11, 12, 13, 15, 16, 17, 33, 50])
def test_every_batch(n: int, calls: list[Any], poisoned_memory: None) -> None:
    for name in ("lstm", "gru"):
        check_close(name, "separate", sizes_of(SHORTER, 4, n), 2, 18)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("n_out", [3, 7, 16, 19], ids=str)
def test_a_projection(n_out: int, place: str, calls: list[Any], poisoned_memory: None) -> None:
    """Not onto one value: an RMSNorm of its multiples leaves the sign, which near 0 is a matter of rounding."""
    for how in (EQUAL, SHORTER):
        check_close("lstm", place, sizes_of(how, 5, 18), 3, 20, n_out)


def test_one_step(calls: list[Any]) -> None:
    check_close("lstm", "sum", [3], 2, 5)
    check_close("tanh", "sum", [3], 2, 5)


def bits(name: str, place: str, n: int = 37) -> bytes:
    found = run(name, place, sizes_of(SHORTER, 5, n), 6, 45, torch.float32)
    return b"".join(t.detach().numpy().tobytes() for t in found)


@pytest.mark.parametrize("place", ["none", "separate", "rms_sum"])
def test_the_same_bits_for_every_number_of_threads(place: str) -> None:
    """Of the loop itself: torch's products before and after it are torch's."""
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(of_the_loop(place))
        assert len(set(found)) == 1
    finally:
        torch.set_num_threads(before)


def loop_of(cell: recurrent.Cell, place: recurrent.Place, sizes: list[int]) -> recurrent.Loop:
    """Without other norms."""
    return recurrent.Loop(cell=cell, place=place, norm="layer_norm", eps=1e-5, sizes=sizes)


def of_the_loop(place: str, rows: slice = slice(None)) -> bytes:
    """Outputs and input gradients of the time loop alone, for some of 37 sequences."""
    n_hidden, steps, n = 45, 5, 37
    generator = torch.Generator().manual_seed(3)
    p = torch.randn(steps, n, 4 * n_hidden, generator=generator)[:, rows].flatten(0, 1).requires_grad_()
    h, c = torch.randn(2, n, n_hidden, generator=generator)[:, rows].unbind(0)
    dy = torch.randn(steps, n, n_hidden, generator=generator)[:, rows].flatten(0, 1)
    cell = cell_of("lstm", place, 3, n_hidden, torch.float32)
    norm = cell.norms.hh or cell.norms.sum
    loop = loop_of("lstm", place="product" if cell.norms.hh else "sum" if norm else "none", sizes=[h.shape[0]] * steps)
    loop = replace(loop, norm="rms_norm" if place.startswith("rms_") else "layer_norm")
    own = [
        None if n is None else t for n in (cell.norms.ih, norm, cell.norms.c) for t in (n and n.weight, n and n.bias)
    ]
    arguments = recurrent.Arguments(p, h, c, cell.w.hh, None, cell.w.b_ih, cell.w.b_hh, *own)
    y, *state = recurrent.run(lstm.KERNEL, loop, arguments, lambda *_: ())
    (dp,) = torch.autograd.grad(y, p, dy)
    return b"".join(t.detach().unflatten(0, (-1, h.shape[0])).numpy().tobytes() for t in (y, dp)) + b"".join(
        s.detach().numpy().tobytes() for s in state
    )


@pytest.mark.parametrize("place", ["none", "separate", "rms_sum"])
def test_a_sequences_bits_do_not_depend_on_its_batch(place: str) -> None:
    for first, last in ((0, 1), (3, 20), (36, 37)):
        some = of_the_loop(place, slice(first, last))
        n = last - first
        y = torch.frombuffer(bytearray(of_the_loop(place)), dtype=torch.float32)[: 5 * 37 * 45].view(5, 37, 45)
        assert torch.equal(
            torch.frombuffer(bytearray(some), dtype=torch.float32)[: 5 * n * 45].view(5, n, 45), y[:, first:last]
        )


def digest() -> str:
    return hashlib.sha256(b"".join(of_the_loop(place) for place in ("none", "separate", "rms_sum"))).hexdigest()


SCRIPT = """
import sys
from normkit.kernels import cpu
if cpu.LIBRARY.isa() != sys.argv[1]:
    sys.exit(3)
from kernels.test_recurrent import digest
print(digest())
"""


def test_the_same_bits_on_every_instruction_set() -> None:
    """The best one here; each other, which is chosen when the library is loaded, in a process of its own."""
    assert cpu.LIBRARY is not None
    own = cpu.LIBRARY.isa()
    path = os.pathsep.join(p for p in sys.path if p)
    found = {own: digest()}
    for isa in sorted({*instruction_sets.ALL} - {own}):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, isa],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NORMKIT_ISA": isa, "PYTHONPATH": path},
        )
        if done.returncode != 3:
            assert done.returncode == 0, done.stderr
            found[isa] = done.stdout.strip()
    assert len(set(found.values())) == 1, found


def test_tanh_and_sigmoid_err_by_a_few_units() -> None:
    """tanh read off an RNN, sigmoid off the forget gate of an LSTM whose cell was 1, without weights."""
    a = torch.cat([torch.linspace(-100, 100, 40001), torch.logspace(-30, 2, 4000), -torch.logspace(-30, 2, 4000)])
    zero = torch.zeros(1, 1)
    exact = torch.tanh(a.double())
    state = torch.zeros(len(a), 1)
    none = (None,) * 9  # a projection, biases, norms
    arguments = recurrent.Arguments(a[:, None], state, None, zero, *none)
    y, _ = recurrent.run(lstm.KERNEL, loop_of("tanh", "none", [len(a)]), arguments, lambda *_: ())
    assert ((y[:, 0].double() - exact).abs() <= 4 * 2.0**-24 * exact.abs()).all()

    p = torch.zeros(len(a), 4)
    p[:, 1] = a
    arguments = recurrent.Arguments(p, state, torch.ones_like(state), torch.zeros(4, 1), *none)
    _, _, c = recurrent.run(lstm.KERNEL, loop_of("lstm", "none", [len(a)]), arguments, lambda *_: ())
    exact = torch.sigmoid(a.double())
    off = (c[:, 0].double() - exact).abs()
    assert (off <= 4 * 2.0**-24 * exact + 2.0**-149).all()  # or one of the least subnormal numbers


@pytest.mark.parametrize("n", [1, 3, 40])
def test_sums_over_many_rows_are_as_exact_as_those_of_the_norms(n: int) -> None:
    """The gradients of biases and of a norm's parameters within 32u of the sum of magnitudes, beside a term's own 16u.

    Without a recurrent weight every row is by itself: da = dy (1 - y²), with y small, so that no term loses digits.
    """
    steps, n_hidden = 12000 // n, 19
    generator = torch.Generator().manual_seed(0)
    p, dy = torch.randn(2, steps * n, n_hidden, generator=generator).unbind(0)
    dy += 1
    w = torch.full((n_hidden,), 0.1, requires_grad=True)
    b, b_ih = (torch.zeros(n_hidden, requires_grad=True) for _ in range(2))
    zero = torch.zeros(n, n_hidden)
    w_hh = torch.zeros(n_hidden, n_hidden)
    none = (None,) * 4
    loop = loop_of("tanh", "none", [n] * steps)
    arguments = recurrent.Arguments(p, zero, None, w_hh, None, b_ih, None, w, b, *none)
    y, _ = recurrent.run(lstm.KERNEL, loop, arguments, lambda *_: ())
    found = torch.autograd.grad(y, (w, b, b_ih), dy)

    x_hat = torch.nn.functional.layer_norm(p.double(), (n_hidden,), eps=1e-5)
    da = dy.double() * (1 - torch.tanh(0.1 * x_hat) ** 2)
    for got, terms in zip(found, (da * x_hat, da, da), strict=True):
        assert ((got.double() - terms.sum(0)).abs() <= 48 * 2.0**-24 * terms.abs().sum(0)).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_sequence(value: float, calls: list[Any]) -> None:
    for name in CELLS:
        for place in PLACES:
            cell = cell_of(name, place, 3, 20, torch.float32)
            x = torch.randn(6, 20, 3)
            state = tuple(torch.zeros(20, 20) for _ in range(2 if name == "lstm" else 1))
            clean = recurrence.run(cell, x.flatten(0, 1), [20] * 6, state)[0].view(6, 20, 20)
            x[2, 4, 1] = value
            dirty = recurrence.run(cell, x.flatten(0, 1), [20] * 6, state)[0].view(6, 20, 20)
            others = [i for i in range(20) if i != 4]
            assert torch.equal(clean[:, others], dirty[:, others])
            assert torch.equal(clean[:2], dirty[:2])
            if math.isnan(value):
                assert dirty[2:, 4].isnan().any()


@pytest.mark.parametrize("place", ["none", "separate", "sum"])
@pytest.mark.parametrize("name", CELLS)
def test_second_derivatives_are_handed_over(name: str, place: str, calls: list[Any]) -> None:
    found = {}
    for dtype in (torch.float32, torch.float64):
        cell = cell_of(name, place, 3, 8, dtype)
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(12, 3, generator=generator).to(dtype).requires_grad_()
        state = tuple(torch.zeros(4, 8, dtype=dtype) for _ in range(2 if name == "lstm" else 1))
        y, _ = recurrence.run(cell, x, [4, 4, 3, 1], state)
        grads = torch.autograd.grad(y.square().sum(), [x, *leaves(cell)], create_graph=True)
        total = sum((g.square().sum() for g in grads), torch.zeros((), dtype=dtype))
        found[dtype] = torch.autograd.grad(total, [x, *leaves(cell)], allow_unused=True)
    for a, b in zip(found[torch.float32], found[torch.float64], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


def test_backward_twice_gives_the_same(calls: list[Any]) -> None:
    cell = cell_of("lstm", "separate", 3, 8, torch.float32)
    x = torch.randn(12, 3, requires_grad=True)
    y, _ = recurrence.run(cell, x, [4, 4, 3, 1], (torch.zeros(4, 8), torch.zeros(4, 8)))
    first = torch.autograd.grad(y.square().sum(), [x, *leaves(cell)], retain_graph=True)
    again = torch.autograd.grad(y.square().sum(), [x, *leaves(cell)])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kind", [float, int, np.float64, np.float32, torch.tensor])
def test_every_number_that_is_an_eps_takes_the_kernel(kind: Any, calls: list[Any]) -> None:
    x, state = torch.randn(12, 3), tuple(torch.zeros(4, 8) for _ in range(2))
    cell = cell_of("lstm", "separate", 3, 8, torch.float32)
    norms = Norms(*(n if n is None else replace(n, eps=kind(1)) for n in cell.norms))
    y, _ = recurrence.run(replace(cell, norms=norms), x, [4] * 3, state)
    assert [loop.eps for loop in calls] == [1.0]
    assert not torch.equal(y, recurrence.run(cell, x, [4] * 3, state)[0])


@pytest.mark.parametrize("name", CELLS)
def test_what_hooks_give_back_for_saved_tensors_is_looked_at(name: str, calls: list[Any]) -> None:
    """Other strides are made dense; another dtype or size is none that a kernel reads."""

    def of(unpack: Any) -> list[Tensor]:
        cell = cell_of(name, "separate", 3, 8, torch.float32)
        x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        state = tuple(torch.zeros(4, 8) for _ in range(2 if name == "lstm" else 1))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            y, _ = recurrence.run(cell, x, [4] * 3, state)
        return list(torch.autograd.grad(y.square().sum(), [x, *leaves(cell)]))

    plain = of(lambda t: t)
    for a, b in zip(of(lambda t: t.t().contiguous().t() if t.dim() == 2 else t), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    for wrong in (
        lambda t: t.double(),
        lambda t: t.to(torch.bfloat16),
        lambda t: t[: max(1, t.shape[0] // 2)],
        lambda t: t.t() if t.dim() == 2 else t,
        lambda t: t.reshape(1, -1),
        lambda t: t.reshape(-1),
    ):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            of(wrong)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_biases_are_tensors_of_their_own(name: str, calls: list[Any]) -> None:
    cell = cell_of(name, "separate", 3, 8, torch.float32)
    x, state = torch.randn(12, 3), tuple(torch.zeros(4, 8) for _ in range(2 if name == "lstm" else 1))
    y, _ = recurrence.run(cell, x, [4] * 3, state)
    a, b = torch.autograd.grad(y.sum(), (cell.w.b_ih, cell.w.b_hh))
    before = b.clone()
    a.zero_()
    assert torch.equal(b, before)


@pytest.mark.parametrize("name", CELLS)
def test_any_gradients_that_nobody_wants_are_left_out(name: str, calls: list[Any]) -> None:
    cell = cell_of(name, "separate", 3, 8, torch.float32)
    x, state = torch.randn(12, 3), tuple(torch.zeros(4, 8) for _ in range(2 if name == "lstm" else 1))
    everything = leaves(cell)
    whole = torch.autograd.grad(recurrence.run(cell, x, [4] * 3, state)[0].square().sum(), everything)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        wanted = (torch.rand(len(everything), generator=generator) < 0.4).tolist()
        for t, want in zip(everything, wanted, strict=True):
            t.requires_grad_(want)
        if not any(wanted):
            continue
        y = recurrence.run(cell, x, [4] * 3, state)[0]
        some = torch.autograd.grad(y.square().sum(), [t for t, want in zip(everything, wanted, strict=True) if want])
        for a, b in zip(some, [g for g, want in zip(whole, wanted, strict=True) if want], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("frozen", range(9))
def test_gradients_that_nobody_wants_are_left_out(frozen: int, calls: list[Any]) -> None:
    cell = cell_of("lstm", "separate", 3, 8, torch.float32)
    x = torch.randn(12, 3)
    state = (torch.zeros(4, 8), torch.zeros(4, 8))
    everything = leaves(cell)
    whole = torch.autograd.grad(recurrence.run(cell, x, [4] * 3, state)[0].square().sum(), everything)
    everything[frozen].requires_grad_(False)
    wanted = [t for t in everything if t.requires_grad]
    some = torch.autograd.grad(recurrence.run(cell, x, [4] * 3, state)[0].square().sum(), wanted)
    rest = [g for number, g in enumerate(whole) if number != frozen]
    assert all(torch.equal(a, b) for a, b in zip(some, rest, strict=True))
