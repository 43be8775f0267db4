"""nn.accumulate: micro-batches give what the whole batch gives: outputs, statistics, gradients."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import normkit
from normkit import nn
from normkit.errors import ArgumentError, DtypeError, ShapeError, SingleValueError, StatisticsError
from normkit.nn import accumulate
from normkit.nn._ragged import rows_of
from normkit.surgery import freeze

# Both sides are right to some 10 u of the largest value at each layer; a handful of layers, none of which amplifies
# by more than 1/sqrt(eps) = 300 where a channel is all but constant, stays below 10⁴ u in float64.
EXACT = 1e4 * 2.0**-53


class Residual(torch.nn.Module):
    """A block of a ResNet: two norms in a row, and one in the other branch."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = (
            torch.nn.Conv2d(n_in, n_out, 3, padding=1),
            torch.nn.Conv2d(n_out, n_out, 3, padding=1),
        )
        self.beside = torch.nn.Conv2d(n_in, n_out, 1)
        self.norms = torch.nn.ModuleList([nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)])
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norms[0](self.first(x)))
        return self.relu(self.norms[1](self.second(y)) + self.norms[2](self.beside(x)))


class Shared(torch.nn.Module):
    """One layer called twice, with an activation and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6, momentum=None, activation="silu"), torch.nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.norm(x)), x)


def mlp() -> torch.nn.Sequential:
    linear, norm = torch.nn.Linear, nn.BatchNorm1d
    return torch.nn.Sequential(linear(6, 8), norm(8), torch.nn.Tanh(), linear(8, 6, bias=False), norm(6, affine=False))


def resnet() -> torch.nn.Sequential:
    stem = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3))
    return torch.nn.Sequential(stem, Residual(4, 4), Residual(4, 6), head)


def frozen_within() -> torch.nn.Sequential:
    model = mlp()
    freeze(model[1])
    return model


def evaluated_within() -> torch.nn.Sequential:
    model = mlp()
    model[1].eval()
    return model


def without_statistics() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False))


def other_norms() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.LayerNorm(6), torch.nn.Linear(6, 4), nn.RMSNorm(4), nn.BatchNorm1d(4))


VECTOR, IMAGE = (6,), (2, 9, 9)
MODELS: dict[str, tuple[Callable[[], torch.nn.Sequential], tuple[int, ...]]] = {
    "mlp": (mlp, VECTOR),
    "resnet": (resnet, IMAGE),
    "shared": (lambda: torch.nn.Sequential(Shared()), VECTOR),
    "frozen": (frozen_within, VECTOR),
    "evaluation": (evaluated_within, VECTOR),
    "without running statistics": (without_statistics, VECTOR),
    "in evaluation without statistics": (lambda: without_statistics().eval(), VECTOR),
    "other norms": (other_norms, VECTOR),
    "synchronized, in one process": (lambda: torch.nn.Sequential(torch.nn.Linear(6, 4), nn.SyncBatchNorm(4)), VECTOR),
    "layer norm alone": (lambda: torch.nn.Sequential(torch.nn.Linear(6, 4), nn.LayerNorm(4)), VECTOR),
}
every_model = pytest.mark.parametrize(("build", "shape"), MODELS.values(), ids=MODELS.keys())
as_one = pytest.mark.parametrize("stages", [lambda m: m, list], ids=["one stage", "stages"])
Stages = Callable[[torch.nn.Sequential], Any]


def close(a: Any, b: Any, bound: float = EXACT) -> None:
    """Every tensor to the bound, relative to its largest value."""
    a, b = ([*x.values()] if isinstance(x, dict) else [*x] for x in (a, b))
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, rtol=0, atol=bound * max(1.0, float(y.detach().double().abs().max())))


def whole(model: torch.nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    y = model(x)
    return (y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], dy, allow_unused=True))


def in_parts(model: Any, modules: torch.nn.Module, x: Tensor, dy: Tensor, sizes: Any) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    y = torch.cat(accumulate(model, x.split(sizes)))
    return (y.detach(), *torch.autograd.grad(y, [x, *modules.parameters()], dy, allow_unused=True))


@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 1, 6], [2] * 6, [12], [7, 0, 5]], ids=str)
@as_one
@every_model
def test_outputs_statistics_and_gradients(
    build: Callable[[], torch.nn.Sequential], shape: tuple[int, ...], stages: Stages, sizes: list[int]
) -> None:
    model = build().double()
    twin = copy.deepcopy(model)
    for offset in (0.0, 3.0):
        x = torch.randn(12, *shape, dtype=torch.float64) * 2 + offset
        dy = torch.randn_like(twin(x).detach())
        twin.load_state_dict(model.state_dict())
        close(in_parts(stages(model), model, x, dy, sizes), whole(twin, x, dy))
        close(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("offset", [0.0, 1e4])
@as_one
def test_float32_is_as_exact_as_the_whole_batch(stages: Stages, offset: float) -> None:
    """Against float64: not further off than 8 times as far as the whole batch, or 64 roundings of the largest value."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(nn.BatchNorm2d(2), *resnet())
    x = torch.randn(12, *IMAGE) + offset
    dy = torch.randn(12, 3)
    twin, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    ours, theirs = in_parts(stages(model), model, x, dy, 4), whole(twin, x, dy)
    for got, usual, right in zip(ours, theirs, whole(exact, x.double(), dy.double()), strict=True):
        of_ours, of_theirs = ((t.double() - right).abs().max() for t in (got, usual))
        assert of_ours <= 8 * of_theirs + 64 * 2.0**-24 * right.abs().max()


def test_ten_steps_of_an_optimizer() -> None:
    model = resnet().double()
    twin = copy.deepcopy(model)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model, twin))
    for _ in range(10):
        x, target = torch.randn(9, *IMAGE, dtype=torch.float64), torch.randint(3, (9,))
        loss = torch.nn.functional.cross_entropy(twin(x), target)
        parts = zip(accumulate(list(model), x.split(4)), target.split(4), strict=True)
        sums = [torch.nn.functional.cross_entropy(y, t, reduction="sum") for y, t in parts]
        together = torch.stack(sums).sum() / 9
        for optimizer, value in ((ours, together), (theirs, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        close([together], [loss], 1e-10)
    close(model.state_dict(), twin.state_dict(), 1e-10)


def test_dropout_drops_the_same_in_every_run() -> None:
    """Outputs and gradients are those of the whole batch with the masks that the micro-batches drew."""
    model = mlp().double()
    model.insert(2, torch.nn.Dropout(0.5))
    seen: list[Tensor] = []
    model[2].register_forward_hook(lambda _, args, y: seen.append((y == 0).double()))
    x, dy = torch.randn(12, 6, dtype=torch.float64), torch.randn(12, 6, dtype=torch.float64)
    before = torch.get_rng_state()
    ours = in_parts(model, model, x, dy, 4)
    drawn = [torch.stack(seen[i::3]) for i in range(3)]
    assert all((masks == masks[0]).all() for masks in drawn)
    assert not torch.equal(drawn[0][0], drawn[1][0])
    kept = 2 * (1 - torch.cat([masks[0] for masks in drawn]))
    twin = copy.deepcopy(model)
    twin[2] = torch.nn.Identity()
    twin[2].register_forward_hook(lambda _, args, y: y * kept)
    twin.load_state_dict(model.state_dict())
    close(ours, whole(twin, x, dy))
    torch.set_rng_state(before)
    fresh = copy.deepcopy(model)
    close(ours, in_parts(fresh, fresh, x, dy, 4))  # a seed decides all


def snapshot(model: torch.nn.Module) -> tuple[list[int], list[Tensor], list[set[str]], list[bool]]:
    buffers = list(model.buffers())
    modules = list(model.modules())
    return (
        [id(b) for b in buffers],
        [b.clone() for b in buffers],
        [set(vars(m)) for m in modules],
        [m.training for m in modules],
    )


def assert_untouched(before: tuple[list[int], list[Tensor], list[set[str]], list[bool]], model: Any) -> None:
    now = snapshot(model)
    assert (now[0], now[2], now[3]) == (before[0], before[2], before[3])
    assert all(torch.equal(a, b) for a, b in zip(before[1], now[1], strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@as_one
def test_an_error_leaves_the_model_as_it_was(stages: Stages, backward: bool, error: type[BaseException]) -> None:
    class Fails(torch.nn.Module):
        armed = False

        def forward(self, x: Tensor) -> Tensor:
            if self.armed and len(x) == 3:
                raise error("stop")
            return x

    model = mlp()
    model.append(Fails())
    x = torch.randn(7, 6)
    accumulate(stages(model), x.split(4))
    if backward:
        y = torch.cat(accumulate(stages(model), x.split(4)))
    model[-1].armed = True
    before = snapshot(model)
    with pytest.raises(error, match="stop"):
        y.sum().backward() if backward else accumulate(stages(model), x.split(4))
    assert_untouched(before, model)


def test_buffers_of_other_modules_are_as_after_one_run() -> None:
    """The power iteration of spectral_norm goes one step in a training forward: as over the whole batch."""
    model = torch.nn.Sequential(
        torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 8)), nn.BatchNorm1d(8), torch.nn.Linear(8, 6)
    ).double()
    twin = copy.deepcopy(model)
    x, dy = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    close(in_parts(model, model, x, dy, 4), whole(twin, x, dy))
    close(model.state_dict(), twin.state_dict())


def test_a_forward_that_leaves_the_statistics_alone() -> None:
    model = mlp().double()
    x = torch.randn(9, 6, dtype=torch.float64)
    before = snapshot(model)
    with normkit.no_stat_update(model):
        y = torch.cat(accumulate(model, x.split(4)))
    assert_untouched(before, model)
    close([y], [copy.deepcopy(model)(x)])
    y.sum().backward()
    assert_untouched(before, model)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient(mode: Any) -> None:
    model = mlp().double()
    twin = copy.deepcopy(model)
    with mode():
        x = torch.randn(9, 6, dtype=torch.float64)
        y = torch.cat(accumulate(list(model), x.split(4)))
    assert not y.requires_grad
    close([y], [twin(x.clone())])
    close(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("convention", ["biased", "unbiased"])
def test_policies(convention: Any) -> None:
    model, twin = (nn.BatchNorm1d(4, nonfinite="skip", running_variance=convention, dtype=torch.float64) for _ in "ab")
    x = torch.randn(9, 4, dtype=torch.float64)
    x[7, 2] = float("nan")
    accumulate(model, x.split(4))
    twin(x)
    close(model.state_dict(), twin.state_dict())
    strict = torch.nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, nonfinite="raise")).double()
    before = snapshot(strict)
    with pytest.raises(StatisticsError, match=r"BatchNorm1d: expected finite input .* in 1 of 4 channels"):
        accumulate(strict, x.split(4))
    assert_untouched(before, strict)


def test_one_value_in_all() -> None:
    x = torch.randn(1, 4).requires_grad_()
    layer = nn.BatchNorm1d(4, single_value="skip")
    y = accumulate(layer, [x[:0], x])
    assert y[1].tolist() == [[0.0] * 4]
    y[1].sum().backward()
    assert layer.bias.grad.tolist() == [1.0] * 4
    assert layer.num_batches_tracked == 0
    with pytest.raises(SingleValueError, match="expected more than 1 value per channel when training"):
        accumulate(nn.BatchNorm1d(4), [x[:0], x])


def test_what_is_changed_before_the_backward() -> None:
    """The modes are those of the forward pass again; weights that an optimizer moved are an error."""
    model, x = mlp().double(), torch.randn(9, 6, dtype=torch.float64)
    twin = copy.deepcopy(model)
    y = torch.cat(accumulate(model, x.split(4)))
    model.eval()
    y.pow(3).sum().backward()
    assert not model[1].training
    twin(x).pow(3).sum().backward()
    close([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])
    y = torch.cat(accumulate(model.train(), x.split(4)))
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.pow(3).sum().backward()


def test_a_graph_that_is_kept_is_run_again() -> None:
    model, x = mlp().double(), torch.randn(9, 6, dtype=torch.float64)
    y = torch.cat(accumulate(list(model), x.split(4))).pow(3).sum()
    y.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    y.backward()
    close([p.grad for p in model.parameters()], [2 * g for g in once])


def test_autocast() -> None:
    model, x = mlp(), torch.randn(9, 6)
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = torch.cat(accumulate(model, x.split(4))), twin(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    dy = torch.randn(9, 6)
    (y * dy).sum().backward()
    (expected * dy).sum().backward()
    close([y, *(p.grad for p in model.parameters())], [expected, *(p.grad for p in twin.parameters())], 2.0**-5)


def test_gradients_of_16_bit_parameters_are_summed_in_float32() -> None:
    """A bfloat16 sum of ones stops at 256."""
    layer = nn.BatchNorm1d(1, dtype=torch.bfloat16)
    x = torch.randn(320, 1, dtype=torch.bfloat16)
    torch.cat(accumulate(layer, x.split(1))).sum().backward()
    assert layer.bias.grad.item() == 320


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # by the compiler
def test_compiled() -> None:
    torch.compiler.reset()
    model, x = mlp().double(), torch.randn(9, 6, dtype=torch.float64)
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    close([torch.cat(accumulate(compiled, x.split(4)))], [expected])
    inside = torch.compile(lambda x: torch.cat(accumulate(model, x.split(4))) * 2, backend="aot_eager")
    y = inside(x)
    close([y], [2 * expected])
    y.sum().backward()
    assert model[1].num_batches_tracked == 1


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")  # in the first runs
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_a_checkpoint_inside(use_reentrant: bool) -> None:
    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x * 2, use_reentrant=use_reentrant)

    model = Checkpointed().double()
    x, dy = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    if use_reentrant:  # torch's own limit, said by torch
        with pytest.raises(RuntimeError, match=r"When use_reentrant=True, torch\.utils\.checkpoint is incompatible"):
            in_parts(model, model, x, dy, 4)
        return
    twin = copy.deepcopy(model)
    close(in_parts(model, model, x, dy, 4), whole(twin, x, dy))


def test_arguments_and_outputs_of_other_kinds() -> None:
    class Splits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor, scale: float, lengths: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
            return self.norm(x) * scale, {"order": x.argsort(0), "skip": [x + 1, None]}

    class Joins(torch.nn.Module):
        def forward(self, y: Tensor, rest: dict[str, Any]) -> Tensor:
            return y + rest["skip"][0] + rest["order"]

    stages = torch.nn.ModuleList([Splits(), Joins()]).double()
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    twin = copy.deepcopy(stages)
    ys = accumulate(stages, [(part, 2.0, None) for part in x.split(4)])
    expected = twin[0](x, 2.0, None)
    # The order of 4 samples is not that of 9: what the modules do with it is theirs.
    close([y - p.argsort(0) for y, p in zip(ys, x.split(4), strict=True)], (expected[0] + x + 1).split(4))
    ys[0].pow(2).sum().backward()  # the other outputs have no gradient
    assert x.grad.isfinite().all()
    assert x.grad[4:].abs().max() > 0  # through the statistics
    leaf = x.detach().clone().requires_grad_()
    first = twin[0](leaf, 2.0, None)[0][:4] + leaf[:4] + 1 + leaf[:4].argsort(0)
    first.pow(2).sum().backward()
    close([x.grad], [leaf.grad])


class Padded(torch.nn.Module):
    """Normalizes the values of [N, C, L] that count, told of them in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.norm = how, nn.BatchNorm1d(4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        kept = torch.arange(x.shape[2]) < lengths.unsqueeze(1)
        if self.how == "packed":
            packed = pack_padded_sequence(x.transpose(1, 2), lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.norm(packed), batch_first=True, total_length=x.shape[2])[0].transpose(1, 2)
        if self.how == "nested":
            rows, offsets = x.transpose(1, 2)[kept], torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
            ragged = torch.nested.nested_tensor_from_jagged(rows, offsets).transpose(1, 2)
            return x.new_zeros(len(x), x.shape[2], 4).index_put((kept,), rows_of(self.norm(ragged))).transpose(1, 2)
        told = {"mask": kept, "weights": kept.to(x.dtype), "lengths": lengths}
        return self.norm(x, **{self.how: told[self.how]})


LENGTHS = torch.tensor([5, 2, 4, 1, 5, 3])


@pytest.mark.parametrize("how", ["packed", "nested"])
def test_ragged_input_within(how: str) -> None:
    """The values of all micro-batches are one batch, however long their sequences are."""
    model, twin = Padded(how).double(), Padded("lengths").double()
    ours = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    theirs, dy = ours.detach().clone().requires_grad_(), torch.randn(6, 4, 5, dtype=torch.float64)
    y = torch.cat(accumulate(model, [*zip(ours.split(4), LENGTHS.split(4), strict=True)]))
    expected = twin(theirs, LENGTHS)
    y.backward(dy)
    expected.backward(dy)
    close([y, ours.grad, model.norm.weight.grad], [expected, theirs.grad, twin.norm.weight.grad])
    close(model.state_dict(), twin.state_dict())


def test_a_packed_sequence_from_stage_to_stage() -> None:
    stages, twin = (torch.nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(4)]).double() for _ in "ab")
    x = torch.randn(6, 5, 4, dtype=torch.float64)
    parts = [
        pack_padded_sequence(part, lengths, batch_first=True, enforce_sorted=False)
        for part, lengths in zip(x.split(4), LENGTHS.split(4), strict=True)
    ]
    ys = accumulate(stages, parts)
    close([torch.cat([y.data for y in ys])], [twin[1](twin[0](torch.cat([part.data for part in parts])))])
    close(stages.state_dict(), twin.state_dict())


@pytest.mark.parametrize("how", ["mask", "weights", "lengths"])
@pytest.mark.parametrize("stages", [lambda m: m, lambda m: [m]], ids=["one stage", "stages"])
def test_padding_is_refused(stages: Callable[[torch.nn.Module], Any], how: str) -> None:
    """Even where nothing is padded; but one micro-batch is an ordinary call, and evaluation has nothing to merge."""
    model = Padded(how)
    x, lengths = torch.randn(6, 4, 5), torch.full((6,), 5)
    before = snapshot(model)
    parts = [*zip(x.split(4), lengths.split(4), strict=True)]
    with pytest.raises(ArgumentError, match=f"to be called with an input alone, got {how} at BatchNorm1d"):
        accumulate(stages(model), parts)
    assert_untouched(before, model)
    twin = copy.deepcopy(model)
    close(accumulate(stages(model), [(x, LENGTHS)]), [twin(x, LENGTHS)], 2.0**-20)
    parts = [*zip(x.split(4), LENGTHS.split(4), strict=True)]
    close([torch.cat(accumulate(stages(model.eval()), parts))], [twin.eval()(x, LENGTHS)], 2.0**-20)


def test_second_derivatives_are_an_error() -> None:
    x = torch.randn(9, 6, requires_grad=True)
    y = torch.cat(accumulate(mlp(), x.split(4))).pow(3).sum()
    (dx,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.pow(2).sum().backward()


class Doubling(nn.BatchNorm1d):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return 2 * super().forward(input, residual)


class WritesToItsInput(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class AnotherPath(torch.nn.Module):
    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(nn.BatchNorm1d(6) for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[-1](x) if len(x) == 1 else self.norms[0](x) if len(self.norms) > 1 else x


VECTORS = torch.zeros(7, 6)
ERRORS: dict[str, tuple[Callable[[], Any], Any, type[Exception], str]] = {
    "torch's own": (
        lambda: torch.nn.BatchNorm1d(6),
        None,
        ArgumentError,
        r"got torch.nn.BatchNorm1d at '\(the model\)'",
    ),
    "a subclass": (
        lambda: torch.nn.Sequential(Doubling(6)),
        None,
        ArgumentError,
        r"Doubling at '0', which has a forward",
    ),
    "virtual batches": (
        lambda: nn.BatchNorm1d(6, virtual_batch_size=2),
        None,
        ArgumentError,
        "which has virtual batches",
    ),
    "instances": (
        lambda: nn.InstanceNorm1d(6, track_running_stats=True),
        None,
        ArgumentError,
        "InstanceNorm1d at .* whose running statistics would count every micro-batch",
    ),
    "recurrent": (lambda: nn.BatchNormLSTM(6, 3, max_steps=2), None, ArgumentError, "whose running statistics"),
    "input written to": (WritesToItsInput, None, ArgumentError, "a module that leaves its input as it is, got one"),
    "other layers": (lambda: AnotherPath(2), None, ArgumentError, "the same BatchNorm layers in the same order, got"),
    "fewer layers": (lambda: AnotherPath(1), None, ArgumentError, "call the same BatchNorm layers, got 1 of 3 at"),
    "channels": (lambda: nn.BatchNorm1d(5), None, ShapeError, "BatchNorm1d: expected 5 channels"),
    "no module": (lambda: 3, None, DtypeError, r"expected a torch.nn.Module or a sequence of them, got int"),
    "no module in a list": (lambda: [mlp(), 3], None, DtypeError, r"expected a torch.nn.Module, got int"),
    "no stages": (list, None, ArgumentError, "at least one module, got an empty sequence"),
    "a tensor": (mlp, VECTORS, DtypeError, r"a sequence of micro-batches, got Tensor; split a batch with x.split"),
    "no batches": (mlp, [], ArgumentError, "at least one micro-batch, got none"),
    "lists": (mlp, [[VECTORS], [VECTORS]], DtypeError, "tensors or tuples of arguments, got list"),
    "outputs": (
        lambda: [torch.nn.Identity(), type("Bad", (torch.nn.Module,), {"forward": lambda self, x: "text"})()],
        None,
        DtypeError,
        "modules that return tensors, .* got str",
    ),
}


@pytest.mark.parametrize(("build", "batches", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(build: Callable[[], Any], batches: Any, error: type[Exception], text: str) -> None:
    model = build()
    before = snapshot(model) if isinstance(model, torch.nn.Module) else None
    with pytest.raises(error, match=text):
        accumulate(model, torch.zeros(7, 6).split(3) if batches is None else batches)
    if before is not None:
        assert_untouched(before, model)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: [m], torch.nn.Sequential], ids=["itself", "stage", "within"])
def test_under_distributed_data_parallel_is_an_error(wrap: Callable[[torch.nn.Module], Any]) -> None:
    """Its hooks would meet the gradients of a graph that its forward knows nothing of. Ranks: tests/ranks."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(mlp())
        before = snapshot(parallel)
        with pytest.raises(ArgumentError, match="expected a model outside DistributedDataParallel, got one inside"):
            accumulate(wrap(parallel), VECTORS.split(3))
        assert_untouched(before, parallel)
        accumulate(parallel.module, VECTORS.split(3))
    finally:
        torch.distributed.destroy_process_group()


def test_inside_a_transform_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"expected a call outside torch\.func transforms"):
        torch.func.grad(lambda x: accumulate(mlp(), x.split(3))[0].sum())(VECTORS)


class Peak(TorchDispatchMode):
    """The bytes of all tensors made while it lasts that are alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and id(t.untyped_storage()) not in self.alive:
                storage = t.untyped_storage()
                self.now += storage.nbytes()
                gone = partial(self._gone, id(storage), storage.nbytes())
                self.alive[id(storage)] = weakref.ref(storage, gone)
        self.most = max(self.most, self.now)
        return out

    def _gone(self, key: int, size: int, _: object) -> None:
        del self.alive[key]
        self.now -= size


def peak(model: torch.nn.Sequential, parts: Any, x: Tensor) -> float:
    """In units of one activation of the whole batch."""
    with Peak() as memory:
        ys = [model(x)] if parts is None else accumulate(parts, x.split(1))
        torch.autograd.backward(ys, [torch.ones(()).expand_as(y) for y in ys])
        del ys
    return memory.most / (x.numel() * x.element_size())


def test_memory() -> None:
    """In activations of the whole batch, of which there are 16 micro-batches; docs/decisions/0018 shows the figures."""
    blocks = [torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), torch.nn.ReLU()) for _ in range(6)]
    model = torch.nn.Sequential(*blocks)
    x = torch.randn(16, 8, 16, 16)
    assert peak(model, None, x) > 6 * 3
    assert peak(model, model, x) < 1 + 6 * 9 / 16  # the outputs, and the graph of one micro-batch through six blocks
    # The inputs of five stages, the outputs, the gradients for both sides of a stage, and a graph through one block.
    assert peak(model, list(model), x) < 5 + 1 + 3 + 9 / 16
