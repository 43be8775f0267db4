"""Activation and residual in the pass of BatchNorm and GroupNorm: exact, and the same on every path."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import normkit
import tolerances
from kernels.channel_norms import channel_case, check_within, in_channels_last, slabs_of
from kernels.row_norms import DTYPES
from normkit import composite, reference
from normkit import functional as F
from normkit.errors import ArgumentError, DtypeError, ShapeError
from normkit.kernels import cpu, eager

pytestmark = pytest.mark.usefixtures("each_way_to_call")

Array = np.ndarray
ACTIVATIONS: tuple[composite.Activation, ...] = ("relu", "silu", "gelu")
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
# (shape, n_groups, whether statistics are given)
CASES = (
    ((33, 5), 0, False),
    ((2, 3, 5), 0, True),
    ((5, 4, 7, 7), 0, False),
    ((5, 4, 7, 7), 2, False),
    ((3, 4, 7, 7), 0, True),
    ((1, 2, 33, 65), 1, False),
    ((2, 48, 7, 7), 2, False),  # channels cut where gelu takes its piece of values
    ((2, 96, 5, 5), 2, False),  # and silu
    ((5, 4104), 0, False),  # more columns than are taken at once, and a last vector that is not whole
    ((1, 4104, 2, 2), 2, False),
    ((9, 2056), 0, False),  # several such rows one behind the other
)


def _in_float64(name: str, z: Array) -> tuple[Array, Array]:
    """a(z) and a'(z)."""
    at = torch.from_numpy(np.ascontiguousarray(z)).requires_grad_()
    y = {"relu": torch.relu, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[name](at)
    (slope,) = torch.autograd.grad(y.sum(), at)
    return y.detach().numpy(), slope.numpy()


def _exact(
    n_groups: int, given: tuple[Array, Array] | None, x: Array, w: Array, b: Array, eps: float
) -> tuple[Array, reference.NormCache, Callable[[Array], Sequence[Array]]]:
    if given is not None:
        y, cache = reference.batch_norm_inference(x, *given, w, b, eps)
        return y, cache, lambda dy: reference.batch_norm_inference_backward(dy, cache)
    if n_groups == 0:
        y, cache = reference.batch_norm(x, w, b, eps)
        return y, cache, lambda dy: reference.batch_norm_backward(dy, cache)
    y, cache = reference.group_norm(x, n_groups, w, b, eps)
    return y, cache, lambda dy: reference.group_norm_backward(dy, cache)


@activations
@dtypes
@layouts
@pytest.mark.parametrize(("shape", "n_groups", "given"), CASES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_against_the_reference(
    activation: composite.Activation,
    dtype: torch.dtype,
    channels_last: bool,
    shape: tuple[int, ...],
    n_groups: int,
    given: bool,
) -> None:
    """Slopes are at most 1.13, and change by at most 0.8 a unit of z: so much of z's error comes into y and dy."""
    case = channel_case(shape, n_groups, dtype, channels_last=channels_last, given=given, offset=0.3)
    case.activation = activation
    x, dy, w, b = (t.double().numpy() for t in (case.x, case.dy, case.w, case.b) if t is not None)
    pair = None if case.given is None else tuple(t.double().numpy() for t in case.given)
    z, cache, backward = _exact(n_groups, pair, x, w, b, case.eps)  # type: ignore[arg-type]
    y, slope = _in_float64(activation, z)
    dx, dw, db = backward(dy * slope)

    per_channel = (slice(None), *[None] * (len(shape) - 2))
    wide_w, wide_b = (np.broadcast_to(p[per_channel], shape) for p in (w, b))
    slabs = slabs_of(shape, n_groups)
    rstd, x_hat = cache.rstd.ravel()[slabs], cache.x_hat
    computed = tolerances.working_dtype(dtype)
    error = tolerances.normalized(z, x_hat, wide_w, wide_b, computed)  # of z
    units = 4 * tolerances.oracle_too(dtype) * tolerances.ulp(1 + np.abs(y), computed)  # of the activation itself
    got_y, stats = case.forward()
    check_within("y", got_y, y, tolerances.rounded_to(dtype, y, 1.13 * error + units))

    g = np.abs(dy) * (0.8 * error + units)
    if activation == "relu":  # its slope jumps
        g = np.where(np.abs(z) <= error, np.abs(dy), 0.0)
    mean = tolerances.MeanOver(slabs)
    spread = np.abs(rstd) * (
        np.abs(wide_w) * g + mean(np.abs(wide_w) * g) + np.abs(x_hat) * mean(np.abs(wide_w * x_hat) * g)
    )
    got_dx, got_dw, got_db = case.backward(stats)
    bound = tolerances.input_gradient(dx, 1.13 * dy * wide_w, x_hat, rstd, mean, dtype)
    check_within("dx", got_dx, dx, tolerances.rounded_to(dtype, dx, spread + bound))
    axes = (0, *range(2, len(shape)))
    for name, got, exact, terms, more in (
        ("dw", got_dw, dw, np.abs(dy) * (1 + np.abs(x_hat)), g * np.abs(x_hat)),
        ("db", got_db, db, np.abs(dy), g),
    ):
        assert got is not None
        bound = tolerances.parameter_gradient(exact, 1.13 * terms.sum(axes), dtype, got.dtype)
        check_within(name, got, exact, bound + more.sum(axes))


# Units in the last place, half of one for the last rounding. float32: measured over every 23rd float32, 1.72
# and 1.19. float64: s(z) is e^z, which the C library gives to one unit, over 1 + e^z, rounded once more, and a unit
# of a factor is up to two of the product; P(z) is the C library's erfc, to 6 units. Half a unit more for the
# exact value as a float64.
UNITS = {
    ("relu", torch.float32): 0.0,
    ("silu", torch.float32): 2.0,
    ("gelu", torch.float32): 2.0,
    ("relu", torch.float64): 0.0,
    ("silu", torch.float64): 0.5 + 2 * (1 + 0.5) + 0.5,
    ("gelu", torch.float64): 0.5 + 2 * 6 + 0.5,
}
EXACT = {
    "relu": lambda z: max(z, mpmath.mpf(0)),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "gelu": lambda z: z * mpmath.ncdf(z),
}


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_activations_themselves(activation: composite.Activation, dtype: torch.dtype) -> None:
    """Within UNITS; where s(z) or P(z) of float64 is subnormal, within two of the least numbers: z loses that much."""
    small = 2.0 ** torch.linspace(-40, 0, 1001, dtype=torch.float64)
    steps = [torch.linspace(-end, end, n, dtype=torch.float64) for end, n in ((6, 2001), (110, 2001), (760, 501))]
    z = torch.cat([*steps, small, -small]).to(dtype)
    zero, one = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    got = F.batch_norm(z.view(1, 1, -1), zero, one, None, None, eps=0.0, activation=activation).flatten()
    with mpmath.workdps(40):
        exact = np.array([float(EXACT[activation](mpmath.mpf(v))) for v in z.tolist()])
    least = tolerances.ulp(np.zeros(1), dtype)
    lost = 0.0 if activation == "relu" or dtype == torch.float32 else 2 * least * np.abs(z.double().numpy())
    check_within(activation, got, exact, UNITS[activation, dtype] * tolerances.ulp(exact, dtype) + lost)


def test_the_slope_of_silu_far_below_zero() -> None:
    """Six roundings of numbers of its size, the last of them perhaps subnormal."""
    z = torch.linspace(-110, -60, 4001, dtype=torch.float64).float().requires_grad_()
    zero, one = torch.zeros(1), torch.ones(1)
    F.batch_norm(z.view(1, 1, -1), zero, one, None, None, eps=0.0, activation="silu").sum().backward()
    assert z.grad is not None
    at = z.detach().double()
    exact = (torch.exp(at) * (1 + at)).numpy()  # s(z) is e^z but for e^2z, and s(-z) is 1
    check_within("slope", z.grad, exact, 6 * 2.0**-24 * np.abs(exact) + 2.0**-149)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("far", [-1e30, -100.0, -17.0, 17.0, 100.0, 1e30, torch.inf, torch.nan])
def test_a_value_does_not_depend_on_those_beside_it(activation: composite.Activation, far: float) -> None:
    """Values far from 0 are taken with more care; not so the others of their vector."""
    z, dy = torch.randn(2, 1, 1, 200, generator=torch.Generator().manual_seed(0)).unbind(0)
    beside = z.clone()
    beside[..., ::7] = far
    zero, one = torch.zeros(1), torch.ones(1)
    got = []
    for x in (z, beside):
        x.requires_grad_()
        y = F.batch_norm(x, zero, one, None, None, eps=0.0, activation=activation)
        got.append((y.detach(), torch.autograd.grad(y, x, dy)[0]))
    others = torch.arange(200) % 7 != 0
    for alone, together in zip(*got, strict=True):
        assert torch.equal(alone[..., others], together[..., others])


@dtypes
@layouts
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_activations_keep_the_sign_of_zero(
    activation: composite.Activation, channels_last: bool, dtype: torch.dtype
) -> None:
    z = torch.tensor([0.0, -0.0]).repeat(20).view(1, 2, 4, 5).to(dtype)
    zero, one = torch.zeros(2), torch.ones(2)
    x = in_channels_last(z) if channels_last else z
    y = F.batch_norm(x, zero, one, None, None, eps=0.0, activation=activation)
    assert bool((y == 0).all())
    assert torch.equal(torch.signbit(y), torch.signbit(z))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_activations_of_infinity(activation: composite.Activation) -> None:
    """As torch's: infinity stays, minus infinity times 0 is no number."""
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38], dtype=dtype)
        zero, one = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
        got = F.batch_norm(z.view(1, 1, -1), zero, one, None, None, eps=0.0, activation=activation).flatten()
        assert torch.equal(got.isnan(), torch.tensor([False, True, True, False, False]))
        assert got[[0, 3, 4]].tolist() == [torch.inf, z[3].item(), 0.0]


@layouts
def test_relu_stops_any_gradient_where_it_is_flat(channels_last: bool) -> None:
    """An infinite dy does not come through as infinity times 0, which is no number."""
    x = torch.tensor([-1.0, 2.0, -3.0, 4.0]).view(1, 2, 2, 1)
    x = in_channels_last(x) if channels_last else x
    dy = torch.where(x < 0, torch.inf, 1.0)
    zero, one = torch.zeros(2), torch.ones(2)
    x.requires_grad_()
    F.batch_norm(x, zero, one, None, None, eps=0.0, activation="relu").backward(dy)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(x < 0, 0.0, 1.0))


@layouts
def test_relu_in_evaluation_takes_no_infinite_input_times_zero(channels_last: bool) -> None:
    """Where the statistics were given, dx is dy * (w * rstd) or 0, whatever x is."""
    x = torch.tensor([torch.inf, -torch.inf, 2.0, -3.0] * 8).view(1, 4, 2, 4)
    x = in_channels_last(x) if channels_last else x
    x.requires_grad_()
    mean, var, w = torch.zeros(4), torch.ones(4), torch.tensor([0.5, 1.0, 2.0, 4.0])
    F.batch_norm(x, mean, var, w, None, eps=0.0, activation="relu").backward(torch.ones_like(x))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(x > 0, w.view(1, 4, 1, 1), 0.0).detach())


@layouts
@dtypes
def test_relu_passes_the_gradient_on_where_it_is_nan(channels_last: bool, dtype: torch.dtype) -> None:
    """As torch's does: a gradient of 0 would say that nothing is wrong."""
    x = torch.tensor([torch.nan, -1.0, 2.0, -3.0] * 72, dtype=dtype).view(2, 4, 6, 6)
    x = (in_channels_last(x) if channels_last else x).requires_grad_()
    mean, var = torch.zeros(4), torch.ones(4)
    dy = torch.full_like(x, 3.0)
    for activation, mask in (("relu", None), ("relu", torch.ones(2, 6, 6, dtype=torch.bool))):
        y = F.batch_norm(x, mean, var, None, None, eps=0.0, activation=activation, mask=mask)
        (dx,) = torch.autograd.grad(y, x, dy)
        assert torch.equal(dx, torch.where(x <= 0, 0.0, dy).to(dtype).detach())


STATISTICS = (torch.tensor([0.5, -1.0, 0.1, 2.0]).double(), torch.tensor([0.7, 1.3, 0.6, 2.0]).double())

Call = Callable[..., Tensor]
CALLS: dict[str, tuple[Call, Call]] = {
    "batch": (
        lambda x, w, b, **how: F.batch_norm(x, None, None, w, b, training=True, **how),
        lambda x, w, b, **how: composite.batch_norm(x, w, b, 1e-5, **how)[0],
    ),
    "frozen": (
        lambda x, w, b, **how: F.batch_norm(x, *STATISTICS, w, b, **how),
        lambda x, w, b, **how: composite.apply_statistics(x, *STATISTICS, w, b, 1e-5, **how),
    ),
    "group": (
        lambda x, w, b, **how: F.group_norm(x, 2, w, b, **how),
        lambda x, w, b, **how: composite.group_norm(x, 2, w, b, 1e-5, **how),
    ),
}
calls = pytest.mark.parametrize(("call", "expected"), CALLS.values(), ids=CALLS)
with_residual = pytest.mark.parametrize(("call", "expected"), list(CALLS.values())[:2], ids=list(CALLS)[:2])
SHAPE = (2, 4, 3, 2)


def _inputs(channels_last: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    x = torch.randn(SHAPE, dtype=torch.float64).to(dtype)
    x = in_channels_last(x) if channels_last else x
    return [t.to(dtype).requires_grad_() for t in (x, *torch.randn(2, 4, dtype=torch.float64))]


@calls
@layouts
@activations
def test_derivatives_by_differences(
    call: Call, expected: Call, channels_last: bool, activation: composite.Activation
) -> None:
    inputs = _inputs(channels_last)
    assert gradcheck(lambda *t: call(*t, activation=activation), inputs)
    assert gradgradcheck(lambda *t: call(*t, activation=activation), inputs)


@with_residual
@layouts
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_residual_as_composite_adds_it(
    call: Call, expected: Call, channels_last: bool, activation: composite.Activation | None, dtype: torch.dtype
) -> None:
    inputs = _inputs(channels_last, dtype)
    residual = torch.randn(SHAPE).to(dtype).requires_grad_()
    dy = torch.randn(SHAPE).to(dtype)
    results = []
    for function in (call, expected):
        y = function(*inputs, activation=activation, residual=residual)
        results.append((y, *torch.autograd.grad(y, [*inputs, residual], dy)))
    torch.testing.assert_close(*results)
    assert results[0][0].stride() == inputs[0].stride()


@with_residual
@pytest.mark.parametrize("activation", [None, "relu"])
def test_second_derivative_with_a_residual(call: Call, expected: Call, activation: composite.Activation | None) -> None:
    inputs = [*_inputs(), torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)]
    assert gradcheck(lambda *t: call(*t[:3], activation=activation, residual=t[3]), inputs)
    assert gradgradcheck(lambda *t: call(*t[:3], activation=activation, residual=t[3]), inputs)


@with_residual
@layouts
def test_the_residual_is_added_in_the_pass(
    call: Call, expected: Call, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    kernel = cpu.channel_norm
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    monkeypatch.setattr(
        cpu, "channel_norm", lambda *a, **k: (seen.append(k.get("residual") is not None), kernel(*a, **k))[1]
    )
    call(*_inputs(channels_last), activation="relu", residual=torch.randn(SHAPE, dtype=torch.float64))
    assert seen == [True]


def test_extreme_statistics_with_residual_and_activation() -> None:
    """The slabs that go through double have the same epilogue."""
    for channels_last in (False, True):
        x, r = torch.randn(2, 3, 4, 5) * 1e-38, torch.randn(2, 3, 4, 5)
        x, r = (in_channels_last(t) if channels_last else t for t in (x, r))
        for activation in (None, "relu"):
            y = F.batch_norm(x, None, None, None, None, True, eps=1e-80, activation=activation, residual=r)
            z = torch.from_numpy(reference.batch_norm(x.double().numpy(), eps=1e-80)[0]) + r
            torch.testing.assert_close(y, (z.relu() if activation else z).float())
        y = F.batch_norm(x, None, None, None, None, True, eps=1e-80, activation="silu")
        z = torch.from_numpy(reference.batch_norm(x.double().numpy(), eps=1e-80)[0])
        torch.testing.assert_close(y, torch.nn.functional.silu(z).float())


@calls
@activations
def test_under_functorch(call: Call, expected: Call, activation: composite.Activation) -> None:
    x, w, b = (t.detach() for t in _inputs())
    got, exact = (torch.func.jacrev(lambda x, f=f: f(x, w, b, activation=activation))(x) for f in (call, expected))
    torch.testing.assert_close(got, exact)
    batch = torch.stack([x, x + 1])
    got = torch.func.vmap(lambda x: call(x, w, b, activation=activation))(batch)
    torch.testing.assert_close(got, torch.stack([call(x, w, b, activation=activation) for x in batch]))


@layouts
@activations
def test_compiled_layers_in_one_graph(channels_last: bool, activation: composite.Activation) -> None:
    layers = [normkit.nn.BatchNorm2d(4, activation=activation), normkit.nn.GroupNorm(2, 4, activation=activation)]
    x, residual = torch.randn(SHAPE), torch.randn(SHAPE, requires_grad=True)
    x = (in_channels_last(x) if channels_last else x).requires_grad_()
    dy = torch.randn(SHAPE)

    def model(x: Tensor, residual: Tensor) -> Tensor:
        return layers[1](layers[0](x, residual) + layers[0](x))  # type: ignore[no-any-return]

    results = []
    for call in (torch.compile(model, fullgraph=True, backend="aot_eager"), model):
        y = call(x, residual)
        results.append((y, *torch.autograd.grad(y, [x, residual, *layers[0].parameters()], dy)))
    torch.testing.assert_close(*results)
    assert results[0][0].stride() == results[1][0].stride()


def test_bad_arguments_are_errors_by_name() -> None:
    x = torch.randn(2, 4, 3, 3)
    message = "BatchNorm2d: expected activation to be None, 'relu', 'silu' or 'gelu', got 'tanh'"
    with pytest.raises(ArgumentError, match=message):
        normkit.nn.BatchNorm2d(4, activation="tanh")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="GroupNorm: expected activation"):
        normkit.nn.GroupNorm(2, 4, activation="")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="group_norm: expected activation"):
        F.group_norm(x, 2, activation=torch.relu)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="batch_norm: expected activation"):
        F.batch_norm(x, None, None, training=True, activation=["relu"])  # type: ignore[arg-type]
    layer = normkit.nn.BatchNorm2d(4)
    with pytest.raises(
        ShapeError, match=r"BatchNorm2d: expected residual of the input's shape \[2, 4, 3, 3\], got \[2,"
    ):
        layer(x, x[:, :2])
    with pytest.raises(DtypeError, match="BatchNorm2d: expected residual of the input's dtype float32, got bfloat16"):
        layer(x, x.bfloat16())
    assert layer.num_batches_tracked == 0


def test_without_an_activation_layers_are_torchs() -> None:
    for ours, theirs in (
        (normkit.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)),
        (normkit.nn.GroupNorm(2, 4), torch.nn.GroupNorm(2, 4)),
    ):
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(normkit.nn.GroupNorm(2, 4, activation="silu")).endswith(", activation='silu')")
    assert repr(normkit.nn.BatchNorm1d(4, activation="relu")).endswith(", activation='relu')")


def test_bytes_saved_for_backward() -> None:
    """x, the parameters, 16 bytes a channel; after a residual add and relu also y, which the next layer keeps, too."""
    x, layer = torch.randn(8, 4, 6, 6, requires_grad=True), normkit.nn.BatchNorm2d(4, activation="relu")
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        layer(x)
        assert [t.nbytes for t in saved] == [x.nbytes, 16, 16, 4 * 16]
        saved.clear()
        y = layer(x, torch.randn_like(x))
        assert [t.nbytes for t in saved] == [x.nbytes, 16, 4 * 16, y.nbytes]
