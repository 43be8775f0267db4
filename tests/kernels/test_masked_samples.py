"""GroupNorm's and InstanceNorm's kernels under a mask, against those without one on what counts of each sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.test_masked import DTYPES, assert_close, case, rows
from normkit.functional import group_norm, instance_norm
from normkit.kernels import cpu, eager

# Around the 16 lanes, their chains, and the blocks that runs are cut into; planes and rows shorter than a vector.
SHAPES = [
    *[(6, 6, 5), (4, 16, 16), (3, 18, 49), (2, 2, 515), (2, 4, 17000), (5, 6, 4, 31), (40, 8, 3, 3)],
    *[(3, 70, 2, 9), (2, 256, 6, 7), (2, 520, 12, 12)],
]
in_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


def with_an_empty_sample(mask: Tensor) -> Tensor:
    """Two positions of each sample at least, but none of the one before the last."""
    mask = mask.clone()
    flat = mask.view(len(mask), -1)
    flat[:, :2] = True
    flat[-2] = False
    return mask


def results(x: Tensor, dy: Tensor, n_groups: int, parameters: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    w, b = (p.clone().requires_grad_() for p in parameters)
    y = group_norm(x, n_groups, w, b, **options)
    return y.detach(), *torch.autograd.grad(y, [x, w, b], dy)


def alone(x: Tensor, mask: Tensor) -> list[Tensor]:
    """Of each sample that has any, the positions that count: [1, C, n]."""
    return [sample[:, kept].unsqueeze(0) for sample, kept in zip(x, mask, strict=True) if kept.any()]


@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu"])
@in_layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_without_padding(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, activation: Any) -> None:
    if channels_last and len(shape) != 4:
        pytest.skip("has no such layout")
    x, mask = case(shape, dtype, channels_last)
    mask = with_an_empty_sample(mask)
    x = torch.where(mask.unsqueeze(1), torch.where(x.isnan(), 0.5, x), torch.nan)
    dy = torch.where(mask.unsqueeze(1), torch.randn(shape).to(dtype), torch.nan)
    parameters = [torch.randn(shape[1]).to(dtype) for _ in range(2)]
    for n_groups in (1, 2, shape[1]):
        y, dx, *sums = results(x, dy, n_groups, parameters, activation=activation, mask=mask)
        samples = zip(alone(x, mask), alone(dy, mask), strict=True)
        y_alone, dx_alone, *sums_alone = zip(
            *[results(*one, n_groups, parameters, activation=activation) for one in samples], strict=True
        )
        # Of two values of a channel next to nothing is left in dx: it is judged beside its largest term.
        terms = max(float((parameters[0].abs().max() / one.std().clamp(min=0.05)).float()) for one in alone(x, mask))
        assert_close(rows(y, mask), torch.cat([t[0].T for t in y_alone]), dtype, 8)
        assert_close(rows(dx, mask), torch.cat([t[0].T for t in dx_alone]), dtype, 64 * terms)
        for t in (y, dx):
            assert (rows(t, ~mask) == 0).all()
            assert t.stride() == x.stride()
        for found, expected in zip(sums, sums_alone, strict=True):
            # Each sample's sum was rounded before it was added here.
            added = torch.stack(expected).double()
            error = (found.double() - added.sum(0)).abs()
            u = torch.finfo(dtype).eps
            bound = u * (added.abs().sum(0) + found.double().abs()) + 16 * 2**-24 * float(mask.sum()) ** 0.5
            assert (error <= bound).all()


@pytest.mark.parametrize("affine", [False, True])
@in_layouts
def test_running_statistics_are_the_average_of_the_samples_that_count(channels_last: bool, affine: bool) -> None:
    x, mask = case((5, 6, 4, 31), torch.float32, channels_last)
    mask = with_an_empty_sample(mask)
    x = torch.where(mask.unsqueeze(1), torch.where(x.isnan(), 0.5, x), torch.nan)
    w = torch.randn(6) if affine else None
    mean, var = torch.full((6,), 3.0), torch.full((6,), 2.0)
    instance_norm(x, mean, var, w, None, momentum=0.25, mask=mask)
    samples = [one.double()[0] for one in alone(x, mask)]
    torch.testing.assert_close(mean, (2.25 + 0.25 * sum(s.mean(1) for s in samples) / 4).float())
    torch.testing.assert_close(var, (1.5 + 0.25 * sum(s.var(1) for s in samples) / 4).float())


@in_layouts
@pytest.mark.parametrize("how", ["far from zero", "huge", "tiny", "constant"])
@pytest.mark.parametrize("n_groups", [2, 6])
def test_hard_values(channels_last: bool, how: str, n_groups: int) -> None:
    x, mask = case((5, 6, 4, 31), torch.float32, channels_last, offset=1e5 if how == "far from zero" else 0.0)
    x = {"huge": x * 1e30, "tiny": x * 1e-30, "constant": x * 0 + 3.33e6}.get(how, x)
    dy, parameters = torch.randn(x.shape), [torch.ones(6), torch.zeros(6)]
    y, dx, *_ = results(x, dy, n_groups, parameters, mask=mask)
    y_alone, dx_alone, *_ = zip(
        *[results(*one, n_groups, parameters) for one in zip(alone(x, mask), alone(dy, mask), strict=True)], strict=True
    )
    assert_close(rows(y, mask), torch.cat([t[0].T for t in y_alone]), torch.float32, 4)
    expected = torch.cat([t[0].T for t in dx_alone])
    assert (rows(dx, mask) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (rows(y, ~mask) == 0).all()
    assert (rows(dx, ~mask) == 0).all()
    if how == "constant":
        assert not y.any()


@in_layouts
@pytest.mark.parametrize("n_groups", [2, 6])
@pytest.mark.parametrize("shape", [(16, 6, 64, 64), (40, 48, 7, 7), (3, 6, 200, 200)], ids=str)
def test_every_number_of_threads_and_every_batch(shape: tuple[int, ...], n_groups: int, channels_last: bool) -> None:
    x, mask = case(shape, torch.float32, channels_last)
    mask.view(len(mask), -1)[:, :2] = True
    x = torch.where(mask.unsqueeze(1), torch.where(x.isnan(), 0.5, x), torch.nan)
    dy, parameters = torch.randn(shape), [torch.randn(shape[1]) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(x, dy, n_groups, parameters, mask=mask)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(x, dy, n_groups, parameters, mask=mask), expected)), threads
    finally:
        torch.set_num_threads(before)
    y, dx, *_ = results(x[1:2], dy[1:2], n_groups, parameters, mask=mask[1:2])
    assert torch.equal(y, expected[0][1:2])
    assert torch.equal(dx, expected[1][1:2])


@pytest.mark.parametrize("n_groups", [2, 6])
def test_the_second_derivative_is_that_of_the_composite_path(n_groups: int) -> None:
    mask = with_an_empty_sample(torch.rand(4, 7) < 0.7)
    x, w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6, 7), (6,), (6,)))

    def norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return group_norm(torch.where(mask.unsqueeze(1), x, torch.inf), n_groups, w, b, activation="silu", mask=mask)

    assert torch.autograd.gradcheck(norm, (x, w, b))
    assert torch.autograd.gradgradcheck(norm, (x, w, b))


@pytest.mark.parametrize("norm", ["group_norm", "instance_norm"])
def test_a_mask_takes_the_kernel(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    taken = []
    kernel = cpu.channel_norm
    monkeypatch.setattr(cpu, "channel_norm", lambda *args, **more: taken.append(more["mask"]) or kernel(*args, **more))
    x, mask = case((6, 4, 5), torch.float32, False)
    mask[:, :2] = True
    x = x.nan_to_num()
    group_norm(x, 2, mask=mask) if norm == "group_norm" else instance_norm(x, mask=mask)
    lengths = [5, 3, 0, 2, 5, 4]
    group_norm(x, 2, lengths=lengths) if norm == "group_norm" else instance_norm(x, lengths=lengths)
    assert torch.equal(taken[0].squeeze(1), mask)
    assert taken[1].flatten(1).sum(1).tolist() == lengths
