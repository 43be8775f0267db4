"""Layers with one bug each, and what the exact experiments measure on them: a tool of the tests of verdicts.

for name, layers in PLANTED_BUGS.items():
    measurements = exact_measurements(layers)  # at least one verdict must differ from that of OURS
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normkit import nn as layers
from normkit.claims.experiment import Measurement
from normkit.claims.experiments import e01_definitions, e02_invariance, e03_modes, e26_affine, e27_scale
from normkit.claims.experiments._exact import OURS, Layers, measure_exact

EXACT = (e01_definitions, e03_modes, e26_affine, e27_scale)


def exact_measurements(layers: Layers = OURS) -> list[Measurement]:
    """What the exact experiments find with these layers."""
    found = []
    for module in EXACT:
        for job in module.EXPERIMENT.jobs("instant"):
            found += measure_exact(job, module.check, layers)
    for job in e02_invariance.EXPERIMENT.jobs("instant"):
        found += e02_invariance.measure_with(job, layers)
    return found


class _BatchNormOverFeatures(layers.BatchNorm1d):
    """Takes the statistics over the features of a case."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = torch.nn.functional.layer_norm(input, (input.shape[1],), eps=self.eps)
        return y * self.weight + self.bias


class _LayerNormOverTheBatch(layers.LayerNorm):
    """Takes the statistics over the cases."""

    def forward(self, input: Tensor) -> Tensor:
        variance, mean = torch.var_mean(input, 0, correction=0, keepdim=True)
        return (input - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class _EvaluatesWithTheBatch(layers.BatchNorm1d):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.training:
            return super().forward(input)
        variance, mean = torch.var_mean(input, 0, correction=0)
        return (input - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class _UpdatesInEvaluation(layers.BatchNorm1d):
    """Normalizes with the running statistics, as it should, and then moves them."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)
        if not self.training and len(input) > 1:
            with torch.no_grad():
                self.train()
                super().forward(input)
                self.eval()
        return y


class _WithoutEps(layers.BatchNorm1d):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(input)
        super().forward(input)  # for the running statistics
        variance, mean = torch.var_mean(input, 0, correction=0)
        return (input - mean) / torch.sqrt(variance) * self.weight + self.bias


class _LayerNormWithoutEps(layers.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        variance, mean = torch.var_mean(input, -1, correction=0, keepdim=True)
        return (input - mean) / torch.sqrt(variance) * self.weight + self.bias


class _BatchNormWithoutGamma(layers.BatchNorm1d):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return (super().forward(input) - self.bias) / self.weight + self.bias


def _biased_running_variance(num_features: int, **arguments: Any) -> nn.Module:
    return layers.BatchNorm1d(num_features, running_variance="biased", **arguments)


def _momentum_of_one(num_features: int, **arguments: Any) -> nn.Module:
    return layers.BatchNorm1d(num_features, **{**arguments, "momentum": 1.0})


def _batch(make: Callable[..., nn.Module]) -> Layers:
    return replace(OURS, batch=make)


PLANTED_BUGS: dict[str, Layers] = {
    "BatchNorm over the features": _batch(_BatchNormOverFeatures),
    "LayerNorm over the batch": replace(OURS, layer=_LayerNormOverTheBatch),
    "BatchNorm evaluates with the batch's statistics": _batch(_EvaluatesWithTheBatch),
    "BatchNorm's running variance is biased": _batch(_biased_running_variance),
    "BatchNorm without eps": _batch(_WithoutEps),
    "LayerNorm without eps": replace(OURS, layer=_LayerNormWithoutEps),
    "BatchNorm with momentum 1": _batch(_momentum_of_one),
    "BatchNorm updates its statistics in evaluation": _batch(_UpdatesInEvaluation),
    "BatchNorm without gamma": _batch(_BatchNormWithoutGamma),
}
