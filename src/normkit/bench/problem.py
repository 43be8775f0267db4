"""The tensors of a workload, and what they must give: a float64 computation of outputs and gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normkit.bench.cases import OPS, Workload
from normkit.bench.sides import dtype_of, fill, torch_side

SEED = 20261120

# Largest error of an output or an input's gradient, as a share of 1 + |value|, for inputs of unit variance. float32:
# torch's BatchNorm on channels_last sums a whole channel in one float32 chain, which costs it 1.1e-5; bfloat16: 8
# roundings to 8 bits, as many as torch's composite RMSNorm makes.
TOLERANCES = {torch.float32: 4e-5, torch.bfloat16: 8 * 2**-8}


@dataclass(frozen=True)
class Problem:
    """Inputs (leaves), the norm's parameters and statistics by name, and a gradient for each output."""

    workload: Workload
    inputs: tuple[Tensor, ...]
    values: dict[str, Tensor]
    dys: tuple[Tensor, ...]

    @property
    def n_terms(self) -> int:
        """How many products a parameter's gradient sums."""
        return self.inputs[0].numel() // self.values["weight"].numel()


@dataclass(frozen=True)
class Expected:
    """The right results, in float64: outputs, gradients of the inputs and of parameters, statistics afterwards."""

    outputs: tuple[Tensor, ...]
    input_grads: tuple[Tensor, ...]
    parameter_grads: dict[str, Tensor]
    statistics: dict[str, Tensor]


def pose(workload: Workload) -> Problem:
    """Random tensors of unit variance, the same at every call."""
    op, dtype = OPS[workload.op], dtype_of(workload)
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def like_input() -> Tensor:
        x = normal(*workload.shape)
        return x.to(memory_format=torch.channels_last) if workload.layout == "channels_last" else x

    channels = workload.shape[1]
    values = {
        "weight": normal(channels) * 0.2 + 1,
        "bias": normal(channels) * 0.2,
        "running_mean": normal(channels) * 0.2,
        "running_var": torch.rand(channels, generator=generator).to(dtype) + 0.5,
    }
    inputs = tuple(like_input().requires_grad_() for _ in range(2 if op.has_residual else 1))
    n_outputs = 2 if op.has_residual and not op.has_kink else 1  # add + norm gives the sum as well
    return Problem(workload, inputs, values, tuple(like_input() for _ in range(n_outputs)))


def solve(problem: Problem) -> tuple[Problem, Expected]:
    """The right results, and the problem with dy zero where a ReLU's kink is within rounding.

    On either side of a kink another gradient is right, so a contender that lands there by rounding has made no mistake.
    """
    module = torch_side(problem.workload).double()
    fill(module, problem.values)
    inputs = tuple(x.detach().double().requires_grad_() for x in problem.inputs)
    before_activation: list[Tensor] = []
    if OPS[problem.workload.op].has_kink:
        activation = next(m for m in module.modules() if isinstance(m, nn.ReLU))
        # torch calls the hook with the module and its arguments; the ReLU then overwrites them.
        activation.register_forward_pre_hook(lambda _, args: before_activation.append(args[0].detach().clone()))
    outputs = as_tuple(module(*inputs))
    dys = problem.dys
    if before_activation:
        margin = 4 * TOLERANCES[dtype_of(problem.workload)]
        dys = tuple(dy.masked_fill(before_activation[0].abs() < margin, 0) for dy in dys)
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(outputs, (*inputs, *parameters), [dy.double() for dy in dys])
    expected = Expected(
        tuple(y.detach() for y in outputs),
        grads[: len(inputs)],
        {last_part(name): grad for name, grad in zip(names, grads[len(inputs) :], strict=True)},
        {last_part(name): value.double() for name, value in module.named_buffers() if value.is_floating_point()},
    )
    return Problem(problem.workload, problem.inputs, problem.values, dys), expected


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def last_part(name: str) -> str:
    """weight for norm.weight."""
    return name.rpartition(".")[2]
