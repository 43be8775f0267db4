"""A side with its tensors, ready to be called: what the gate checks and the clock times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normkit.bench.problem import Problem, as_tuple, last_part
from normkit.bench.sides import fill, normkit_side, torch_side

Side = Literal["torch", "compile", "normkit"]
SIDES: tuple[Side, ...] = ("torch", "compile", "normkit")


@dataclass
class Contender:
    """One side of one workload."""

    name: Side
    module: nn.Module  # holds the parameters and statistics
    call: Callable[..., Any]  # the module, or what it was compiled to
    inputs: tuple[Tensor, ...]
    dys: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.leaves = (*self.inputs, *self.module.parameters())

    def forward(self) -> Tensor | tuple[Tensor, ...]:
        """The outputs. To be called under ``torch.no_grad`` where no backward follows."""
        outputs: Tensor | tuple[Tensor, ...] = self.call(*self.inputs)
        return outputs

    def training(self) -> tuple[Tensor, ...]:
        """A forward and a backward: the gradients of the inputs, then of the parameters."""
        return torch.autograd.grad(as_tuple(self.call(*self.inputs)), self.leaves, self.dys)

    def lay_out_dys(self) -> None:
        """Give each dy the memory format of this side's output, as the layer above would."""
        with torch.no_grad():
            outputs = as_tuple(self.forward())
        self.dys = tuple(torch.empty_like(y).copy_(dy) for y, dy in zip(outputs, self.dys, strict=True))

    def parameter_names(self) -> list[str]:
        return [last_part(name) for name, _ in self.module.named_parameters()]

    def statistics(self) -> dict[str, Tensor]:
        buffers = self.module.named_buffers()
        return {last_part(name): value for name, value in buffers if value.is_floating_point()}


def contender(side: Side, problem: Problem, backend: str = "inductor") -> Contender:
    """A fresh module of that side with the problem's values."""
    module = normkit_side(problem.workload) if side == "normkit" else torch_side(problem.workload)
    fill(module, problem.values)
    call: Callable[..., Any] = module
    if side == "compile":
        call = torch.compile(module, fullgraph=True, dynamic=False, backend=backend)  # the sizes never change
    return Contender(side, module, call, problem.inputs, problem.dys)
