"""What torch's layers get wrong and ours get right: each row measures both on the same input.

``python tests/better_than_torch.py`` prints the table that the README shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import normkit
from normkit import surgery

U = 2.0**-24  # half a unit in the last place of 1 in float32


@dataclass(frozen=True)
class Outcome:
    """How one side did, in words, and whether that is right."""

    words: str
    right: bool


@dataclass(frozen=True)
class Row:
    what: str
    measure: Callable[[Any], Outcome]  # of torch.nn or normkit.nn
    rule: str


def _error_in_ulp(y: Tensor, x: Tensor, axes: tuple[int, ...]) -> Outcome:
    """Largest error of a norm without parameters, in units in the last place of 1 + |x̂|; right up to 4."""
    wide = x.double()
    centred = wide - wide.mean(axes, keepdim=True)
    x_hat = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + 1e-5)
    ulp = torch.exp2(torch.floor(torch.log2(1 + x_hat.abs())) - 23)
    error = ((y.double() - x_hat).abs() / ulp).max().item()
    return Outcome(f"{error:.2g} ulp" if error < 100 else f"{error:,.0f} ulp", error <= 4)


def _random(*shape: int, offset: float = 0.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset).float()


def layer_norm_offset(nn: Any, offset: float) -> Outcome:
    x = _random(64, 1024, offset=offset)
    return _error_in_ulp(nn.LayerNorm(1024, elementwise_affine=False)(x), x, (1,))


def batch_norm_channels_last(nn: Any) -> Outcome:
    x = _random(8, 16, 64, 64, offset=1e4).to(memory_format=torch.channels_last)
    return _error_in_ulp(nn.BatchNorm2d(16, affine=False)(x), x, (0, 2, 3))


def bfloat16_weight_gradient(nn: Any) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(65536, 64, generator=generator).bfloat16()
    dy = (1 + torch.randn(65536, 64, generator=generator)).bfloat16()
    layer = nn.LayerNorm(64, dtype=torch.bfloat16)
    layer(x).backward(dy)
    exact = dy.double().sum(0)
    error = ((layer.bias.grad.double() - exact).abs() / exact.abs()).max().item()
    return Outcome(f"off by {100 * error:.2g} %", error <= 2.0**-8)


def huge_values(nn: Any) -> Outcome:
    y = nn.LayerNorm(8)(_random(2, 8) * 1e30)
    finite = bool(y.isfinite().all())
    return Outcome("normalized" if finite else "NaN", finite)


def constant_channel(nn: Any) -> Outcome:
    y = nn.BatchNorm1d(1)(torch.full((1000, 1), 3.33e6)).abs().max().item()
    return Outcome(f"{y:.2g}", y == 0)


def _along(function: Callable[[Tensor], Tensor], v: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (grad(function)(x) * v).sum()


def third_derivative(nn: Any) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    x, v, c = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    layer = nn.LayerNorm(5, elementwise_affine=False)
    second = _along(_along(lambda x: (layer(x) ** 3 * c).sum(), v), v)
    # Central differences of the second derivative: error h²·f⁽⁵⁾/6 and rounding u/h, both far below 1e-3 here.
    h = 1e-4
    expected = ((second(x + h * v) - second(x - h * v)) / (2 * h)).item()
    error = abs(_along(second, v)(x).item() - expected) / abs(expected)
    return Outcome("right" if error < 1e-3 else f"wrong by {100 * error:.0f} %", error < 1e-3)


def forward_over_forward(nn: Any) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    x, v, c = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    layer = nn.BatchNorm1d(4, affine=False, track_running_stats=False)

    def first(x: Tensor) -> Tensor:
        return jvp(lambda x: (layer(x) ** 3 * c).sum(), (x,), (v,))[1]

    h = 1e-4
    expected = ((first(x + h * v) - first(x - h * v)) / (2 * h)).item()
    error = abs(jvp(first, (x,), (v,))[1].item() - expected) / abs(expected)
    return Outcome("right" if error < 1e-3 else f"wrong by {100 * error:.0f} %", error < 1e-3)


def bfloat16_running_mean(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(1, dtype=torch.bfloat16)
    x = torch.full((4, 1), 100.0, dtype=torch.bfloat16) + torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]).bfloat16()
    for _ in range(300):
        layer(x)
    mean = layer.running_mean.item()
    return Outcome(f"{mean:.4g}", abs(mean - 100) < 0.01)


def one_value_a_group(nn: Any) -> Outcome:
    with contextlib.suppress(ValueError):
        y = nn.GroupNorm(4, 4)(_random(3, 4))
        return Outcome(f"zeros, up to {y.abs().max().item():.1g}", False)
    return Outcome("an error that says so", True)


def gradient_of_a_training_batch_norm(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    x = _random(8, 4)
    try:
        found = grad(lambda p: (functional_call(layer, (p, buffers), x) ** 3).sum())(parameters)
    except RuntimeError:
        return Outcome("raises", False)
    return Outcome("works", bool(found["weight"].isfinite().all()))


def jacobian_of_a_training_batch_norm(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4).double()
    x = _random(8, 4).double()
    try:
        found = jacrev(lambda x: layer(x)[0])(x)
    except RuntimeError:
        return Outcome("raises", False)
    # A shift of the whole batch moves nothing, and the batch's statistics were no input: they stay.
    moved = found.sum(1).abs().max().item()
    return Outcome("works", moved < 1e-12 and found.abs().max() > 0.1 and not layer.running_mean.any())


def training_batch_norm_under_vmap(nn: Any) -> Outcome:
    """Each batch by its own statistics; the running ones, of which there is one set, stay."""
    layer = nn.BatchNorm1d(4)
    x = torch.stack([_random(8, 4, offset=i) for i in range(3)])
    try:
        y = vmap(layer)(x)
    except RuntimeError:
        return Outcome("raises", False)
    untouched = not layer.running_mean.any()
    alone = torch.stack([layer(batch) for batch in x])
    return Outcome("works", untouched and torch.allclose(y, alone, atol=1e-6))


def micro_batches_as_one_batch(nn: Any) -> Outcome:
    """The error of the gradient that four micro-batches give, in parts of that of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(8, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = torch.nn.Linear(4, 4).double(), nn.BatchNorm1d(4).double()
    model = torch.nn.Sequential(first, second)
    (exact,) = torch.autograd.grad(model(x), first.weight, dy)
    parts = x.split(2)
    ys = [model(part) for part in parts] if nn is torch.nn else nn.accumulate(model, parts)
    (found,) = torch.autograd.grad(torch.cat(ys), first.weight, dy)
    error = ((found - exact).norm() / exact.norm()).item()
    return Outcome("right" if error < 1e-10 else f"off by {100 * error:.0f} %", error < 1e-10)


def frozen_through_train(nn: Any) -> Outcome:
    """With torch, every way there is at once: no gradient, evaluation mode, no grad mode."""
    layer = nn.BatchNorm1d(4)
    surgery.freeze(layer, what="affine" if nn is torch.nn else "both")
    torch.nn.Sequential(layer.eval()).train()
    with torch.no_grad():
        layer(_random(8, 4, offset=1))
    moved = bool(layer.running_mean.any())
    return Outcome("statistics move" if moved else "frozen", not moved)


def frozen_by_not_tracking(nn: Any) -> Outcome:
    """Told not to track, with its statistics kept, as fine-tuning callbacks do; ours is told to freeze, too."""
    layer = nn.BatchNorm1d(4)
    layer(_random(8, 4, offset=3))
    x = _random(8, 4)
    expected = layer.eval()(x)
    layer.train().track_running_stats = False
    if nn is not torch.nn:
        surgery.freeze(layer)
    same = torch.equal(layer(x), expected)
    return Outcome("the running ones" if same else "those of the batch", same)


def batches_counted_by_a_checkpoint(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4)
    checkpoint(layer, _random(8, 4).requires_grad_(), use_reentrant=False).pow(3).sum().backward()
    counted = int(layer.num_batches_tracked)
    return Outcome(str(counted), counted == 1)


def forward_that_leaves_no_trace(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4, momentum=0.0 if nn is torch.nn else 0.1)
    with contextlib.nullcontext() if nn is torch.nn else normkit.no_stat_update(layer):
        layer(_random(8, 4, offset=1))
    counted = int(layer.num_batches_tracked)
    return Outcome("counts the batch" if counted else "no trace", not (counted or layer.running_mean.any()))


def _recalibrate(nn: Any, model: Any, loader: Any) -> None:
    if nn is torch.nn:
        torch.optim.swa_utils.update_bn(loader, model)
    else:
        surgery.recalibrate(model, loader)


def statistics_of_unequal_batches(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(1)
    _recalibrate(nn, layer, [torch.zeros(98, 1), torch.tensor([[10.0], [10.0]])])
    mean, var = layer.running_mean.item(), layer.running_var.item()
    return Outcome(f"{mean:.2f} and {var:.2f}", abs(mean - 0.2) < 1e-6 and abs(var - 196 / 99) < 1e-6)


def recalibration_of_a_frozen_layer(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4)
    model = torch.nn.Sequential(layer, nn.BatchNorm1d(4))
    layer.eval().requires_grad_(False)
    _recalibrate(nn, model, [_random(8, 4, offset=1)])
    changed = bool(layer.running_mean.any())
    return Outcome("overwritten" if changed else "left alone", not changed)


def recalibration_that_fails(nn: Any) -> Outcome:
    model = torch.nn.Sequential(nn.BatchNorm1d(4), torch.nn.Linear(4, 4)).eval()
    model(_random(8, 4))
    with contextlib.suppress(RuntimeError):
        _recalibrate(nn, model, [_random(8, 4, offset=1), _random(8, 5)])
    same = not model.training and model[0].momentum == 0.1 and not model[0].running_mean.any()
    return Outcome("as it was" if same else "changed", bool(same))


def one_nan(nn: Any) -> Outcome:
    layer = nn.BatchNorm1d(4) if nn is torch.nn else nn.BatchNorm1d(4, nonfinite="skip")
    x = _random(8, 4)
    x[0] = float("nan")
    layer(x)
    layer(_random(8, 4))
    finite = bool(layer.running_mean.isfinite().all())
    return Outcome("finite" if finite else "NaN for good", finite)


def a_choice_of_variance(nn: Any) -> Outcome:
    layer = (
        nn.BatchNorm1d(1, momentum=1.0) if nn is torch.nn else nn.BatchNorm1d(1, 1e-5, 1.0, running_variance="biased")
    )
    x = torch.tensor([[1.0], [3.0]])
    apart = (layer(x) - layer.eval()(x)).abs().max().item()
    return Outcome(f"{apart:.2g}", apart < 1e-6)


class _Doubling(torch.nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def synchronized_on_a_cpu(nn: Any) -> Outcome:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        nn.SyncBatchNorm(4)(_random(8, 4))
    except ValueError:
        return Outcome("raises", False)
    finally:
        torch.distributed.destroy_process_group()
    return Outcome("works", True)


def synchronized_subclass(nn: Any) -> Outcome:
    layer = _Doubling(4)
    if nn is torch.nn:
        kept = isinstance(torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer), _Doubling)
    else:
        kept = len(surgery.synchronize(layer).left) == 1 and isinstance(layer, _Doubling)
    return Outcome("kept, and said so" if kept else "lost", kept)


def hooks_of_a_synchronized_layer(nn: Any) -> Outcome:
    layer = nn.BatchNorm2d(4)
    layer.register_forward_hook(lambda *_: None)
    if nn is torch.nn:
        layer = torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    else:
        surgery.synchronize(layer)
    kept = len(layer._forward_hooks) == 1
    return Outcome("kept" if kept else "lost", kept)


def _padded_sequences(junk: float) -> tuple[Tensor, Tensor]:
    """Ten sequences of up to 20 steps, four fifths of it padding; the values of the rest have mean 3."""
    mask = torch.arange(20) < torch.tensor([2, 6] * 5)[:, None]
    values = torch.tensor([2.0, 4.0]).repeat(10).expand(10, 20)
    return torch.where(mask, values, junk)[:, None], mask


def statistics_of_padded_sequences(nn: Any) -> Outcome:
    x, mask = _padded_sequences(0.0)
    layer = nn.BatchNorm1d(1, momentum=1.0)
    layer(x, **({} if nn is torch.nn else {"mask": mask}))
    mean = layer.running_mean.item()
    return Outcome(f"{mean:.2f}", abs(mean - 3) < 1e-6)


def junk_in_the_padding(nn: Any) -> Outcome:
    x, mask = _padded_sequences(float("nan"))
    y = nn.InstanceNorm1d(1)(x, **({} if nn is torch.nn else {"mask": mask}))
    finite = bool(y.isfinite().all())
    return Outcome("finite" if finite else "NaN", finite)


def packed_sequence(nn: Any) -> Outcome:
    x = torch.nn.utils.rnn.pack_sequence([_random(3, 4), _random(2, 4)])
    try:
        y = nn.BatchNorm1d(4)(x)
    except (AttributeError, TypeError):
        return Outcome("raises", False)
    return Outcome("works", y.data.shape == x.data.shape)


def compiled_cumulative_average(nn: Any) -> Outcome:
    torch.compiler.reset()
    layer = nn.BatchNorm1d(4, momentum=None)
    try:
        torch.compile(layer, fullgraph=True, backend="eager")(_random(8, 4))
    except Exception:
        return Outcome("raises", False)
    return Outcome("works", True)


def instance_norm_layout(nn: Any) -> Outcome:
    x = _random(2, 4, 5, 5).to(memory_format=torch.channels_last)
    kept = nn.InstanceNorm2d(4)(x).is_contiguous(memory_format=torch.channels_last)
    return Outcome("kept" if kept else "lost", kept)


def channels_of_an_image(nn: Any) -> Outcome:
    x = _random(2, 4, 5, 6)
    y = nn.LayerNorm(4)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if nn is torch.nn else nn.LayerNorm2d(4)(x)
    return Outcome("kept" if y.is_contiguous() else "lost", y.is_contiguous())


ROWS = (
    Row("LayerNorm, mean 10⁴ σ: largest error", lambda nn: layer_norm_offset(nn, 1e4), "at most 4 ulp"),
    Row("LayerNorm, mean 10⁶ σ: largest error", lambda nn: layer_norm_offset(nn, 1e6), "at most 4 ulp"),
    Row("BatchNorm2d, channels_last, mean 10⁴ σ: largest error", batch_norm_channels_last, "at most 4 ulp"),
    Row("LayerNorm in bfloat16: bias gradient over 65,536 rows", bfloat16_weight_gradient, "one rounding, 0.4 %"),
    Row("LayerNorm of values around 10³⁰", huge_values, "normalized"),
    Row("BatchNorm of a constant 3.33·10⁶", constant_channel, "0"),
    Row("LayerNorm: third derivative", third_derivative, "finite differences"),
    Row("BatchNorm in training: forward over forward derivative", forward_over_forward, "finite differences"),
    Row("BatchNorm in bfloat16: running mean of 100", bfloat16_running_mean, "100"),
    Row("GroupNorm with one value a group", one_value_a_group, "an error"),
    Row("`torch.func.grad` through a training BatchNorm", gradient_of_a_training_batch_norm, "a gradient"),
    Row("`torch.func.jacrev` through a training BatchNorm", jacobian_of_a_training_batch_norm, "a Jacobian"),
    Row("`torch.func.vmap` of a training BatchNorm", training_batch_norm_under_vmap, "works"),
    Row("BatchNorm over micro-batches: gradient of one big batch", micro_batches_as_one_batch, "right"),
    Row("BatchNorm frozen, then `model.train()`", frozen_through_train, "frozen"),
    Row(
        "BatchNorm told not to track, ours frozen: statistics used in training",
        frozen_by_not_tracking,
        "the running ones",
    ),
    Row("BatchNorm in an activation checkpoint: batches counted in a step", batches_counted_by_a_checkpoint, "1"),
    Row("BatchNorm: a training forward without a trace", forward_that_leaves_no_trace, "no trace"),
    Row("Recalibration: mean and variance of 98 zeros, then 2 tens", statistics_of_unequal_batches, "0.20 and 1.98"),
    Row("Recalibration: a frozen layer", recalibration_of_a_frozen_layer, "left alone"),
    Row("Recalibration that fails: the model after it", recalibration_that_fails, "as it was"),
    Row('BatchNorm: running mean after one sample of NaN (`nonfinite="skip"`)', one_nan, "finite"),
    Row(
        'BatchNorm of a batch of 2, momentum 1: training against evaluation (`running_variance="biased"`)',
        a_choice_of_variance,
        "0",
    ),
    Row("SyncBatchNorm on gloo and the CPU", synchronized_on_a_cpu, "works"),
    Row("SyncBatchNorm by conversion: a subclass with its own forward", synchronized_subclass, "kept"),
    Row("SyncBatchNorm by conversion: hooks", hooks_of_a_synchronized_layer, "kept"),
    Row("BatchNorm of values around 3, 80 % padding: running mean (`mask=`)", statistics_of_padded_sequences, "3.00"),
    Row("InstanceNorm with NaN in the padding: output", junk_in_the_padding, "finite"),
    Row("BatchNorm of a PackedSequence", packed_sequence, "works"),
    Row("`torch.compile(fullgraph=True)`, `momentum=None`", compiled_cumulative_average, "compiles"),
    Row("InstanceNorm: channels_last layout", instance_norm_layout, "kept"),
    Row("LayerNorm over the channels of an NCHW map: layout", channels_of_an_image, "kept"),
)


def table() -> str:
    lines = ["| | torch | normkit |", "|---|---|---|"]
    lines += [f"| {r.what} | {r.measure(torch.nn).words} | {r.measure(normkit.nn).words} |" for r in ROWS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
