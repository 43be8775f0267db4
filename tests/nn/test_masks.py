"""Padding under BatchNorm, InstanceNorm and GroupNorm: as if the positions that count were alone in the world."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

from normkit import functional, nn
from normkit.errors import ArgumentError, DtypeError, ShapeError, SingleValueError

# Values and gradients here stay below 10, of sums of at most 100 terms in float64: some hundred roundings of 1e-15.
EXACTLY = {"rtol": 0.0, "atol": 1e-12}
LENGTHS = [7, 3, 2, 5, 0]
JUNK = {"nan": math.nan, "inf": math.inf, "huge": 1e300}

SHAPES = {1: (5, 4, 7), 2: (5, 4, 3, 7), 3: (5, 4, 2, 3, 7)}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}

# torch.func.jvp scripts a decomposition on its first call.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_junk = pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)


def by_lengths(shape: tuple[int, ...]) -> Tensor:
    """The mask [N, *] of LENGTHS along the last axis."""
    within = torch.arange(shape[-1]) < torch.tensor(LENGTHS)[:, None]
    return within.view(shape[0], *[1] * (len(shape) - 3), shape[-1]).expand(shape[0], *shape[2:]).contiguous()


def scattered(shape: tuple[int, ...]) -> Tensor:
    """A mask that no lengths describe; every sample has several positions, but the last, which has none."""
    mask = torch.rand(shape[0], *shape[2:]) < 0.5
    mask.flatten(1)[:, :3] = True
    mask[-1] = False
    return mask


SAID: dict[str, Callable[[tuple[int, ...]], tuple[Tensor, dict[str, Any]]]] = {
    "mask": lambda shape: (m := scattered(shape), {"mask": m}),
    "weights": lambda shape: (m := scattered(shape), {"weights": m.double()}),
    "lengths": lambda shape: (by_lengths(shape), {"lengths": LENGTHS}),
    "length tensor": lambda shape: (by_lengths(shape), {"lengths": torch.tensor(LENGTHS)}),
    "mask and lengths": lambda shape: (
        by_lengths(shape) & (m := scattered(shape)) | False,
        {"mask": m, "lengths": LENGTHS},
    ),
}
every_way = pytest.mark.parametrize("way", SAID.values(), ids=SAID)


def rows(x: Tensor, mask: Tensor) -> Tensor:
    """[M, C] of what counts."""
    return x.movedim(1, -1)[mask]


def padded_with(x: Tensor, mask: Tensor, junk: float) -> Tensor:
    return torch.where(mask.unsqueeze(1), x, junk)


def build(layer: Callable[..., torch.nn.Module], *args: Any, **options: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    built = layer(*args, **{"dtype": torch.float64, **options})
    for p in built.parameters():
        torch.nn.init.normal_(p)
    return built


def assert_same_state(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, **EXACTLY, msg=lambda m, name=name: f"{name}: {m}")
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, **EXACTLY, msg=lambda m, name=name: f"gradient of {name}: {m}")


@every_junk
@every_way
@every_rank
def test_a_batch_norm_sees_only_what_counts(rank: int, way: Any, junk: float) -> None:
    x, dy = torch.randn(SHAPES[rank], dtype=torch.float64), torch.randn(SHAPES[rank], dtype=torch.float64)
    mask, said = way(x.shape)
    layer, alone = build(BATCH[rank], 4), build(nn.BatchNorm1d, 4)
    given, unpadded = padded_with(x, mask, junk).requires_grad_(), rows(x, mask).requires_grad_()
    y, expected = layer(given, **said), alone(unpadded)
    y.backward(padded_with(dy, mask, 1.0))
    expected.backward(rows(dy, mask))
    torch.testing.assert_close(rows(y, mask), expected, **EXACTLY)
    torch.testing.assert_close(rows(given.grad, mask), unpadded.grad, **EXACTLY)
    assert (rows(y, ~mask) == 0).all()
    assert (rows(given.grad, ~mask) == 0).all()
    assert_same_state(layer, alone)


@every_junk
@every_rank
def test_a_batch_norm_in_evaluation_leaves_padding_zero(rank: int, junk: float) -> None:
    x = torch.randn(SHAPES[rank], dtype=torch.float64)
    mask = scattered(x.shape)
    layer = build(BATCH[rank], 4).eval()
    given = padded_with(x, mask, junk).requires_grad_()
    y = layer(given, mask=mask)
    y.sum().backward()
    torch.testing.assert_close(rows(y, mask), rows(layer(x), mask), **EXACTLY)
    assert (rows(y, ~mask) == 0).all()
    assert (rows(given.grad, ~mask) == 0).all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


SAMPLE_NORMS = {
    "instance": lambda rank: build(INSTANCE[rank], 4, affine=True),
    "group": lambda rank: build(nn.GroupNorm, 2, 4),
    "group, activated": lambda rank: build(nn.GroupNorm, 1, 4, activation="silu"),
}


@every_junk
@every_rank
@pytest.mark.parametrize("kind", SAMPLE_NORMS.values(), ids=SAMPLE_NORMS)
def test_a_norm_of_samples_sees_only_what_counts(kind: Any, rank: int, junk: float) -> None:
    x, dy = torch.randn(SHAPES[rank], dtype=torch.float64), torch.randn(SHAPES[rank], dtype=torch.float64)
    mask = by_lengths(x.shape)
    layer, alone = kind(rank), kind(rank)
    given = padded_with(x, mask, junk).requires_grad_()
    y = layer(given, lengths=LENGTHS)
    y.backward(dy)
    for i, n in enumerate(LENGTHS):
        assert (y[i, ..., n:] == 0).all()
        assert (given.grad[i, ..., n:] == 0).all()
        if n == 0:
            continue
        sample = x[i : i + 1, ..., :n].clone().requires_grad_()
        expected = alone(sample)
        expected.backward(dy[i : i + 1, ..., :n])
        torch.testing.assert_close(y[i : i + 1, ..., :n], expected, **EXACTLY)
        torch.testing.assert_close(given.grad[i : i + 1, ..., :n], sample.grad, **EXACTLY)
    assert_same_state(layer, alone)


def test_the_running_statistics_of_samples_are_averaged_over_those_that_have_any() -> None:
    x = torch.randn(SHAPES[1], dtype=torch.float64)
    layer = build(nn.InstanceNorm1d, 4, track_running_stats=True, momentum=1.0)
    layer(x, lengths=LENGTHS)
    parts = [x[i, :, :n] for i, n in enumerate(LENGTHS) if n]
    torch.testing.assert_close(layer.running_mean, torch.stack([p.mean(1) for p in parts]).mean(0), **EXACTLY)
    torch.testing.assert_close(layer.running_var, torch.stack([p.var(1) for p in parts]).mean(0), **EXACTLY)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.InstanceNorm1d], ids=["batch", "instance"])
def test_a_weight_of_k_is_k_occurrences(layer: Any) -> None:
    x, dy = torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 6, dtype=torch.float64)
    k = torch.tensor([3, 0, 1, 2, 0, 1])
    ours, repeated = (build(layer, 4, affine=True, track_running_stats=True) for _ in range(2))
    at = torch.arange(6).repeat_interleave(k)
    y, expected = ours(x, weights=k.expand(3, 6)), repeated(x[:, :, at])
    torch.testing.assert_close(y[:, :, at], expected, **EXACTLY)
    # A position that counts k times stands for k positions, over which its gradient is spread.
    y.backward(dy)
    expected.backward((dy / k)[:, :, at])
    assert_same_state(ours, repeated)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_a_residual_counts_where_the_input_does(activation: Any) -> None:
    x, residual = torch.randn(2, *SHAPES[2], dtype=torch.float64)
    mask = scattered(x.shape)
    layer, alone = (build(c, 4, activation=activation) for c in (nn.BatchNorm2d, nn.BatchNorm1d))
    beside = padded_with(residual, mask, math.nan).requires_grad_()
    y = layer(padded_with(x, mask, math.nan), beside, mask=mask)
    torch.testing.assert_close(rows(y, mask), alone(rows(x, mask), rows(residual, mask)), **EXACTLY)
    y.sum().backward()
    assert (rows(y, ~mask) == 0).all()
    assert (rows(beside.grad, ~mask) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("way", ["mask", "weights"])
def test_padding_costs_no_precision(dtype: torch.dtype, offset: float, way: str) -> None:
    """The layer on what counts has its own tests; with padding it may lie two roundings of the result further off."""
    x = (torch.randn(SHAPES[2]) + offset).to(dtype)
    mask = scattered(x.shape)
    layer, alone = (build(c, 4, affine=False, dtype=dtype) for c in (nn.BatchNorm2d, nn.BatchNorm1d))
    y = layer(padded_with(x, mask, math.inf), **{way: mask if way == "mask" else mask.float()})
    expected = alone(rows(x, mask))
    u = torch.finfo(dtype).eps
    torch.testing.assert_close(rows(y, mask), expected, rtol=4 * u, atol=4 * torch.finfo(torch.float32).eps)


def test_memory_format_is_kept() -> None:
    x = torch.randn(SHAPES[2]).to(memory_format=torch.channels_last)
    for said in ({"mask": scattered(x.shape)}, {"weights": scattered(x.shape).float()}):
        assert nn.BatchNorm2d(4)(x, **said).is_contiguous(memory_format=torch.channels_last)
        assert nn.BatchNorm2d(4)(x.contiguous(), **said).is_contiguous()
        assert nn.GroupNorm(2, 4)(x, **said).is_contiguous(memory_format=torch.channels_last)


LAYERS = {
    "batch": lambda **options: build(nn.BatchNorm1d, 2, **options),
    "instance": lambda **options: build(nn.InstanceNorm1d, 2, affine=True, track_running_stats=True, **options),
    "group": lambda **options: build(nn.GroupNorm, 1, 2),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
SMALL = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)


@every_layer
@pytest.mark.parametrize("way", ["mask", "weights"])
def test_derivatives_of_the_first_and_second_order(make: Any, way: str) -> None:
    layer = make().train()
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = (torch.rand(3, 4, dtype=torch.float64) + 1).requires_grad_()

    def call(x: Tensor, weights: Tensor) -> Tensor:
        if way == "mask":
            return layer(x, mask=SMALL)
        return layer(x, weights=weights, mask=SMALL)

    inputs = (x, weights) if way == "weights" else (x, weights.detach())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@every_layer
def test_every_mode_of_differentiation_agrees(make: Any) -> None:
    layer = make()
    x = torch.randn(3, 2, 4, dtype=torch.float64)

    def call(x: Tensor) -> Tensor:
        return layer(x, mask=SMALL)

    eager = torch.autograd.functional.jacobian(call, x)
    batched = torch.autograd.functional.jacobian(call, x, vectorize=True)
    for found in (batched, jacrev(call)(x), jacfwd(call)(x)):
        torch.testing.assert_close(found, eager, **EXACTLY)


@every_layer
def test_vmap_over_inputs_and_masks(make: Any) -> None:
    layer = make()
    xs = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    masks = torch.stack([SMALL, SMALL.flip(0)])
    found = vmap(lambda x, mask: layer(x, mask=mask))(xs, masks)
    for y, x, mask in zip(found, xs, masks, strict=True):
        torch.testing.assert_close(y, layer(x, mask=mask), **EXACTLY)


def test_statistics_inside_a_transform_come_back_new() -> None:
    layer, ordinary = LAYERS["batch"](), LAYERS["batch"]()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state = {**parameters, **buffers}
        y = functional_call(layer, state, (x,), {"mask": SMALL})
        return (y**3).sum(), {name: state[name] for name in buffers}

    gradients, new = grad(loss, has_aux=True)(parameters, buffers)
    (ordinary(x, mask=SMALL) ** 3).sum().backward()
    for name, p in ordinary.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, **EXACTLY)
    for name, value in ordinary.named_buffers():
        torch.testing.assert_close(new[name], value, **EXACTLY)


@every_layer
@pytest.mark.parametrize(
    "said", [{"mask": SMALL}, {"weights": SMALL.double()}, {"lengths": torch.tensor([3, 2, 0])}], ids=str
)
def test_a_compiled_layer_is_the_same(make: Any, said: dict[str, Tensor]) -> None:
    torch.compiler.reset()
    layer, compiled = make(), make()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    expected = layer(x, **said)
    found = torch.compile(compiled, fullgraph=True, backend="aot_eager")(x, **said)
    torch.testing.assert_close(found, expected, **EXACTLY)
    for name, value in layer.named_buffers():
        torch.testing.assert_close(compiled.get_buffer(name), value, **EXACTLY)


@every_layer
def test_where_values_are_not_looked_at_padding_alone_changes_nothing(make: Any) -> None:
    torch.compiler.reset()
    layer = make()
    before = {name: value.clone() for name, value in layer.named_buffers()}
    call = torch.compile(lambda x, mask: layer(x, mask=mask), fullgraph=True, backend="aot_eager")
    y = call(torch.full((3, 2, 4), math.nan, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.bool))
    assert (y == 0).all()
    for name in before.keys() - {"num_batches_tracked"}:
        assert torch.equal(layer.get_buffer(name), before[name])


WRONG = {
    "a mask of numbers": ({"mask": SMALL.float()}, DtypeError, "expected mask to be a bool tensor.* got float32"),
    "a mask of another shape": ({"mask": SMALL[:2]}, ShapeError, r"expected mask .* \[3, 4\].* got \[2, 4\]"),
    "a mask of more samples": ({"mask": torch.ones(5, 4) > 0}, ShapeError, r"expected mask .* \[3, 4\].* got \[5, 4\]"),
    "a mask with channels": ({"mask": SMALL[:, None]}, ShapeError, r"without the channel axis.* got \[3, 1, 4\]"),
    "a sparse mask": (
        {"mask": SMALL.to_sparse()},
        DtypeError,
        "expected mask to be a dense tensor, got sparse_coo; call",
    ),
    "no tensor": ({"mask": [True]}, DtypeError, "expected mask .* got list"),
    "nothing but padding": ({"mask": SMALL & False}, ArgumentError, "not all padding, got none"),
    "nothing but zero weights": ({"weights": SMALL * 0.0}, ArgumentError, "not all padding, got none"),
    "weights of bool": ({"weights": SMALL}, DtypeError, "expected weights .* real numbers, got bool"),
    "weights of another shape": ({"weights": torch.ones(4)}, ShapeError, r"expected weights .* got \[4\]"),
    "a negative weight": ({"weights": SMALL.double() - 0.5}, ArgumentError, "expected weights of 0 or more, got -0.5"),
    "a weight of NaN": ({"weights": SMALL * math.nan}, ArgumentError, "expected weights of 0 or more, got nan"),
    "an infinite weight": ({"weights": SMALL + math.inf}, ArgumentError, "expected weights of 0 or more, got inf"),
    "weights beyond float64": (
        {"weights": SMALL.double() * 1e308},
        ArgumentError,
        "expected weights whose sum float64 holds",
    ),
    "lengths beyond the input": ({"lengths": [4, 5, 4]}, ArgumentError, "from 0 to the input's 4 positions, got 5"),
    "a negative length": ({"lengths": [4, -1, 4]}, ArgumentError, "from 0 to the input's 4 positions, got -1"),
    "lengths of numbers": ({"lengths": [4.0, 2.0, 1.0]}, DtypeError, "expected lengths to be integers, got float32"),
    "lengths of other samples": ({"lengths": [4, 2]}, ShapeError, r"expected lengths of shape \[3\].* got \[2\]"),
    "lengths of more samples": ({"lengths": [4] * 5}, ShapeError, r"expected lengths of shape \[3\].* got \[5\]"),
    "one length for all": ({"lengths": 4}, ShapeError, r"expected lengths of shape \[3\].* got \[\]"),
    "lengths in words": ({"lengths": ["four"]}, DtypeError, "expected lengths to be integers, one a sample, got list"),
}
WITH_POLICIES = {
    f"batch, {name}": lambda name=name, value=value: build(nn.BatchNorm1d, 2, **{name: value})
    for name, value in {"nonfinite": "skip", "virtual_batch_size": 2}.items()
}


@pytest.mark.parametrize("make", [*LAYERS.values(), *WITH_POLICIES.values()], ids=[*LAYERS, *WITH_POLICIES])
@pytest.mark.parametrize(("said", "error", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_an_error_that_changes_nothing(make: Any, said: Any, error: Any, text: str) -> None:
    layer = make()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(error, match=f"^{type(layer).__name__}: .*{text}"):
        layer(torch.randn(3, 2, 4, dtype=torch.float64), **said)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_weight_that_float32_does_not_hold() -> None:
    x, weights = torch.randn(3, 2, 4), torch.ones(3, 4, dtype=torch.float64)
    weights[0, 0] = 1e300
    with pytest.raises(ArgumentError, match=r"BatchNorm1d: expected weights of 0 or more, got 1e\+300"):
        nn.BatchNorm1d(2)(x, weights=weights)
    weights[0, 0] = 1e-300  # as good as 0
    mask = torch.ones(3, 4, dtype=torch.bool).index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(False))
    torch.testing.assert_close(nn.BatchNorm1d(2)(x, weights=weights), nn.BatchNorm1d(2)(x, mask=mask))


@pytest.mark.parametrize("lengths", [(3, 2, 0), np.array([3, 2, 0]), range(3, 0, -1)], ids=lambda t: type(t).__name__)
def test_lengths_are_any_integers(lengths: Any) -> None:
    x, layer = torch.randn(3, 2, 4), nn.BatchNorm1d(2)
    assert torch.equal(layer(x, lengths=lengths), layer(x, lengths=torch.tensor([*lengths])))


@pytest.mark.parametrize("policy", [{}, {"nonfinite": "skip"}], ids=str)
@pytest.mark.parametrize("said", [{"mask": SMALL}, {"weights": SMALL.double()}, {"lengths": [3, 2, 0]}], ids=str)
def test_where_there_are_no_values_shapes_are_found_all_the_same(said: dict[str, Any], policy: dict[str, Any]) -> None:
    x = torch.randn(3, 2, 4)
    meta = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in said.items()}
    assert nn.BatchNorm1d(2, device="meta", **policy)(x.to("meta"), **meta).shape == x.shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert nn.BatchNorm1d(2, **policy)(mode.from_tensor(x), **said).shape == x.shape


def test_one_position_is_nothing_to_normalize_over() -> None:
    x, one = torch.randn(2, 4, 3), torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(SingleValueError, match="BatchNorm1d: expected more than 1 value per channel when training"):
        nn.BatchNorm1d(4)(x, mask=one)
    with pytest.raises(SingleValueError, match=r"InstanceNorm1d: .* per channel of a sample beside the padding, got 1"):
        nn.InstanceNorm1d(4)(x, lengths=[3, 1])
    with pytest.raises(SingleValueError, match="GroupNorm: expected more than 1 value per group"):
        nn.GroupNorm(4, 4)(x, lengths=[3, 1])
    nn.GroupNorm(2, 4)(x, lengths=[3, 1])


def test_weights_that_add_up_to_one_have_no_unbiased_variance() -> None:
    x, weights = torch.randn(2, 4, 3), torch.full((2, 3), 1 / 8)
    with pytest.raises(ArgumentError, match=r"BatchNorm1d: expected weights that add up to more than 1 .* got 0.75"):
        nn.BatchNorm1d(4)(x, weights=weights)
    free = nn.BatchNorm1d(4, track_running_stats=False)
    torch.testing.assert_close(free(x, weights=weights), free(x))


def test_vectors_take_a_mask_and_no_lengths() -> None:
    x, mask = torch.randn(6, 4), torch.tensor([True, True, False, True, False, False])
    torch.testing.assert_close(nn.BatchNorm1d(4)(x, mask=mask)[mask], nn.BatchNorm1d(4)(x[mask]))
    with pytest.raises(ShapeError, match="BatchNorm1d: expected lengths with input that has positions"):
        nn.BatchNorm1d(4)(x, lengths=[1] * 6)


def test_a_sample_without_its_axis() -> None:
    x, mask = torch.randn(4, 5), torch.tensor([True, True, False, True, False])
    layer = nn.InstanceNorm1d(4)
    torch.testing.assert_close(layer(x, mask=mask), layer(x[None], mask=mask[None])[0])
    torch.testing.assert_close(layer(x, lengths=[3]), layer(x[None], lengths=[3])[0])


def test_the_functions_take_them_too() -> None:
    x = torch.randn(SHAPES[1])
    mask = by_lengths(x.shape)
    y = functional.batch_norm(x, None, None, training=True, mask=mask)
    torch.testing.assert_close(rows(y, mask), functional.batch_norm(rows(x, mask), None, None, training=True))
    torch.testing.assert_close(functional.instance_norm(x, lengths=LENGTHS), nn.InstanceNorm1d(4)(x, mask=mask))
    out = torch.empty_like(x)
    functional.group_norm(x, 2, lengths=LENGTHS, out=out)
    torch.testing.assert_close(out, nn.GroupNorm(2, 4)(x, mask=mask))
    functional.batch_norm(x, None, None, training=True, mask=mask, out=out)
    torch.testing.assert_close(out, y)
