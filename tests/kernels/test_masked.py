"""BatchNorm's kernels under a mask, over planes and pixels, against the kernel without one on what counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from normkit.functional import batch_norm
from normkit.kernels import cpu, eager

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Around the 16 lanes, their chains, and the blocks that runs are cut into; narrow and wide rows, and some in two parts.
SHAPES = [
    *[(6, 3, 5), (4, 16, 16), (3, 17, 49), (2, 2, 515), (2, 3, 17000), (5, 5, 4, 31)],
    *[(40, 33), (300, 700), (61, 1100), (300, 4200)],
]


def case(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Input with NaN where the mask is False."""
    x, mask = torch.randn(shape, dtype=torch.float64) + offset, torch.rand(shape[0], *shape[2:]) < 0.7
    mask.flatten()[-2:] = True
    x = torch.where(mask.unsqueeze(1), x, torch.nan).to(dtype)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, mask


def results(x: Tensor, dy: Tensor, parameters: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    """y, the gradients, and the running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    w, b = (p.clone().requires_grad_() for p in parameters)
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, var = torch.zeros(len(w), dtype=wide), torch.ones(len(w), dtype=wide)
    y = batch_norm(x, mean, var, w, b, True, 0.3, **options)
    return y.detach(), *torch.autograd.grad(y, [x, w, b], dy), mean, var


def rows(x: Tensor, mask: Tensor) -> Tensor:
    return x.movedim(1, -1)[mask]


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Both sides are within a few roundings of the exact value, and sums of M terms within a few of their root."""
    u = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found, expected, rtol=8 * u, atol=8 * scale * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    )


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_without_padding(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, activation: Any) -> None:
    if channels_last and len(shape) != 4:
        pytest.skip("has no such layout")
    x, mask = case(shape, dtype, channels_last)
    dy = torch.where(mask.unsqueeze(1), torch.randn(shape).to(dtype), torch.nan)
    parameters = [torch.randn(shape[1]).to(dtype) for _ in range(2)]
    y, dx, *sums = results(x, dy, parameters, activation=activation, mask=mask)
    y_alone, dx_alone, *sums_alone = results(rows(x, mask), rows(dy, mask), parameters, activation=activation)
    assert_close(rows(y, mask), y_alone, dtype, 4)
    assert_close(rows(dx, mask), dx_alone, dtype, 16)
    for t in (y, dx):
        assert (rows(t, ~mask) == 0).all()
        assert t.stride() == x.stride()
    for found, expected in zip(sums, sums_alone, strict=True):
        assert_close(found, expected, dtype, 16 * float(mask.sum()) ** 0.5)


@pytest.mark.parametrize("shape", [(4, 3, 11), (4, 3, 49), (4, 2, 515), (4, 2, 33000)], ids=str)
def test_samples_of_which_a_part_counts(shape: tuple[int, ...]) -> None:
    """Their end, nothing, their middle, and their beginning: around the blocks that kernels skip."""
    x, place = torch.randn(shape), torch.arange(shape[2])
    n = shape[2]
    mask = torch.stack([place >= 5 * n // 6, place < 0, (place > n // 3) & (place <= n // 2), place <= n // 4])
    x = torch.where(mask.unsqueeze(1), x, torch.nan)
    dy, parameters = torch.randn(shape), [torch.randn(shape[1]) for _ in range(2)]
    y, dx, *sums = results(x, dy, parameters, mask=mask)
    y_alone, dx_alone, *sums_alone = results(rows(x, mask), rows(dy, mask), parameters)
    assert_close(rows(y, mask), y_alone, torch.float32, 4)
    assert_close(rows(dx, mask), dx_alone, torch.float32, 16)
    assert (rows(y, ~mask) == 0).all()
    assert (rows(dx, ~mask) == 0).all()
    for found, expected in zip(sums, sums_alone, strict=True):
        assert_close(found, expected, torch.float32, 16 * float(mask.sum()) ** 0.5)


@pytest.mark.parametrize("counts", [range(7, 100), range(1, 3), (3, 90), range(0, 120, 40)], ids=str)
@pytest.mark.parametrize("channels", [3, 64, 1100])
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_rows_of_which_the_first_and_the_last_do_not_count(counts: Any, channels: int, activation: Any) -> None:
    x, dy = torch.randn(130, channels), torch.randn(130, channels)
    parameters = [torch.randn(channels) for _ in range(2)]
    mask = torch.zeros(130, dtype=torch.bool)
    mask[list(counts)] = True
    x[~mask] = torch.nan
    y, dx, *sums = results(x, dy, parameters, mask=mask, activation=activation)
    y_alone, dx_alone, *sums_alone = results(x[mask], dy[mask], parameters, activation=activation)
    assert_close(y[mask], y_alone, torch.float32, 4)
    # dx is what is left of terms of this size: of two rows next to nothing is.
    terms = (parameters[0].abs() / x[mask].std(0, correction=0)).max() * dy.abs().max()
    assert (dx[mask] - dx_alone).abs().max() <= 32 * torch.finfo(torch.float32).eps * terms
    assert (y[~mask] == 0).all()
    assert (dx[~mask] == 0).all()
    for found, expected in zip(sums, sums_alone, strict=True):
        assert_close(found, expected, torch.float32, 64)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("how", ["far from zero", "huge", "tiny", "constant"])
def test_hard_values(channels_last: bool, how: str) -> None:
    x, mask = case((5, 5, 4, 31), torch.float32, channels_last, offset=1e5 if how == "far from zero" else 0.0)
    x = {"huge": x * 1e30, "tiny": x * 1e-30, "constant": x * 0 + 3.33e6}.get(how, x)
    dy, parameters = torch.randn(x.shape), [torch.ones(5), torch.zeros(5)]
    y, dx, *_ = results(x, dy, parameters, mask=mask)
    y_alone, dx_alone, *_ = results(rows(x, mask), rows(dy, mask), parameters)
    assert_close(rows(y, mask), y_alone, torch.float32, 4)
    assert (rows(dx, mask) - dx_alone).abs().max() <= 1e-5 * dx_alone.abs().max()
    assert (rows(y, ~mask) == 0).all()
    assert (rows(dx, ~mask) == 0).all()
    if how == "constant":
        assert not y.any()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(16, 3, 64, 64), (40, 50, 7, 7), (600, 70), (300, 4200)], ids=str)
def test_every_number_of_threads(shape: tuple[int, ...], channels_last: bool) -> None:
    x, mask = case(shape, torch.float32, channels_last)
    dy, parameters = torch.randn(shape), [torch.randn(shape[1]) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(x, dy, parameters, mask=mask)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(x, dy, parameters, mask=mask), expected)), threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_evaluation(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, activation: Any) -> None:
    """As without a mask where positions count, to the bit but for sums; and padding holds NaN."""
    if channels_last and len(shape) != 4:
        pytest.skip("has no such layout")
    x, mask = case(shape, dtype, channels_last)
    wide = torch.promote_types(dtype, torch.float32)
    given = torch.randn(shape[1], dtype=wide), torch.rand(shape[1], dtype=wide) + 0.1
    dy = torch.where(mask.unsqueeze(1), torch.randn(shape).to(dtype), torch.nan)
    parameters = [torch.randn(shape[1]).to(dtype) for _ in range(2)]

    def run(x: Tensor, dy: Tensor, **options: Any) -> tuple[Tensor, ...]:
        x = x.clone(memory_format=torch.preserve_format).requires_grad_()
        w, b = (p.clone().requires_grad_() for p in parameters)
        y = batch_norm(x, *given, w, b, activation=activation, **options)
        return y.detach(), *torch.autograd.grad(y, [x, w, b], dy)

    y, dx, *sums = run(x, dy, mask=mask)
    y_alone, dx_alone, *sums_alone = run(torch.where(mask.unsqueeze(1), x, 0), torch.where(mask.unsqueeze(1), dy, 0))
    assert torch.equal(y, torch.where(mask.unsqueeze(1), y_alone, 0))
    assert torch.equal(dx, torch.where(mask.unsqueeze(1), dx_alone, 0))
    assert y.stride() == dx.stride() == x.stride()
    for found, expected in zip(sums, sums_alone, strict=True):
        assert_close(found, expected, dtype, 16 * float(mask.sum()) ** 0.5)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_batch_of_padding_in_evaluation(channels_last: bool, residual: bool) -> None:
    x, _ = case((5, 5, 4, 31), torch.float32, channels_last)
    x, w = x.fill_(torch.nan).requires_grad_(), torch.ones(5, requires_grad=True)
    mask = torch.zeros(5, 4, 31, dtype=torch.bool)
    options = {"residual": torch.full_like(x, torch.nan).requires_grad_()} if residual else {}
    y = batch_norm(x, torch.zeros(5), torch.ones(5), w, None, mask=mask, **options)
    for gradient in torch.autograd.grad(y.sum(), [x, w, *options.values()]):
        assert (gradient == 0).all()
    assert (y == 0).all()


def test_the_second_derivative_in_evaluation() -> None:
    mask = torch.rand(4, 7) < 0.6
    x, w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6, 7), (6,), (6,)))
    given = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5

    def norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        x = torch.where(mask.unsqueeze(1), x, torch.inf)
        return batch_norm(x, *given, w, b, activation="silu", mask=mask)

    assert torch.autograd.gradcheck(norm, (x, w, b))
    assert torch.autograd.gradgradcheck(norm, (x, w, b))


class Wrapped(Tensor):
    """A tensor that has its values in another one, and none in memory of its own."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        self = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Wrapped, lambda t: t.inner, (args, kwargs or {}))
        return tree_map_only(Tensor, Wrapped, function(*args, **kwargs))


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_mask_without_memory_of_its_own(needs_gradient: bool) -> None:
    x, mask = case((6, 3, 5), torch.float64, False)
    expected = batch_norm(x, None, None, training=True, mask=mask)
    found = batch_norm(x.requires_grad_(needs_gradient), None, None, training=True, mask=Wrapped(mask))
    torch.testing.assert_close(found.inner, expected, rtol=0, atol=1e-12)


def test_a_mask_that_is_written_to_is_noticed() -> None:
    x, mask = case((6, 3, 5), torch.float32, False)
    x, other = x.requires_grad_(), mask.t().contiguous().t()
    y, by_copy = (batch_norm(x, None, None, training=True, mask=m) for m in (mask, other))
    (expected,) = torch.autograd.grad(by_copy.sum(), x, retain_graph=True)
    mask.logical_not_()
    other.logical_not_()  # of which a contiguous copy was kept
    assert torch.equal(torch.autograd.grad(by_copy.sum(), x)[0], expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_mask_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    taken = []
    kernel = cpu.channel_norm
    monkeypatch.setattr(cpu, "channel_norm", lambda *args, **more: taken.append(more["mask"]) or kernel(*args, **more))
    x, mask = case((6, 3, 5), torch.float32, False)
    batch_norm(x, None, None, training=True, mask=mask)
    assert [torch.equal(kept.squeeze(1), mask) for kept in taken] == [True]
