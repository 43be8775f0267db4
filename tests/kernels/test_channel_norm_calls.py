"""BatchNorm, GroupNorm and InstanceNorm as users call them: which path, running statistics, derivatives, graphs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import normkit
from kernels.channel_norms import in_channels_last
from normkit import composite
from normkit import functional as F
from normkit.kernels import cpu, eager

pytestmark = pytest.mark.usefixtures("each_way_to_call")

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
SHAPE = (3, 4, 5, 2)


def _statistics(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, dtype=dtype, generator=generator), torch.rand(4, dtype=dtype, generator=generator) + 0.5


CALLS: dict[str, tuple[Call, Call]] = {
    "batch": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: composite.batch_norm(x, w, b, 1e-5)[0],
    ),
    "frozen": (
        lambda x, w, b: F.batch_norm(x, *_statistics(), w, b),
        lambda x, w, b: composite.apply_statistics(x, *_statistics(), w, b, 1e-5),
    ),
    "group": (
        lambda x, w, b: F.group_norm(x, 2, w, b),
        lambda x, w, b: composite.group_norm(x, 2, w, b, 1e-5),
    ),
    "instance": (
        lambda x, w, b: F.instance_norm(x, None, None, w, b),
        lambda x, w, b: composite.instance_norm(x, w, b, 1e-5)[0],
    ),
}
calls = pytest.mark.parametrize(("call", "expected"), CALLS.values(), ids=CALLS)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


def _inputs(channels_last: bool = False) -> list[Tensor]:
    x = torch.randn(SHAPE, dtype=torch.float64)
    x = in_channels_last(x) if channels_last else x
    return [t.requires_grad_() for t in (x, *torch.randn(2, 4, dtype=torch.float64))]


@calls
def test_the_call_takes_the_kernel(call: Call, expected: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    kernel = cpu.channel_norm
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    monkeypatch.setattr(cpu, "channel_norm", lambda *args, **kwargs: (taken.append(1), kernel(*args, **kwargs))[1])
    call(*_inputs())
    assert taken == [1]


@calls
@layouts
def test_first_and_second_derivative_by_differences(call: Call, expected: Call, channels_last: bool) -> None:
    inputs = _inputs(channels_last)
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@calls
@layouts
def test_third_derivative_as_composite(call: Call, expected: Call, channels_last: bool) -> None:
    inputs = _inputs(channels_last)
    directions = torch.randn(3, *SHAPE, dtype=torch.float64)
    results = []
    for function in (call, expected):
        y = function(*inputs)
        for v in directions:
            (y,) = torch.autograd.grad(y.sin(), inputs[0], v, create_graph=True)
        results.append(torch.autograd.grad(y.sin().sum(), inputs, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*results)


@calls
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_only_what_requires_a_gradient_gets_one(call: Call, expected: Call, needed: tuple[int, ...]) -> None:
    inputs = [t.detach().requires_grad_(i in needed) for i, t in enumerate(_inputs())]
    wanted = [inputs[i] for i in needed]
    dy = torch.randn(SHAPE, dtype=torch.float64)
    got, exact = (torch.autograd.grad(f(*inputs), wanted, dy) for f in (call, expected))
    torch.testing.assert_close(got, exact)


@calls
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:, :, ::2],
        lambda t: t[:1].expand(6, -1, -1, -1),
        lambda t: t.transpose(2, 3),
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        lambda t: t.flatten(2),
        lambda t: t.unsqueeze(2).contiguous(memory_format=torch.channels_last_3d),
        lambda t: t.permute(2, 1, 0, 3)[..., 0],
    ],
    ids=["strided", "expanded", "transposed", "samples-last", "sequence", "volume", "sliced"],
)
def test_input_and_gradient_in_any_strides(call: Call, expected: Call, change: Callable[[Tensor], Tensor]) -> None:
    inputs = _inputs()
    dy = change(torch.randn(SHAPE, dtype=torch.float64))
    results = []
    for function in (call, expected):
        y = function(change(inputs[0]), *inputs[1:])
        results.append((y, *torch.autograd.grad(y, inputs, dy)))
    torch.testing.assert_close(*results)
    assert results[0][0].stride() == results[1][0].stride()


@calls
def test_many_output_gradients_at_once(call: Call, expected: Call) -> None:
    """is_grads_batched runs the backward under vmap: memory that no kernel may read."""
    inputs, dy = _inputs(), torch.randn(2, *SHAPE, dtype=torch.float64)
    got, exact = (torch.autograd.grad(f(*inputs), inputs, dy, is_grads_batched=True) for f in (call, expected))
    torch.testing.assert_close(got, exact)


@calls
def test_under_functorch(call: Call, expected: Call) -> None:
    x, w, b = (t.detach() for t in _inputs())
    got, exact = (torch.func.jacrev(lambda x, f=f: f(x, w, b).sin())(x) for f in (call, expected))
    torch.testing.assert_close(got, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("buffers", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [F.batch_norm, F.instance_norm], ids=["batch", "instance"])
@layouts
def test_running_statistics_as_composite_keeps_them(
    norm: Callable[..., Tensor],
    dtype: torch.dtype,
    buffers: torch.dtype,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = (torch.randn(6, 4, 5, 7) * 3 + 10).to(dtype)
    x = in_channels_last(x) if channels_last else x
    kept = []
    for library, calls in ((cpu.LIBRARY, eager.LIBRARY), (None, eager.ABSENT)):
        monkeypatch.setattr(cpu, "LIBRARY", library)
        monkeypatch.setattr(eager, "LIBRARY", calls)
        mean, var = (t.to(buffers) for t in _statistics())
        versions = mean._version, var._version
        for _ in range(3):
            norm(x, mean, var, None, None, True, 0.3)
        assert (mean._version, var._version) > versions
        kept.append((mean, var))
    ulp = torch.finfo(buffers if buffers == torch.bfloat16 else torch.float32).eps
    torch.testing.assert_close(*kept, rtol=4 * ulp, atol=0)  # 2 ulp for each of the two


def test_strided_running_statistics() -> None:
    x, (mean, var) = torch.randn(6, 4, 5), _statistics(torch.float32)
    wide = torch.zeros(2, 4, 3)
    wide[0, :, 0], wide[1, :, 0] = mean, var
    F.batch_norm(x, wide[0, :, 0], wide[1, :, 0], training=True)
    F.batch_norm(x, mean, var, training=True)
    assert torch.equal(wide[:, :, 0], torch.stack([mean, var]))


def test_bytes_saved_for_backward() -> None:
    """x, the weight, and 16 bytes a channel."""
    x, layer = torch.randn(8, 4, 6, 6, requires_grad=True), normkit.nn.BatchNorm2d(4)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        layer(x)
    assert [t.data_ptr() for t in saved[:2]] == [x.data_ptr(), layer.weight.data_ptr()]
    assert [t.nbytes for t in saved[2:]] == [4 * 16]


@pytest.mark.parametrize("n_groups", [0, 2])
@layouts
def test_operators_are_what_they_declare(n_groups: int, channels_last: bool) -> None:
    x, w, b = (t.detach().float().requires_grad_() for t in _inputs(channels_last))
    ops = torch.ops.normkit
    opcheck(ops.channel_norm.default, (x, w, b, None, None, n_groups, 1e-5))
    x, w, b, dy = x.detach(), w.detach(), b.detach(), torch.randn(SHAPE)
    _, stats = ops.channel_norm(x, w, b, None, None, n_groups, 1e-5)
    for need in ((True, True, True), (False, True, False), (True, False, False)):
        opcheck(ops.channel_norm_backward.default, (dy, x, stats, w, b, n_groups, False, 1e-5, *need))


def test_bad_arguments_do_not_reach_the_operator() -> None:
    x, w, b = (t.detach().float() for t in _inputs())
    op = torch.ops.normkit.channel_norm
    with pytest.raises(RuntimeError, match="expected weight of 4 elements, got 2"):
        op(x, w[:2], b, None, None, 0, 1e-5)
    with pytest.raises(RuntimeError, match="expected num_channels divisible by num_groups, got 4 and 3"):
        op(x, w, b, None, None, 3, 1e-5)
    with pytest.raises(RuntimeError, match="expected both mean and var or neither"):
        op(x, w, b, w, None, 0, 1e-5)
    with pytest.raises(RuntimeError, match="expected x of shape"):
        op(w, w, b, None, None, 0, 1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@layouts
def test_compiled_models_run_the_kernel_in_one_graph(dynamic: bool, channels_last: bool) -> None:
    torch.manual_seed(0)
    layers = [
        normkit.nn.BatchNorm2d(4),
        normkit.nn.GroupNorm(2, 4),
        normkit.nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        normkit.nn.BatchNorm2d(4, momentum=None),
        normkit.nn.BatchNorm2d(4).eval(),
    ]
    model = torch.nn.Sequential(*layers)
    twin = torch.nn.Sequential(*layers)
    twin.load_state_dict(model.state_dict())
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    x = torch.randn(SHAPE)
    x = (in_channels_last(x) if channels_last else x).requires_grad_()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    got = compiled(x)
    got_gradients = torch.autograd.grad(got, [x, *model.parameters()], torch.ones_like(got))
    got_state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(before)
    expected = model(x)
    torch.testing.assert_close(got, expected)
    assert got.stride() == expected.stride()
    torch.testing.assert_close(
        got_gradients, torch.autograd.grad(expected, [x, *model.parameters()], torch.ones_like(got))
    )
    torch.testing.assert_close(got_state, dict(model.state_dict()))
