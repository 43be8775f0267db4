"""E01: which numbers share a mean and a variance, by definition, and what the sources' own words would compute.

Each definition is computed a second time number by number. What a source says literally, where that is another
computation, is executed too and compared with the layer that it claims to describe.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normkit import reference
from normkit.claims.experiments._exact import (
    Layers,
    difference,
    exact_experiment,
    integer,
    normal,
    standardized,
    with_random_affine,
)

EPS = 1e-5
OFFSET = 3.0  # of the data: a layer that forgets to centre would pass on centred data


def check(generator: torch.Generator, layers: Layers) -> dict[str, float]:
    n, c = integer(generator, 3, 9), 2 * integer(generator, 2, 5)
    h, w, t = integer(generator, 2, 5), integer(generator, 2, 5), integer(generator, 2, 6)
    features = _data(generator, n, c)
    images = _data(generator, n, c, h, w)
    tokens = _data(generator, n, t, c)
    return {
        **_batch_definition(generator, layers, features, images),
        **_layer_definition(generator, layers, features, tokens),
        **_literal_readings(layers, features, images, tokens),
        **_identities(generator, layers, images),
        **_against_torch(generator, layers, features, images),
        **_against_reference(generator, layers, features),
    }


def _data(generator: torch.Generator, *shape: int) -> Tensor:
    """Every feature has another mean and another spread; one is constant, which only a layer with eps survives."""
    x = normal(generator, *shape)
    channel = 1 if len(shape) != 3 else 2
    view = [1] * len(shape)
    view[channel] = shape[channel]
    x = x * (0.5 + normal(generator, *view).abs()) + OFFSET + normal(generator, *view)
    x.select(channel, 0).fill_(1.25)
    return x


def _affine(y: Tensor, layer: nn.Module, axes: tuple[int, ...]) -> Tensor:
    """gamma·y + beta, where gamma and beta run along ``axes``."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    shape = [y.shape[axis] if axis in axes else 1 for axis in range(y.dim())]
    return y * weight.detach().view(shape) + bias.detach().view(shape)


def _batch_definition(generator: torch.Generator, layers: Layers, x: Tensor, images: Tensor) -> dict[str, float]:
    layer = with_random_affine(layers.batch(x.shape[1], dtype=torch.float64), generator)
    by_hand = torch.stack([standardized(x[:, c], EPS) for c in range(x.shape[1])], 1)
    image_layer = with_random_affine(layers.batch_image(images.shape[1], dtype=torch.float64), generator)
    images_by_hand = torch.stack([standardized(images[:, c], EPS) for c in range(images.shape[1])], 1)
    plain = layers.batch(x.shape[1], dtype=torch.float64)(x).detach()[:, 1:]  # without the constant feature
    variance = x.var(0, correction=0)[1:]
    return {
        "batch_definition": difference(layer(x).detach(), _affine(by_hand, layer, (1,))),
        "batch_definition_image": difference(image_layer(images).detach(), _affine(images_by_hand, image_layer, (1,))),
        "batch_mean": difference(plain.mean(0), torch.zeros_like(variance)),
        "batch_variance": difference(plain.var(0, correction=0), variance / (variance + EPS)),
        "batch_by_deviation": difference(
            layers.batch(x.shape[1], eps=1e-12, dtype=torch.float64)(x).detach()[:, 1:],
            torch.stack([standardized(v, 0.0) for v in x[:, 1:].T], 1),
        ),
    }


def _layer_definition(generator: torch.Generator, layers: Layers, x: Tensor, tokens: Tensor) -> dict[str, float]:
    layer = with_random_affine(layers.layer(x.shape[1], dtype=torch.float64), generator)
    by_hand = torch.stack([standardized(row, EPS) for row in x])
    tokens_by_hand = torch.stack([torch.stack([standardized(token, EPS) for token in row]) for row in tokens])
    plain = layers.layer(x.shape[1], dtype=torch.float64)(x).detach()
    variance = x.var(1, correction=0)
    # All units of a case share mean and scale: y = a·x + b with one a and one b for the case.
    slope = (plain[:, 2] - plain[:, 1]) / (x[:, 2] - x[:, 1])
    line = slope[:, None] * (x - x[:, 1:2]) + plain[:, 1:2]
    neuron_means = plain.mean(0)
    return {
        "layer_definition": difference(layer(x).detach(), _affine(by_hand, layer, (1,))),
        "layer_definition_tokens": difference(layer(tokens).detach(), _affine(tokens_by_hand, layer, (2,))),
        "layer_mean": difference(plain.mean(1), torch.zeros_like(variance)),
        "layer_variance": difference(plain.var(1, correction=0), variance / (variance + EPS)),
        "layer_shared_terms": difference(plain, line),
        "layer_terms_across_cases": difference(slope, slope[:1].expand_as(slope)),
        "layer_neuron_means": difference(neuron_means, neuron_means.mean().expand_as(neuron_means)),
    }


def _literal_readings(layers: Layers, x: Tensor, images: Tensor, tokens: Tensor) -> dict[str, float]:
    c = images.shape[1]
    each_feature = torch.stack([torch.stack([standardized(v, EPS) for v in row]) for row in x])
    each_channel = torch.stack([torch.stack([standardized(v, EPS) for v in image]) for image in images])
    whole_batch = standardized(x, EPS)
    whole_example = torch.stack([standardized(row, EPS) for row in tokens])
    layer_image = layers.layer(list(images.shape[1:]), dtype=torch.float64)(images).detach()
    pixels = layers.layer(c, dtype=torch.float64)(images.movedim(1, -1)).movedim(-1, 1).detach()
    return {
        "each_feature_output": difference(each_feature, torch.zeros_like(x)),
        "each_feature_is_layer": difference(each_feature, layers.layer(x.shape[1], dtype=torch.float64)(x).detach()),
        "each_channel_is_instance": difference(each_channel, _instance(layers, images)),
        "each_channel_is_layer": difference(each_channel, layer_image),
        "each_channel_is_pixel_layer": difference(each_channel, pixels),
        "whole_batch_is_batch": difference(whole_batch, layers.batch(x.shape[1], dtype=torch.float64)(x).detach()),
        "whole_example_is_token_layer": difference(
            whole_example, layers.layer(tokens.shape[2], dtype=torch.float64)(tokens).detach()
        ),
    }


def _identities(generator: torch.Generator, layers: Layers, images: Tensor) -> dict[str, float]:
    c = images.shape[1]
    group = [layers.group(groups, c, dtype=torch.float64)(images).detach() for groups in (1, c)]
    one = images[:1]
    pair = normal(generator, 2, c)
    sign = layers.batch(c, eps=1e-30, dtype=torch.float64)(pair).detach()
    return {
        "one_group_is_layer": difference(group[0], layers.layer(list(images.shape[1:]), dtype=torch.float64)(images)),
        "group_each_is_instance": difference(group[1], _instance(layers, images)),
        "batch_of_one_image_is_instance": difference(
            layers.batch_image(c, dtype=torch.float64)(one), _instance(layers, one)
        ),
        "batch_of_two_is_sign": difference(sign, torch.sign(pair - pair.flip(0))),
    }


def _instance(layers: Layers, images: Tensor) -> Tensor:
    result: Tensor = layers.instance_image(images.shape[1], dtype=torch.float64)(images).detach()
    return result


def _against_torch(generator: torch.Generator, layers: Layers, x: Tensor, images: Tensor) -> dict[str, float]:
    """Outputs, all gradients and running statistics of torch's own layers, with random gradients of the output."""
    c = images.shape[1]
    cases = [
        (layers.batch(c, dtype=torch.float64), nn.BatchNorm1d(c, dtype=torch.float64), x),
        (layers.batch_image(c, dtype=torch.float64), nn.BatchNorm2d(c, dtype=torch.float64), images),
        (layers.layer(c, dtype=torch.float64), nn.LayerNorm(c, dtype=torch.float64), x),
        (layers.group(2, c, dtype=torch.float64), nn.GroupNorm(2, c, dtype=torch.float64), images),
        (
            layers.instance_image(c, affine=True, dtype=torch.float64),
            nn.InstanceNorm2d(c, affine=True, dtype=torch.float64),
            images,
        ),
        (layers.rms(c, dtype=torch.float64), nn.RMSNorm(c, dtype=torch.float64), x),
    ]
    outputs, gradients, statistics = [], [], []
    for ours, torchs, data in cases:
        with_random_affine(ours, generator)
        torchs.load_state_dict(ours.state_dict(), strict=False)
        dy = normal(generator, *data.shape)
        found = [_forward_backward(layer, data, dy) for layer in (ours, torchs)]
        outputs.append(difference(found[0][0], found[1][0]))
        gradients += [difference(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=False)]
        statistics += [
            difference(buffer.double(), torchs.get_buffer(name).double()) for name, buffer in ours.named_buffers()
        ]
    return {
        "torch_outputs": max(outputs),
        "torch_gradients": max(gradients),
        "torch_running_statistics": max(statistics, default=0.0),
    }


def _forward_backward(layer: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)]


def _against_reference(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """Output and gradients derived by hand, in NumPy."""
    c = x.shape[1]
    dy = normal(generator, *x.shape)
    errors = []
    batch = with_random_affine(layers.batch(c, dtype=torch.float64), generator)
    layer = with_random_affine(layers.layer(c, dtype=torch.float64), generator)
    for module in (batch, layer):
        weight, bias = (p.detach().numpy() for p in module.parameters())
        if module is batch:
            y, cache = reference.batch_norm(x.numpy(), weight, bias, EPS)
            gradients = reference.batch_norm_backward(dy.numpy(), cache)
        else:
            y, cache = reference.layer_norm(x.numpy(), c, weight, bias, EPS)
            gradients = reference.layer_norm_backward(dy.numpy(), cache)
        expected = [torch.from_numpy(a) for a in (y, *gradients)]
        errors += [difference(a, b) for a, b in zip(_forward_backward(module, x, dy), expected, strict=False)]
    return {"reference": max(errors)}


EXPERIMENT = exact_experiment(
    "E01",
    "Axes and definitions",
    "Which numbers share a mean and a variance, and do the sources' own words describe that computation?",
    check,
)
