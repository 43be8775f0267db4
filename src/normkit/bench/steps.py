"""Whole training steps: before ``normkit.upgrade``, after it, and without the norms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normkit.bench.models import ARCHITECTURES, CLASSES, IMAGE, SEQUENCES, TOKENS, VOCABULARY, Architecture
from normkit.bench.problem import SEED
from normkit.bench.results import ModelResult
from normkit.bench.timing import Plan, take_turns
from normkit.surgery import UpgradeReport, upgrade

# A parameter's step after the upgrade may be this many times as far from the float64 step as it was before, and this
# share of the step's length. The first allows for networks that amplify rounding. The second for a ReLU whose input is
# within rounding of 0: of the 65,536 of the smallest maps one on the other side moves a step by 1/256 of its length,
# and in one of the ResNets, before the upgrade as after it, there are none to two of them, by chance.
TIMES_AS_FAR = 4.0
SHARE_OF_STEP = 1e-2
LEARNING_RATE = 1e-3  # small enough for the loss to stay finite over the thousand steps of a measurement


@dataclass
class Step:
    """Forward, loss, backward and an update."""

    model: nn.Module
    x: Tensor
    target: Tensor
    learning_rate: float = LEARNING_RATE

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), self.learning_rate)

    def __call__(self) -> Tensor:
        """The loss before the update."""
        loss = F.cross_entropy(self.model(self.x), self.target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def measure_models(
    plan: Plan, on_start: Callable[[str], None], architectures: Sequence[Architecture] = ARCHITECTURES
) -> tuple[ModelResult, ...]:
    """Every architecture, its models by turns on the same weights and data."""
    results = []
    for architecture in architectures:
        on_start(architecture.name)
        results.append(measure_model(architecture, plan))
    return tuple(results)


def measure_model(
    architecture: Architecture, plan: Plan, swap: Callable[[nn.Module], UpgradeReport] = upgrade
) -> ModelResult:
    """One architecture: the gate, then the clock."""
    torch.manual_seed(SEED)
    before = architecture.build()
    after = copy.deepcopy(before)
    report = swap(after)
    x, target = _data(architecture)
    steps = {"before": Step(before, x, target), "after": Step(after, x, target)}
    exact = Step(copy.deepcopy(before).double(), x.double() if x.is_floating_point() else x, target)
    problem = _difference(exact, **steps)
    if problem:
        return ModelResult(architecture.name, "red", len(report.swapped), len(report.left), problem)
    bare = without(copy.deepcopy(before), [swapped.name for swapped in report.swapped], x)
    times = take_turns(steps | {"without": Step(bare, x, target, learning_rate=0.0)}, plan)
    return ModelResult(architecture.name, "timed", len(report.swapped), len(report.left), times=times)


class Passing(nn.Module):
    """What is left of a norm that takes no time: its input, copied only where the norm changed the layout in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.axes: tuple[int, ...] = ()

    def watch(self, norm: nn.Module, args: object, y: Tensor) -> None:
        """A forward hook of the norm: the axes as its output has them in memory."""
        strides = y.stride()
        self.axes = tuple(sorted(range(y.dim()), key=lambda axis: -strides[axis]))

    def forward(self, x: Tensor) -> Tensor:
        back = sorted(range(x.dim()), key=self.axes.__getitem__)
        return x.permute(self.axes).contiguous().permute(back)


def without(model: nn.Module, norms: Sequence[str], x: Tensor) -> nn.Module:
    """The model with nothing where these were: how fast a step is when its norms take no time.

    What it computes means nothing, so it must not learn: its numbers could leave the range in which all cost the same.
    """
    passing = {name: Passing() for name in norms}
    for name, one in passing.items():
        model.get_submodule(name).register_forward_hook(one.watch)
    model(x)
    for name, one in passing.items():
        model.set_submodule(name, one)
    return model


def _data(architecture: Architecture) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    if architecture.data == "images":
        return torch.randn(IMAGE, generator=generator), torch.randint(CLASSES, IMAGE[:1], generator=generator)
    n, length = TOKENS if architecture.data == "tokens" else SEQUENCES
    tokens = torch.randint(VOCABULARY, (n, length + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()


def _difference(exact: Step, before: Step, after: Step) -> str:
    """Take one step with each: where the upgraded model goes wrong, or nothing."""
    starts = [p.detach().clone() for p in exact.model.parameters()]
    right, loss_before, loss_after = exact(), before(), after()
    if not _is_as_close(right, loss_before, loss_after, right):
        return f"the loss is {loss_after:.6g}, and was {loss_before:.6g} before the upgrade"
    befores, afters = dict(before.model.named_parameters()), dict(after.model.named_parameters())
    for start, (name, value) in zip(starts, exact.model.named_parameters(), strict=True):
        if not _is_as_close(value.detach(), befores[name].detach(), afters[name].detach(), value.detach() - start):
            return f"the step of {name} is not what it was before the upgrade"
    return ""


def _is_as_close(right: Tensor, before: Tensor, after: Tensor, scale: Tensor) -> bool:
    """Whether ``after`` is right, as near as ``before`` lets one expect; False where it is not a number."""
    allowed = TIMES_AS_FAR * (before - right).norm() + SHARE_OF_STEP * scale.norm()
    return bool((after - right).norm() <= allowed)
