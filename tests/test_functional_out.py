"""out=: the result in memory of the caller's, in place where asked, and never a wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from normkit import functional as F
from normkit.errors import ArgumentError, DtypeError, NormkitError, ShapeError
from normkit.kernels import cpu

Call = Callable[..., Tensor]
C = 6
W, B, MEAN, VAR = torch.randn(C), torch.randn(C), torch.randn(C), torch.rand(C) + 0.5
CALLS: dict[str, Call] = {
    "layer_norm": lambda x, **how: F.layer_norm(x, x.shape[1:], **how),
    "rms_norm": lambda x, **how: F.rms_norm(x, x.shape[-1], **how),
    "batch_norm": lambda x, **how: F.batch_norm(x, MEAN, VAR, W, B, activation="silu", **how),
    "group_norm": lambda x, **how: F.group_norm(x, 3, W, B, activation="relu", **how),
    "layer_norm2d": lambda x, **how: F.layer_norm2d(x, W, B, **how),
}
calls = pytest.mark.parametrize(("name", "call"), CALLS.items(), ids=CALLS)


@calls
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, C, 5, 7), (2, C, 1, 1), (2, C, 33, 34)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-36])
def test_the_result_is_in_out_and_in_place(
    name: str, call: Call, dtype: torch.dtype, shape: tuple[int, ...], scale: float
) -> None:
    x = (torch.randn(shape) * scale).to(dtype)
    expected, out = call(x), torch.full_like(x, 7)
    assert call(x, out=out) is out
    assert torch.equal(out, expected)
    assert call(x, out=x) is x
    assert torch.equal(x, expected)


@calls
def test_the_kernel_writes_there(name: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.LIBRARY is None:
        pytest.skip(cpu.DESCRIPTION)
    x, out = torch.randn(3, C, 5, 7), torch.empty(3, C, 5, 7)
    monkeypatch.setattr(torch, "empty_like", lambda t: pytest.fail("something was allocated"))
    call(x, out=out)


@calls
@pytest.mark.parametrize(
    "change",
    [lambda t: t[..., ::2], lambda t: t.contiguous(memory_format=torch.channels_last), lambda t: t.transpose(2, 3)],
    ids=["strided", "channels_last", "transposed"],
)
def test_in_any_strides(name: str, call: Call, change: Callable[[Tensor], Tensor]) -> None:
    x = change(torch.randn(3, C, 5, 8))
    out = change(torch.zeros(3, C, 5, 8))
    expected = call(x)
    assert torch.equal(call(x, out=out), expected)
    assert torch.equal(call(x.contiguous(), out=torch.empty_like(out)), call(x.contiguous()))
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        assert torch.equal(call(x, out=x), expected)


@calls
def test_a_wrong_out_is_an_error_by_name(name: str, call: Call) -> None:
    memory = torch.randn(4, C, 5, 7)
    x = memory[:3]
    share = f"{name}: expected out to share memory with nothing but all of the input"
    wrong: list[tuple[object, type[NormkitError], str]] = [
        (torch.empty(3, C, 5), ShapeError, f"{name}: expected out of the input's shape [3, 6, 5, 7], got [3, 6, 5]"),
        (
            x.bfloat16(),
            DtypeError,
            f"{name}: expected out of the input's dtype and device, float32 on cpu, got bfloat16",
        ),
        (
            x.to("meta"),
            NormkitError,
            f"{name}: expected out of the input's dtype and device, float32 on cpu, got float32",
        ),
        (5, DtypeError, f"{name}: expected out to be a torch.Tensor, got int"),
        (memory[1:], ArgumentError, share),
        (torch.empty(1, C, 5, 7).expand(3, -1, -1, -1), ArgumentError, share),
        (torch.empty_like(x, requires_grad=True), ArgumentError, f"{name}: expected out where no gradient is needed"),
    ]
    before = memory.clone()
    for out, error, message in wrong:
        with pytest.raises(error, match=re.escape(message)):
            call(x, out=out)
    with pytest.raises(ArgumentError, match="expected out where no gradient is needed"):
        call(x.clone().requires_grad_(), out=torch.empty_like(x))
    assert torch.equal(memory, before)
    with torch.no_grad():
        call(x.clone().requires_grad_(), out=torch.empty_like(x))


def test_out_that_is_a_parameter() -> None:
    w = torch.ones(C)
    with pytest.raises(ArgumentError, match="or a parameter"):
        F.layer_norm(torch.randn(C), C, w, out=w)


def test_a_call_that_raises_leaves_running_statistics_alone() -> None:
    mean, var = MEAN.clone(), VAR.clone()
    with pytest.raises(ShapeError):
        F.batch_norm(torch.randn(3, C), mean, var, training=True, out=torch.empty(3, 1))
    assert torch.equal(mean, MEAN)
    x, out = torch.randn(3, C), torch.empty(3, C)
    F.batch_norm(x, mean, var, training=True, out=out)
    assert not torch.equal(mean, MEAN)
    assert torch.equal(out, F.batch_norm(x, None, None, training=True))


@calls
def test_in_graphs_and_transforms(name: str, call: Call) -> None:
    x = torch.randn(2, 3, C, 5, 7)
    got = torch.compile(lambda x, out: call(x, out=out), fullgraph=True, backend="aot_eager")(
        x[0], torch.empty_like(x[0])
    )
    torch.testing.assert_close(got, call(x[0]))
    got = torch.func.vmap(lambda x, out: call(x, out=out))(x, torch.empty_like(x))
    torch.testing.assert_close(got, torch.stack([call(t) for t in x]))
