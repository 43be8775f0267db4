"""A replica of a stack is the same network, of normkit.nn's layers, trained alone."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from normkit import nn as layers
from normkit.claims.experiments._digits import flat_digits, image_digits
from normkit.claims.experiments._shapes import shapes
from normkit.claims.experiments._stacked_data import batches, stacked_data
from normkit.claims.experiments._stacked_layers import Draws, Dropout, Linear
from normkit.claims.experiments._stacked_models import Build, cnn, mlp
from normkit.claims.experiments._stacked_norms import ImageBatchRenorm, feature_norm, image_norm
from normkit.claims.experiments._stacked_training import (
    Recipe,
    evaluate,
    take_population_statistics,
    train,
)
from normkit.errors import ArgumentError

SEEDS = (0, 1, 0)
RATES = (0.1, 0.03, 0.01)
STEPS = 6


class L1BatchNorm(nn.Module):
    """Feature after feature."""

    def __init__(self, features):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.mean, self.square = [0.0] * features, [1.0] * features

    def forward(self, x):
        columns = []
        for i, column in enumerate(x.unbind(1)):
            mean, square = self.mean[i], self.square[i]
            if self.training:
                mean = column.sum() / len(column)
                square = math.pi / 2 * ((column - mean).abs().sum() / len(column)) ** 2
                self.mean[i] = 0.9 * self.mean[i] + 0.1 * mean.item()
                self.square[i] = 0.9 * self.square[i] + 0.1 * square.item()
            columns.append((column - mean) / (square + 1e-5) ** 0.5 * self.weight[i] + self.bias[i])
        return torch.stack(columns, 1)


FEATURE_NORMS = {
    "none": lambda c: nn.Identity(),
    "batch": layers.BatchNorm1d,
    "layer": layers.LayerNorm,
    "rms": layers.RMSNorm,
    "group": partial(layers.GroupNorm, 4),
    "layer_simple": lambda c: layers.LayerNorm(c, elementwise_affine=False),
    "batch_l1": L1BatchNorm,
}
IMAGE_NORMS = {
    "none": lambda c: nn.Identity(),
    "batch": layers.BatchNorm2d,
    "layer": lambda c: layers.GroupNorm(1, c),
    "layer_pixel": lambda c: layers.LayerNorm2d(c, eps=1e-5),
    "group": partial(layers.GroupNorm, 4),
    "instance": lambda c: layers.InstanceNorm2d(c, affine=True),
}


class FilterResponseNorm(nn.Module):
    """One channel of one image after the other, as the paper writes it; its threshold is ``Threshold``'s."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        images = []
        for image in x:
            square = [(channel**2).sum() / channel.numel() for channel in image]
            parts = zip(image, square, self.weight, self.bias, strict=True)
            images.append(torch.stack([w * channel / torch.sqrt(nu + 1e-6) + b for channel, nu, w, b in parts]))
        return torch.stack(images)


class Threshold(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.tau = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, y):
        return (y + self.tau + (y - self.tau).abs()) / 2  # half the gradient each where y = tau, as in black


class BatchRenorm(nn.Module):
    """Algorithm 1 of the paper with the limits in ``limits``, one pair a step."""

    def __init__(self, channels, limits):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mu, self.var, self.limits = torch.zeros(channels), torch.ones(channels), list(limits)

    def forward(self, x):
        sigma = torch.sqrt(self.var + 1e-5)
        mean, biased = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        batch_sigma = torch.sqrt(biased + 1e-5)
        mu, over = self.mu, (slice(None), None, None)
        if not self.training:
            return (x - mu[over]) / sigma[over] * self.weight[over] + self.bias[over]
        r_max, d_max = self.limits.pop(0)
        r = torch.clamp(batch_sigma / sigma, 1 / r_max, r_max).detach()
        d = torch.clamp((mean - mu) / sigma, -d_max, d_max).detach()
        self.mu = 0.9 * mu + 0.1 * mean.detach()
        self.var = 0.9 * self.var + 0.1 * x.var((0, 2, 3)).detach()
        x_hat = (x - mean[over]) / batch_sigma[over] * r[over] + d[over]
        return x_hat * self.weight[over] + self.bias[over]


@pytest.fixture(autouse=True)
def _float64():
    """Training lets rounding grow by a factor that no test can know: that of float64 stays small all the same."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def data_of(data, seeds):
    stacked = stacked_data(data, seeds)
    for split in (stacked.train, stacked.validation, stacked.test):
        object.__setattr__(split, "inputs", tuple(x.double() for x in split.inputs))
    return stacked


def mlp_alone(norm):
    return nn.Sequential(
        nn.Linear(64, 16), norm(16), nn.ReLU(), nn.Linear(16, 12), norm(12), nn.ReLU(), nn.Linear(12, 10)
    )


def cnn_alone(norm, activation=lambda c: nn.ReLU()):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norm(16), activation(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), norm(32), activation(32),
        nn.Conv2d(32, 32, 3, padding=1), norm(32), activation(32),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


class NextBlockAlone(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            norm(32),
            nn.Conv2d(32, 128, 1),
            nn.GELU(),
            nn.Conv2d(128, 32, 1),
        )

    def forward(self, x):
        return x + self.inner(x)


def next_alone(norm):
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=4), norm(32), NextBlockAlone(norm), NextBlockAlone(norm),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def start_alike(alone, stack, replica):
    """Gives the lone network the replica's parameters; both list theirs in the same order."""
    with torch.no_grad():
        for mine, theirs in zip(alone.parameters(), stack.parameters(), strict=True):
            value = theirs[replica]
            mine.copy_(value.T if value.ndim == 2 else value.view_as(mine))  # a stacked linear weight is [in, out]


def train_alone(model, split, seed, rate, recipe):
    parameters = list(model.parameters())
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters)
    else:
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    losses = []
    for step, rows in zip(range(recipe.steps), batches([seed], len(split.targets), recipe.batch_size), strict=False):
        loss = nn.functional.cross_entropy(model(split.inputs[0][rows[0]].double()), split.targets[rows[0]])
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        warm = min(1.0, (step + 1) / (recipe.warmup + 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        optimizer.step()
        losses.append(loss.item())
    return losses


def check(build: Build, alone, data, recipe, rates=RATES):
    stack = build(SEEDS).double()
    lone = []
    for replica in range(len(SEEDS)):
        model = alone()
        start_alike(model, stack, replica)
        lone.append(model)
    stacked = data_of(data, SEEDS)
    history = train(stack, stacked, recipe, rates)
    assert not history.diverged.any()
    found = evaluate(stack, stacked.test)
    for replica, (model, seed, rate) in enumerate(zip(lone, SEEDS, rates, strict=True)):
        parts = data(seed)
        losses = train_alone(model, parts.train, seed, rate, recipe)
        torch.testing.assert_close(history.losses[:, replica].tolist(), losses, rtol=1e-9, atol=1e-12)
        model.eval()
        nll = nn.functional.cross_entropy(model(parts.test.inputs[0].double()), parts.test.targets)
        torch.testing.assert_close(found["nll"][replica], nll, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("norm", FEATURE_NORMS)
def test_mlp_replica_is_the_network_alone(norm):
    alone = partial(mlp_alone, FEATURE_NORMS[norm])
    check(mlp((16, 12), norm), alone, flat_digits, Recipe(batch_size=8, steps=STEPS))


def test_of_normal_values_the_l1_scale_is_the_standard_deviation():
    x = 3.0 * torch.randn(1, 200_000, 1) + 1.0
    norm = feature_norm("batch_l1", 1, 1)
    norm(x)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 9.0, rel=0.01)


@pytest.mark.parametrize("norm", IMAGE_NORMS)
def test_cnn_replica_is_the_network_alone(norm):
    alone = partial(cnn_alone, IMAGE_NORMS[norm])
    check(cnn("plain", norm), alone, image_digits, Recipe(batch_size=8, steps=STEPS))


def test_filter_response_norm_and_its_threshold_are_the_papers():
    alone = partial(cnn_alone, FilterResponseNorm, Threshold)
    check(cnn("plain", "filter_response"), alone, image_digits, Recipe(batch_size=4, steps=STEPS))


def test_a_residual_block_ends_in_the_norms_own_activation():
    block = cnn("residual", "filter_response")(SEEDS)[4].double()
    with torch.no_grad():
        block.activation.threshold.fill_(0.7)
    assert block(torch.randn(2, 3 * 8, 4, 4)).min().item() == 0.7


def test_batch_renorm_is_algorithm_1(monkeypatch):
    """The limits open within these steps, so that each stage is trained through."""
    monkeypatch.setattr(ImageBatchRenorm, "OPENING", 4)
    limits = [(1 + 2 * min(t / 4, 1), 5 * min(t / 4, 1)) for t in range(STEPS)]
    alone = partial(cnn_alone, partial(BatchRenorm, limits=limits))
    check(cnn("plain", "batch_renorm"), alone, image_digits, Recipe(batch_size=2, steps=STEPS))


def test_batch_renorm_starts_as_batchnorm_and_ends_as_the_running_statistics_say():
    norm, batch = image_norm("batch_renorm", 2, 3), image_norm("batch", 2, 3)
    x = 0.3 + 1.1 * torch.randn(4, 6, 4, 4)
    torch.testing.assert_close(norm(x), batch(x))
    norm.steps = norm.OPENING
    expected = norm.eval()(x)
    torch.testing.assert_close(norm.train()(x), expected)


@pytest.mark.parametrize("norm", ["batch", "layer_pixel"])
def test_a_network_for_larger_images_is_the_network_alone(norm):
    alone = partial(next_alone, IMAGE_NORMS[norm])
    check(cnn("next", norm, side=16), alone, shapes, Recipe(batch_size=8, steps=STEPS), rates=(0.01, 0.003, 0.001))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_optimizer_warm_up_and_clipping_are_those_of_torch(optimizer, clip_norm):
    recipe = Recipe(batch_size=8, steps=STEPS, optimizer=optimizer, warmup=3, clip_norm=clip_norm)
    check(mlp((16, 12), "layer"), partial(mlp_alone, layers.LayerNorm), flat_digits, recipe)


def test_a_penalty_is_added_to_the_loss_of_its_replica():
    build, recipe = mlp((16,), "none"), Recipe(batch_size=8, steps=1)

    def penalty(model):
        return 0.5 * torch.stack([p.flatten(1).square().sum(1) for p in model.parameters()]).sum(0)

    start, plain, held = (build((0, 1)).double() for _ in range(3))
    one, other = (
        train(model, data_of(flat_digits, (0, 1)), recipe, (0.1, 0.03), penalty=added)
        for model, added in ((plain, None), (held, penalty))
    )
    torch.testing.assert_close(one.losses, other.losses)
    for at_first, without, with_penalty in zip(*(m.parameters() for m in (start, plain, held)), strict=True):
        rates = torch.tensor([0.1, 0.03]).view(2, *(1,) * (at_first.ndim - 1))
        torch.testing.assert_close(with_penalty, without - rates * at_first)


def test_ghost_groups_are_batches_of_their_own():
    norm = feature_norm("batch", 2, 5, ghost=4)
    x = torch.randn(2, 12, 5)
    found = norm(x)
    for replica in range(2):
        parts, means, variances = [], [], []
        for group in x[replica].split(4):
            alone = layers.BatchNorm1d(5, momentum=1.0)
            parts.append(alone(group))
            means.append(alone.running_mean)
            variances.append(alone.running_var)
        torch.testing.assert_close(found[replica], torch.cat(parts))
        mean, var = torch.stack(means).mean(0), torch.stack(variances).mean(0)
        torch.testing.assert_close(norm.running_mean[replica], 0.1 * mean)
        torch.testing.assert_close(norm.running_var[replica], 0.9 + 0.1 * var)


def test_ghost_groups_of_images_are_batches_of_their_own():
    norm = image_norm("batch", 2, 3, ghost=2)
    x = torch.randn(6, 2 * 3, 4, 4)
    alone = [layers.BatchNorm2d(3) for _ in range(2)]
    for replica, layer in enumerate(alone):
        expected = torch.cat([layer(group[:, 3 * replica : 3 * replica + 3]) for group in x.split(2)])
        torch.testing.assert_close(norm(x)[:, 3 * replica : 3 * replica + 3], expected)


def test_a_ghost_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ArgumentError, match="expected a divisor of the batch size, got 5 and 12"):
        feature_norm("batch", 2, 5, ghost=5)(torch.randn(2, 12, 5))


def test_detached_layer_norm_has_the_values_of_layer_norm_and_a_constant_scale_for_gradient():
    x = torch.randn(1, 4, 8, requires_grad=True)
    y = feature_norm("layer_detached", 1, 8)(x)
    torch.testing.assert_close(y, feature_norm("layer", 1, 8)(x))
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(dx, dy / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5))


def test_replicas_of_a_seed_start_alike_whatever_stands_beside_them():
    few, many = Draws((3, 3)), Draws((0, 3, 1))
    weight = Linear(few, 4, 2).weight
    torch.testing.assert_close(weight[0], weight[1], rtol=0, atol=0)
    torch.testing.assert_close(Linear(many, 4, 2).weight[1], weight[0], rtol=0, atol=0)


def test_dropout_masks_depend_on_the_seed_alone():
    few, many = Dropout((3,), 0.5), Dropout((0, 3, 3), 0.5)
    ones = torch.ones(3, 4, 6)
    expected, found = few(ones[:1])[0], many(ones)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=0)
    torch.testing.assert_close(found[2], expected, rtol=0, atol=0)
    assert set(expected.flatten().tolist()) == {0.0, 2.0}


def test_a_replica_that_diverges_leaves_the_others_as_they_are():
    recipe = Recipe(batch_size=8, steps=STEPS)
    build = mlp((16, 12), "none")
    alone, beside = build((0,)).double(), build((0, 0)).double()
    calm = train(alone, data_of(flat_digits, (0,)), recipe, (0.01,))
    history = train(beside, data_of(flat_digits, (0, 0)), recipe, (0.01, 1e8))
    assert history.diverged.tolist() == [False, True]
    torch.testing.assert_close(history.losses[:, 0], calm.losses[:, 0])


def test_population_statistics_are_those_of_the_training_set():
    build = mlp((16, 12), "batch", ghost=4)
    stack = build((0, 1)).double()
    data = data_of(flat_digits, (0, 1))
    take_population_statistics(stack, data.train)
    z = stack[0](data.train.all()[0][0])
    torch.testing.assert_close(stack[1].running_mean, z.mean(1))
    torch.testing.assert_close(stack[1].running_var, z.var(1))
    assert (stack[1].momentum, stack[1].ghost) == (0.1, 4)
