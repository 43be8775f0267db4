"""The correctness gate: nothing is timed whose results are not right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from normkit.bench.cases import Mode
from normkit.bench.contenders import Contender
from normkit.bench.problem import TOLERANCES, Expected, Problem, as_tuple
from normkit.bench.sides import dtype_of, fill

# A parameter's gradient is a sum of n products of unit variance. Accumulated with unit roundoff u, a random walk of n
# steps is rounded by about u·n/√2 in all: at most 1.3 u·n over 4096 columns (torch 2.13, LayerNorm in bfloat16).
SUM_TOLERANCE = 4.0
# Where the products come from values that were rounded on the way (a sum, an activation's gradient), n independent
# roundings add up to about u·√n, and to some five times that in the worst of thousands of columns.
TERM_TOLERANCE = 8.0
FLOAT32_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Verdict:
    """The largest error found, as a share of what is allowed, and where it is."""

    share: float
    where: str

    @property
    def is_right(self) -> bool:
        return self.share <= 1  # False for NaN


def check(contender: Contender, problem: Problem, expected: Expected, mode: Mode) -> Verdict:
    """Run the contender from fresh statistics, and compare everything that it gives."""
    errors = _forward_errors if mode == "fwd" else _training_errors
    worst = Verdict(0.0, "")
    for where, share in errors(contender, problem, expected):
        if not share <= worst.share:
            worst = Verdict(share, where)
        if not worst.is_right:
            break
    return worst


def _forward_errors(contender: Contender, problem: Problem, expected: Expected) -> Iterator[tuple[str, float]]:
    with torch.no_grad():
        yield from _output_errors(contender, problem, expected)


def _training_errors(contender: Contender, problem: Problem, expected: Expected) -> Iterator[tuple[str, float]]:
    # Outputs again: a path that records for a backward need not be the one taken without.
    yield from _output_errors(contender, problem, expected)
    dtype = dtype_of(problem.workload)
    grads = contender.training()
    n_inputs = len(contender.inputs)
    for i, (dx, right) in enumerate(zip(grads[:n_inputs], expected.input_grads, strict=True)):
        yield f"gradient of input {i}", error_share(dx, right, TOLERANCES[dtype])
    # torch accumulates these in the dtype they are stored in; normkit promises float32 and one rounding at the end.
    stored = torch.finfo(dtype).eps / 2
    summed = FLOAT32_ROUNDOFF if contender.name == "normkit" else stored
    n = problem.n_terms
    constant = SUM_TOLERANCE * summed * n + TERM_TOLERANCE * stored * math.sqrt(n)
    for name, dw in zip(contender.parameter_names(), grads[n_inputs:], strict=True):
        yield f"gradient of {name}", error_share(dw, expected.parameter_grads[name], TOLERANCES[dtype], constant)


def _output_errors(contender: Contender, problem: Problem, expected: Expected) -> Iterator[tuple[str, float]]:
    allowed = TOLERANCES[dtype_of(problem.workload)]
    fill(contender.module, problem.values)
    outputs = as_tuple(contender.forward())
    for i, (y, right) in enumerate(zip(outputs, expected.outputs, strict=True)):
        yield f"output {i}", error_share(y.detach(), right, allowed)
    for name, value in contender.statistics().items():
        yield name, error_share(value, expected.statistics[name], allowed)


def error_share(actual: Tensor, right: Tensor, allowed: float, constant: float = 0.0) -> float:
    """max |actual - right| / (allowed · (1 + |right|) + constant); NaN where anything is not a number.

    Example:
        >>> error_share(torch.tensor([1.5]), torch.tensor([1.0]), allowed=0.5)
        0.5
    """
    if actual.shape != right.shape:
        return float("inf")
    error = (actual.double() - right).abs_()
    return float(error.div_(right.abs().mul_(allowed).add_(allowed + constant)).max())
