"""Products of rows with a matrix by the kernels: the same numbers as torch's, their derivatives, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import normkit.nn as nk
import tolerances
from normkit.kernels import choose, products

U = 2.0**-24
SIZES = [(64, 1, 1), (1, 3, 5), (50, 16, 64), (257, 33, 19), (1600, 128, 512), (100, 700, 600)]
pytestmark = pytest.mark.skipif(
    choose.path_of(torch.empty(0)) != "kernel", reason="the products go with the compiled kernels"
)


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is, and however few numbers."""
    monkeypatch.setattr(products, "MKL_LEAVES_AVX512", True)
    for least in ("LEAST_PRODUCTS", "LEAST_ROWS"):
        monkeypatch.setattr(products, least, 1)


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(a: Tensor, b: Tensor) -> Tensor:
        raise AssertionError("a kernel")

    monkeypatch.setattr(products, "_product", refuse)


def leaves(n_rows: int, n_deep: int, n_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(n_rows)
    return tuple(torch.randn(s, generator=g).requires_grad_() for s in ((n_rows, n_deep), (n_cols, n_deep), (n_cols,)))  # type: ignore[return-value]


def assert_product(found: Tensor, a: Tensor, b: Tensor, plus: Tensor | None = None) -> None:
    """found = a b + plus, to the rounding of as many additions as there are, in whatever order."""
    a, b = a.detach().double(), b.detach().double()
    right, terms = a @ b, a.abs() @ b.abs()
    if plus is not None:
        right, terms = right + plus.detach().double(), terms + plus.detach().double().abs()
    allowed = (a.shape[1] + 1) * U * terms
    assert found.shape == right.shape
    assert bool(((found.detach().double() - right).abs() <= allowed).all())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_map_and_its_gradients(sizes: tuple[int, int, int], biased: bool) -> None:
    x, w, b = leaves(*sizes)
    y = products.linear(x, w, b if biased else None)
    assert y.is_contiguous()
    assert_product(y, x, w.T, b if biased else None)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    dx, dw, *db = torch.autograd.grad(y, (x, w, b) if biased else (x, w), dy)
    assert_product(dx, dy, w)
    assert_product(dw, dy.T, x)
    if biased:
        assert_product(db[0][None], torch.ones(1, len(dy)), dy)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_sum_of_outer_products(sizes: tuple[int, int, int]) -> None:
    x, _, _ = leaves(*sizes)
    a = torch.randn(sizes[0], sizes[2], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_product(products.sum_of_outer_products(a, x), a.T, x)


@pytest.mark.parametrize(
    "changed", [lambda x: x.T.contiguous().T, lambda x: x[::2], lambda x: x[:, 1:]], ids=["columns", "steps", "parts"]
)
def test_rows_however_they_lie_in_memory(changed: Callable[[Tensor], Tensor]) -> None:
    x, w, b = (t.detach() for t in leaves(50, 16, 64))
    x, w = changed(x), w[:, : changed(x).shape[1]]
    assert_product(products.linear(x, w, b), x, w.T, b)
    assert_product(products.sum_of_outer_products(x, x), x.T, x)


@pytest.mark.parametrize("sizes", SIZES)
def test_bits_depend_on_neither_other_rows_nor_threads(sizes: tuple[int, int, int]) -> None:
    x, w, _ = (t.detach() for t in leaves(*sizes))
    dy = torch.randn(sizes[0], sizes[2], generator=torch.Generator().manual_seed(1))
    y, dw = products.linear(x, w), products.sum_of_outer_products(dy, x)
    for some in (slice(0, 1), slice(sizes[0] // 3, None), slice(0, None, 2)):
        assert torch.equal(products.linear(x[some], w), y[some])
    threads = torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        try:
            assert torch.equal(products.linear(x, w), y)
            assert torch.equal(products.sum_of_outer_products(dy, x), dw)
        finally:
            torch.set_num_threads(threads)


def test_second_derivatives() -> None:
    x, w, b = leaves(6, 4, 3)

    def second(f: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(f(*tensors).tanh().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), tensors)

    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    for found, right in zip(second(products.linear, x, w, b), second(F.linear, *wide), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


def test_many_gradients_at_once() -> None:
    x, w, _ = leaves(6, 4, 3)
    dy = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(1))
    (dx,) = torch.autograd.grad(products.linear(x, w), x, dy, is_grads_batched=True)
    for found, each in zip(dx, dy, strict=True):
        assert_product(found, each, w)


def test_a_nan_stays_in_its_row() -> None:
    x, w, b = (t.detach() for t in leaves(50, 16, 64))
    x[7, 3], x[9, 2] = torch.nan, torch.inf
    y = products.linear(x, w, b)
    assert not y[[7, 9]].isfinite().any()
    rest = [i for i in range(50) if i not in (7, 9)]
    assert_product(y[rest], x[rest], w.T, b)


def assert_torch_s_own(x: Tensor, w: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(products.linear(x, w, b), F.linear(x, w, b), rtol=0, atol=0)
    if x.dim() == 2:
        torch.testing.assert_close(products.sum_of_outer_products(x, x), x.T @ x, rtol=0, atol=0)


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("why", ["double", "half", "PRODUCTS", "ROWS", "other processor", "batched"])
def test_what_is_left_to_torch(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = (t.detach() for t in leaves(50, 16, 64))
    if why in ("double", "half"):
        x, w, b = (t.to(getattr(torch, why)) for t in (x, w, b))
    elif why.isupper():
        monkeypatch.setattr(products, f"LEAST_{why}", x.shape[0] * w.numel() + 1)
    elif why == "other processor":
        monkeypatch.setattr(products, "MKL_LEAVES_AVX512", False)
    else:
        x = x[None]
    assert_torch_s_own(x, w, b)


@pytest.mark.usefixtures("no_kernel")
def test_other_devices_are_not_asked() -> None:
    x, w, b = (t.detach().to("meta") for t in leaves(50, 16, 64))
    assert products.linear(x, w, b).shape == (50, 64)


@pytest.mark.usefixtures("no_kernel")
def test_a_graph_holds_a_linear_map() -> None:
    x, w, b = (t.detach() for t in leaves(50, 16, 64))
    compiled = torch.compile(products.linear, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, w, b), F.linear(x, w, b), rtol=0, atol=0)


def test_a_bias_has_an_exact_gradient() -> None:
    x, w, b = leaves(100_000, 2, 4)
    dy = torch.rand(100_000, 4, generator=torch.Generator().manual_seed(1))
    (db,) = torch.autograd.grad(products.linear(x, w, b), b, dy)
    right = dy.double().sum(0)
    assert bool(((db.double() - right).abs() <= tolerances.SUM_UNITS * U * right).all())


@pytest.mark.parametrize("least", [1, 1 << 60])
def test_autocast_in_the_backward_changes_no_gradient(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_PRODUCTS", least)
    a = leaves(50, 16, 50)[0].detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = products.sum_of_outer_products(a, a)
    assert torch.equal(found, products.sum_of_outer_products(a, a))


def test_nor_a_gradient_that_is_differentiated_again() -> None:
    x, w, _ = leaves(50, 16, 50)
    y = products.linear(x, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(y, (x, w), torch.ones_like(y), create_graph=True)
    for again, once in zip(found, torch.autograd.grad(y, (x, w), torch.ones_like(y)), strict=True):
        torch.testing.assert_close(again, once, rtol=1e-5, atol=1e-5)


def test_matrices_that_do_not_fit_are_an_error() -> None:
    x, w, _ = leaves(50, 16, 50)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        products.linear(x, w[:, :15])


@pytest.mark.usefixtures("no_kernel")
def test_who_watches_operations_sees_a_linear_map() -> None:
    x, w, b = (t.detach() for t in leaves(50, 16, 64))
    with FlopCounterMode(display=False) as counter:
        products.linear(x, w, b)
    assert counter.get_total_flops() == 2 * 50 * 16 * 64
    per_row = torch.func.vmap(lambda row: products.linear(row[None], w, b)[0])
    torch.testing.assert_close(per_row(x), F.linear(x, w, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nk.LayerNormLSTM, nk.LayerNormGRU, nk.LayerNormRNN, nk.BatchNormLSTM])
@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_is_the_same_either_way(layer: Any, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"proj_size": 8} if "LSTM" in layer.__name__ else {}
    module = layer(12, 16, num_layers=2, bidirectional=True, **options)
    x = torch.randn(9, 5, 12, requires_grad=True)
    lengths = [9, 7, 7, 4, 2] if packed else None

    def outcome() -> list[Tensor]:
        y, _ = module(x, lengths=lengths)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return [y, *torch.autograd.grad(y, (x, *module.parameters()), dy)]

    found = outcome()
    monkeypatch.setattr(products, "MKL_LEAVES_AVX512", False)
    for a, b in zip(found, outcome(), strict=True):
        largest = float(b.detach().abs().max())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_here_it_is_only_for_amd_with_avx512() -> None:
    """What the library says of the processor is what the system says of it."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        pytest.skip("the system does not describe its processor")
    text = described.read_text()
    expected = "AuthenticAMD" in text and all(f" {flag}" in text for flag in ("avx512f", "avx512bw", "avx512vl"))
    assert products.cpu.LIBRARY.is_amd_with_avx512() == expected
