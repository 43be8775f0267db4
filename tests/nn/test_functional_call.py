"""torch.func over layers with running statistics in training: given statistics come back new, others stay."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

from conformance.layers import CASES, LayerCase
from normkit import nn

TRACKING = [case for case in CASES if case.training and issubclass(case.layer, torch.nn.modules.batchnorm._NormBase)]
every_tracking_layer = pytest.mark.parametrize("case", TRACKING, ids=str)

# torch.func.jvp scripts a decomposition on its first call.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

State = dict[str, Tensor]


def build(case: LayerCase, device: torch.device, momentum: float | None = 0.3) -> torch.nn.Module:
    return case.build(dtype=torch.float64, device=device, track_running_stats=True, momentum=momentum)


def state_of(layer: torch.nn.Module) -> tuple[State, State]:
    parameters = {name: p.detach().clone() for name, p in layer.named_parameters()}
    return parameters, {name: b.clone() for name, b in layer.named_buffers()}


def step(layer: torch.nn.Module, parameters: State, statistics: State, x: Tensor) -> tuple[Tensor, State]:
    """The output and the new statistics, both as values."""
    state = {**parameters, **statistics}
    y = functional_call(layer, state, (x,))
    return y, {name: state[name] for name in statistics}


def loss(layer: torch.nn.Module, parameters: State, statistics: State, x: Tensor) -> tuple[Tensor, State]:
    y, new = step(layer, parameters, statistics, x)
    return (y**3).sum() / 7, new


def assert_same(got: State, expected: State) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("momentum", [0.3, None])
@every_tracking_layer
def test_grad_returns_new_statistics(case: LayerCase, momentum: float | None, device: torch.device) -> None:
    """Two steps of grad with has_aux are two ordinary training steps, and the layer itself is untouched."""
    layer, ordinary = build(case, device, momentum), build(case, device, momentum)
    ordinary.load_state_dict(layer.state_dict())
    parameters, statistics = state_of(layer)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for _ in range(2):
        (x,) = case.inputs(dtype=torch.float64, device=device, offset=1.0)
        gradients, statistics = grad(lambda p, s, x: loss(layer, p, s, x), has_aux=True)(parameters, statistics, x)
        ordinary.zero_grad()
        ((ordinary(x) ** 3).sum() / 7).backward()
        assert_same(gradients, {name: p.grad for name, p in ordinary.named_parameters()})
        assert_same(statistics, dict(ordinary.named_buffers()))
    assert_same(layer.state_dict(), before)


@every_tracking_layer
def test_captured_statistics_stay(case: LayerCase, device: torch.device) -> None:
    layer = build(case, device)
    _, statistics = state_of(layer)
    (x,) = case.inputs(dtype=torch.float64, device=device)
    untracked = build(case, device)
    untracked.load_state_dict(layer.state_dict())
    expected = untracked(x)
    dx = grad(lambda x: (layer(x) ** 3).sum())(x)
    y, _ = jvp(layer, (x,), (x,))
    outer = vmap(lambda x: layer(x))(torch.stack([x, 2 * x]))
    assert dx.shape == x.shape
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(outer[0], expected)
    assert_same(dict(layer.named_buffers()), statistics)
    layer(x)
    assert not torch.equal(layer.running_mean, statistics["running_mean"])


@every_tracking_layer
def test_jacobians(case: LayerCase, device: torch.device) -> None:
    """jacrev and jacfwd over parameters and input agree with autograd, row by row."""
    layer = build(case, device)
    parameters, statistics = state_of(layer)
    (x,) = case.inputs(3, dtype=torch.float64, device=device)
    w = torch.randn_like(x)

    def sums(parameters: State, x: Tensor) -> Tensor:
        return (step(layer, parameters, statistics, x)[0] * w).flatten(1).sum(1)

    rows = []
    for i in range(x.shape[0]):
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        leaf = x.clone().requires_grad_()
        rows.append(torch.autograd.grad(sums(leaves, leaf)[i], [*leaves.values(), leaf]))
    expected = [torch.stack(column) for column in zip(*rows, strict=True)]
    for transform in (jacrev, jacfwd):
        of_parameters, of_input = transform(sums, argnums=(0, 1))(parameters, x)
        for got, wanted in zip([*of_parameters.values(), of_input], expected, strict=True):
            torch.testing.assert_close(got, wanted)


@every_tracking_layer
def test_ensemble(case: LayerCase, device: torch.device) -> None:
    """vmap over stacked models trains each as it would train alone, statistics included."""
    models = [build(case, device) for _ in range(3)]
    parameters, statistics = stack_module_state(models)
    x = torch.stack([case.inputs(dtype=torch.float64, device=device, offset=i)[0] for i in range(3)])
    y, new = vmap(lambda p, s, x: step(models[0], p, s, x))(parameters, statistics, x)
    gradients, again = vmap(grad(lambda p, s, x: loss(models[0], p, s, x), has_aux=True))(parameters, statistics, x)
    for i, model in enumerate(models):
        expected = model(x[i])
        torch.testing.assert_close(y[i], expected)
        ((expected**3).sum() / 7).backward()
        assert_same({name: g[i] for name, g in gradients.items()}, {n: p.grad for n, p in model.named_parameters()})
        for statistics_after in (new, again):
            assert_same({name: s[i] for name, s in statistics_after.items()}, dict(model.named_buffers()))


def test_a_model_with_batch_norm_inside(device: torch.device) -> None:
    """The way of a network: names with dots, several layers, one dictionary for all."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    ).to(device)
    parameters, statistics = state_of(model)
    x = torch.randn(3, 2, 6, 6, device=device)
    gradients, new = grad(lambda p, s: loss(model, p, s, x), has_aux=True)(parameters, statistics)
    assert_same(dict(model.named_buffers()), statistics)
    ((model(x) ** 3).sum() / 7).backward()
    assert_same(gradients, {name: p.grad for name, p in model.named_parameters()})
    assert_same(new, dict(model.named_buffers()))


@every_tracking_layer
def test_evaluation_inside_transforms(case: LayerCase, device: torch.device) -> None:
    layer = build(case, device).eval()
    _, statistics = state_of(layer)
    x = torch.stack([case.inputs(dtype=torch.float64, device=device)[0] for _ in range(2)])
    got = vmap(grad(lambda x: (layer(x) ** 3).sum()))(x)
    leaf = x[1].clone().requires_grad_()
    (expected,) = torch.autograd.grad((layer(leaf) ** 3).sum(), leaf)
    torch.testing.assert_close(got[1], expected)
    assert_same(dict(layer.named_buffers()), statistics)
