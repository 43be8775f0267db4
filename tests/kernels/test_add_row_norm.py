"""Residual add and dropout in the same pass as the norm."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kernels.row_norms import DTYPES, NORMS, same_bits
from normkit.kernels import cpu, rows

pytestmark = pytest.mark.usefixtures("each_way_to_call")

norms = pytest.mark.parametrize("norm", NORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def arguments(
    norm: cpu.Norm, shape: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x, residual = torch.randn(2, *shape).to(dtype)
    w, b = torch.randn(2, shape[1]).to(dtype)
    return x, residual, w, b if norm == "layer_norm" else None


@norms
@dtypes
@pytest.mark.parametrize("shape", [(7, 100), (3, 5), (33, 768), (1, 1)], ids=str)
def test_the_sum_is_rounded_once_and_then_normalized(
    norm: cpu.Norm, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    x, residual, w, b = arguments(norm, shape, dtype)
    y, z = rows.add_by_any(norm, x, residual, 1, w, b, 1e-5, 0.0)
    assert same_bits(z, x + residual)
    assert same_bits(y, rows.by_any(norm, z, 1, w, b, 1e-5))


@norms
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_first_and_second_derivative_by_differences(norm: cpu.Norm, p: float) -> None:
    x, residual, w, b = (None if t is None else t.requires_grad_() for t in arguments(norm, (3, 5), torch.float64))

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(7)  # the same mask at every call
        return rows.add_by_any(norm, tensors[0], tensors[1], 1, tensors[2], (*tensors, None)[3], 1e-5, p)

    tensors = [t for t in (x, residual, w, b) if t is not None]
    assert gradcheck(function, tensors)
    assert gradgradcheck(function, tensors)


@norms
@pytest.mark.parametrize("used", ["y", "sum", "both"])
def test_either_output_may_go_unused(norm: cpu.Norm, used: str) -> None:
    x, residual, w, b = (None if t is None else t.requires_grad_() for t in arguments(norm, (4, 9), torch.float64))
    tensors = [t for t in (x, residual, w, b) if t is not None]
    dy, d_sum = torch.randn(2, 4, 9, dtype=torch.float64)
    results = []
    for fused in (True, False):
        if fused:
            assert x is not None
            assert residual is not None
            y, z = rows.add_by_any(norm, x, residual, 1, w, b, 1e-5, 0.0)
        else:
            z = x + residual  # type: ignore[operator]
            y = rows.by_any(norm, z, 1, w, b, 1e-5)
        terms = {"y": [(y * dy).sum()], "sum": [(z * d_sum).sum()], "both": [(y * dy).sum(), (z * d_sum).sum()]}
        total = torch.stack(terms[used]).sum()
        results.append(torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 1000])
def test_dropout_keeps_or_drops_each_element(p: float, width: int) -> None:
    x = torch.ones(5, width)
    _, z = rows.add_by_any("layer_norm", x, torch.zeros_like(x), 1, None, None, 1e-5, p)
    kept = z != 0
    assert torch.equal(z[kept], torch.full_like(z[kept], 1 / (1 - p) if p < 1 else 0.0))


def test_dropout_drops_its_share_independently() -> None:
    x = torch.ones(200, 500)
    masks = [rows.add_by_any("rms_norm", x, torch.zeros_like(x), 1, None, None, 1e-5, 0.3)[1] == 0 for _ in range(2)]
    share = 0.3 * torch.ones(())
    sigma = (0.3 * 0.7 / x.numel()) ** 0.5
    assert abs(masks[0].double().mean() - share) < 5 * sigma
    both = (masks[0] & masks[1]).double().mean()
    assert abs(both - 0.09) < 5 * (0.09 * 0.91 / x.numel()) ** 0.5
    neighbours = (masks[0][:, 1:] & masks[0][:, :-1]).double().mean()
    assert abs(neighbours - 0.09) < 5 * (0.09 * 0.91 / x.numel()) ** 0.5


def test_dropout_is_philox_of_the_element_index() -> None:
    """The published test vector of Philox4x32-10 for key and counter 0, read off the factors at four thresholds."""
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for p in (0.3, 0.5, 0.7, 0.9):
        _, z, _ = cpu.add_row_norm(
            "rms_norm", torch.ones(1, 4), torch.zeros(1, 4), 4, None, None, 1e-5, dropout_p=p, seed=0
        )
        assert (z[0] != 0).tolist() == [word >= p * 2**32 for word in words]


def test_the_mask_depends_on_the_element_alone() -> None:
    """The same numbers as one row of 120, 8 of 15 or 40 of 3, whatever the number of threads."""
    found = []
    for shape in ((1, 600), (40, 15), (200, 3)):
        _, z, _ = cpu.add_row_norm(
            "rms_norm", torch.ones(shape), torch.zeros(shape), shape[1], None, None, 1e-5, dropout_p=0.5, seed=12345
        )
        found.append(z.flatten())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@norms
def test_dropout_again_under_checkpointing(norm: cpu.Norm) -> None:
    x, residual = torch.randn(2, 6, 33)
    x.requires_grad_()

    def block(x: Tensor) -> Tensor:
        y, z = rows.add_by_any(norm, x, residual, 1, None, None, 1e-5, 0.5)
        return y * z

    torch.manual_seed(3)
    plain = torch.autograd.grad(block(x).sum(), x)
    torch.manual_seed(3)
    again = torch.autograd.grad(torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False).sum(), x)
    assert torch.equal(plain[0], again[0])


@norms
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=str)
def test_the_first_derivative_is_a_kernel(
    norm: cpu.Norm, used: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, residual, w, b = arguments(norm, (4, 9), torch.float32)
    outputs = rows.add_by_any(norm, x.requires_grad_(), residual, 1, w, b, 1e-5, 0.0)
    monkeypatch.setattr(rows, "_by_composite", None)
    (dx,) = torch.autograd.grad([outputs[i].sum() for i in used], x)
    assert dx.isfinite().all()
