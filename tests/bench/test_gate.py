"""The gate: its float64 results are the reference's, every side passes, and planted mistakes do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normkit import reference
from normkit.bench.cases import DTYPES, OPS, Layout, Mode, Workload, n_groups
from normkit.bench.contenders import Contender, Side, contender
from normkit.bench.gate import check, error_share
from normkit.bench.problem import TOLERANCES, pose, solve
from normkit.bench.sides import (
    LAYER_NORM2D_EPS,
    RMS_EPS,
    FusedResidual,
    NormAddAct,
    added_and_activated,
    is_trained,
    scattered_mask,
)


def workload(op: str, dtype: Any = "float32", layout: Layout = "contiguous") -> Workload:
    return Workload(op, (24, 40) if OPS[op].n_dims == 2 else (3, 64, 5, 6), layout, dtype)


def by_reference(op: str, inputs: list[np.ndarray], values: dict[str, np.ndarray]) -> np.ndarray:
    """The operation's first output, from normkit.reference."""
    x, w, b = inputs[0], values["weight"], values["bias"]
    if op in ("add_layer_norm", "add_rms_norm"):
        x = inputs[0] + inputs[1]
    if op in ("layer_norm", "add_layer_norm"):
        return reference.layer_norm(x, x.shape[-1], w, b)[0]
    if op in ("rms_norm", "add_rms_norm"):
        return reference.rms_norm(x, x.shape[-1], w, RMS_EPS)[0]
    if op == "batch_norm_eval_masked":
        y = reference.batch_norm_inference(x, values["running_mean"], values["running_var"], w, b)[0]
        return np.where(scattered_mask(x.shape).numpy()[:, None], y, 0)
    if op in ("group_norm_masked", "instance_norm_masked"):
        y = np.zeros_like(x)
        groups = n_groups(x.shape[1]) if op == "group_norm_masked" else x.shape[1]
        for sample, of_sample, kept in zip(x, y, scattered_mask(x.shape).numpy(), strict=True):
            of_sample[:, kept] = reference.group_norm(sample[None, :, kept], groups, w, b)[0][0]
        return y
    if op == "batch_norm_eval":
        return reference.batch_norm_inference(x, values["running_mean"], values["running_var"], w, b)[0]
    if op == "batch_norm_masked":
        mask, y = scattered_mask(x.shape).numpy(), np.zeros_like(x)
        np.moveaxis(y, 1, -1)[mask] = reference.batch_norm(np.moveaxis(x, 1, -1)[mask], w, b)[0]
        return y
    if op.startswith("batch_norm"):
        y = reference.batch_norm(x, w, b)[0]
        if op == "batch_norm_add_relu":
            y = y + inputs[1]
        return np.maximum(y, 0) if op.endswith("relu") else y
    if op.startswith("group_norm"):
        y = reference.group_norm(x, n_groups(x.shape[1]), w, b)[0]
        return y / (1 + np.exp(-y)) if op.endswith("silu") else y
    if op == "instance_norm":
        return reference.instance_norm(x, w, b)[0]
    return reference.layer_norm2d(x, w, b, LAYER_NORM2D_EPS)[0]


@pytest.mark.parametrize("op", OPS)
def test_what_the_gate_expects_is_what_the_reference_gives(op: str) -> None:
    problem, expected = solve(pose(workload(op)))
    inputs = [x.detach().double().numpy() for x in problem.inputs]
    right = by_reference(op, inputs, {name: value.double().numpy() for name, value in problem.values.items()})
    np.testing.assert_allclose(expected.outputs[0].numpy(), right, rtol=1e-10, atol=1e-10)
    if op.startswith("add"):
        np.testing.assert_array_equal(expected.outputs[1].numpy(), inputs[0] + inputs[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["torch", "normkit"])
@pytest.mark.parametrize("op", OPS)
def test_every_side_is_right(op: str, side: Side, dtype: str) -> None:
    for layout in ("contiguous", "channels_last") if OPS[op].n_dims == 4 else ("contiguous",):
        problem, expected = solve(pose(workload(op, dtype, layout)))  # type: ignore[arg-type]
        one = contender(side, problem)
        one.lay_out_dys()
        for mode in ("fwd", "fwd+bwd"):
            verdict = check(one, problem, expected, mode)  # type: ignore[arg-type]
            assert verdict.is_right, f"{mode}: {verdict}"
            assert verdict.share > 0


@pytest.mark.parametrize("op", ["add_layer_norm", "batch_norm_add_relu"])
def test_a_compiled_side_is_right(op: str) -> None:
    problem, expected = solve(pose(workload(op)))
    one = contender("compile", problem, backend="aot_eager")
    one.lay_out_dys()
    try:
        assert check(one, problem, expected, "fwd").is_right
        assert check(one, problem, expected, "fwd+bwd").is_right
    finally:
        torch.compiler.reset()


class Wrong(nn.Module):
    """A module whose output is spoilt."""

    def __init__(self, module: nn.Module, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.spoil = module, spoil

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.spoil(self.module(x))
        return y


class Detour(torch.autograd.Function):
    """The identity, with a backward that gives another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy * 1.2


def spoilt(problem: Any, spoil: Callable[[Tensor], Tensor]) -> Contender:
    one = contender("torch", problem)
    module = Wrong(one.module, spoil)
    return Contender("torch", module, module, one.inputs, one.dys)


MISTAKES: dict[str, tuple[Callable[[Tensor], Tensor], Mode, str]] = {
    "a scaled output": (lambda y: y * 1.2, "fwd", "output 0"),
    "one wrong value": (lambda y: y.index_fill(0, torch.tensor([1]), 0.5), "fwd", "output 0"),
    "not a number": (lambda y: y * torch.nan, "fwd", "output 0"),
    "another shape": (lambda y: y[:, :1], "fwd", "output 0"),
    "a wrong backward": (lambda y: Detour.apply(y), "fwd+bwd", "gradient"),
    "a gradient that stops": (lambda y: y.detach() + 0 * y, "fwd+bwd", "gradient"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["layer_norm", "batch_norm"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake: str, op: str, dtype: str) -> None:
    spoil, mode, where = MISTAKES[mistake]
    problem, expected = solve(pose(workload(op, dtype)))
    verdict = check(spoilt(problem, spoil), problem, expected, mode)
    assert not verdict.is_right
    assert verdict.where.startswith(where)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_parameter_gradient_of_zero_is_caught_over_many_rows(dtype: str) -> None:
    problem, expected = solve(pose(Workload("layer_norm", (4096, 16), "contiguous", dtype)))  # type: ignore[arg-type]
    for name in ("weight", "bias"):
        one = contender("torch", problem)
        parameter = getattr(one.module, name)
        with torch.no_grad():
            frozen = parameter.detach().clone()
        one.call = lambda x, name=name, frozen=frozen, module=one.module: torch.func.functional_call(
            module, {name: frozen + 0 * getattr(module, name)}, (x,)
        )
        verdict = check(one, problem, expected, "fwd+bwd")
        assert verdict.where == f"gradient of {name}"
        assert not verdict.is_right


def test_statistics_that_are_not_updated_are_caught() -> None:
    problem, expected = solve(pose(workload("batch_norm")))
    one = contender("torch", problem)
    assert is_trained(problem.workload)
    one.module.momentum = 0.0  # type: ignore[assignment]
    verdict = check(one, problem, expected, "fwd")
    assert verdict.where in ("running_mean", "running_var")
    assert not verdict.is_right


def test_dy_is_zero_near_the_kink_and_untouched_elsewhere() -> None:
    posed = pose(workload("batch_norm_relu", "bfloat16"))
    problem, expected = solve(posed)
    margin = 4 * TOLERANCES[torch.bfloat16]
    zeroed = (problem.dys[0] == 0) & (posed.dys[0] != 0)
    y = expected.outputs[0]
    assert bool(zeroed[(y > 0) & (y < margin)].all())
    assert not bool(zeroed[y > margin].any())
    assert bool(zeroed[y == 0].any())  # below the kink as well
    torch.testing.assert_close(problem.dys[0][~zeroed], posed.dys[0][~zeroed], rtol=0, atol=0)


def test_error_share_counts_nan_as_wrong() -> None:
    share = error_share(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 1.0]).double(), 0.1)
    assert math.isnan(share)
    assert not share <= 1


class Fuses(nn.Module):
    """A norm that offers the fused form."""

    def __init__(self, num_features: int, *, activation: str = "none") -> None:
        super().__init__()
        self.norm, self.activation = nn.BatchNorm2d(num_features), activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x) if residual is None else self.norm(x) + residual
        return y.relu()


def test_a_fused_form_is_used_where_it_is_offered() -> None:
    fused = added_and_activated(Fuses, (4,), "relu", nn.ReLU())
    composed = added_and_activated(nn.BatchNorm2d, (4,), "relu", nn.ReLU())
    assert isinstance(fused, FusedResidual)
    assert fused.norm.activation == "relu"
    assert isinstance(composed, NormAddAct)
    x, residual = torch.randn(2, 3, 4, 5, 5).unbind(0)
    torch.testing.assert_close(fused(x, residual), composed(x, residual))


def test_the_fused_form_is_a_matter_of_both_arguments() -> None:
    class ActivationOnly(nn.BatchNorm2d):
        def __init__(self, num_features: int, *, activation: str = "none") -> None:
            super().__init__(num_features)

    assert isinstance(added_and_activated(ActivationOnly, (4,), "relu", nn.ReLU()), NormAddAct)
