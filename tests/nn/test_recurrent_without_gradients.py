"""A call without gradients: the same numbers as with them, whatever the norms' parameters are, and its input stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import normkit.nn as nk
from normkit.errors import ArgumentError, DtypeError


def test_the_input_stays_and_the_numbers_are_those_with_gradients() -> None:
    torch.manual_seed(0)
    for layer in (
        nk.LayerNormLSTM(8, 8),
        nk.LayerNormLSTM(8, 8, norm="rms_input"),
        nk.LayerNormRNN(8, 8, norm="input"),
    ):
        x = torch.randn(5, 3, 8)
        before = x.clone()
        with torch.no_grad():
            y, _ = layer(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(y, layer(x)[0].detach(), rtol=0, atol=0)
        for name, p in layer.named_parameters():  # a norm that learns behind a product that does not
            p.requires_grad_(name == "norm_weight_ih_l0")
        z, _ = layer(x)
        (g,) = torch.autograd.grad(z.sum(), [layer.get_parameter("norm_weight_ih_l0")])
        assert g.isfinite().all()
        assert bool((g != 0).any())


class _Expanded(torch.nn.Module):
    def forward(self, gain: Tensor) -> Tensor:
        return gain.expand(32)


def test_a_norm_whose_parameter_is_a_view_is_not_read_as_if_it_were_not() -> None:
    torch.manual_seed(0)
    layer, x, table = nk.LayerNormLSTM(8, 8), torch.randn(5, 3, 8), torch.randn(32, 3)
    for weight in (table[:, 1], torch.tensor(1.5).expand(32), torch._neg_view(table[:, 0].contiguous())):
        with torch.no_grad():
            found = torch.func.functional_call(layer, {"norm_weight_ih_l0": weight}, (x,))[0]
            plain = weight.clone(memory_format=torch.contiguous_format).resolve_neg()
            right = torch.func.functional_call(layer, {"norm_weight_ih_l0": plain}, (x,))[0]
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
    layer.norm_weight_ih_l0 = torch.nn.Parameter(torch.tensor(2.0))
    torch.nn.utils.parametrize.register_parametrization(layer, "norm_weight_ih_l0", _Expanded(), unsafe=True)
    with torch.no_grad():
        found = layer(x)[0]
    torch.testing.assert_close(found, layer(x)[0].detach(), rtol=1e-5, atol=1e-6)


def test_a_norm_of_another_dtype_or_a_wrong_eps_is_an_error_without_gradients_too() -> None:
    layer, x = nk.LayerNormLSTM(8, 8), torch.randn(5, 3, 8)
    with torch.no_grad():
        with pytest.raises(DtypeError, match="weight"):
            torch.func.functional_call(layer, {"norm_weight_ih_l0": torch.ones(32, dtype=torch.float64)}, (x,))
        for norm in ("separate", "sum", "rms_sum"):
            layer = nk.LayerNormLSTM(8, 8, norm=norm)
            layer.eps = -1.0
            with pytest.raises(ArgumentError, match="eps"):
                layer(x)
