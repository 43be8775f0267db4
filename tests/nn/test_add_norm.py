"""AddLayerNorm and AddRMSNorm are the three lines they replace: dropout, add, normalize."""

import pytest
import torch
from torch import Tensor

from normkit import nn

PAIRS = ((nn.AddLayerNorm, nn.LayerNorm), (nn.AddRMSNorm, nn.RMSNorm))
every_layer = pytest.mark.parametrize(("layer", "norm"), PAIRS, ids=lambda c: c.__name__)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def pair(layer: type, norm: type, dtype: torch.dtype, device: torch.device, p: float) -> tuple[torch.nn.Module, ...]:
    fused, plain = layer(8, dtype=dtype, device=device, dropout_p=p), norm(8, dtype=dtype, device=device)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.normal_()
    plain.load_state_dict(fused.state_dict(), strict=True)
    return fused, plain


def close(a: Tensor, b: Tensor) -> None:
    few_ulp = 4 * torch.finfo(a.dtype).eps
    torch.testing.assert_close(a, b, rtol=few_ulp, atol=few_ulp)


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_layer
def test_is_dropout_add_and_norm(layer: type, norm: type, dtype: torch.dtype, p: float, device: torch.device) -> None:
    """The rounded sum is what is normalized; which elements are dropped, the seed decides alone."""
    fused, plain = pair(layer, norm, dtype, device, p)
    x, residual = (torch.randn(5, 8, dtype=torch.float64).to(device, dtype) for _ in range(2))
    dy, d_total = (torch.randn(5, 8, dtype=torch.float64).to(device, dtype) for _ in range(2))

    torch.manual_seed(7)
    kept = fused(torch.ones_like(x), torch.zeros_like(x))[1] != 0
    wide = torch.promote_types(dtype, torch.float32)

    def three_lines(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        h = (x.to(wide) * kept / (1 - p) + residual.to(wide)).to(dtype)
        return plain(h), h

    results = []
    for call, module in ((fused, fused), (three_lines, plain)):
        leaves = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        torch.manual_seed(7)
        ys = call(*leaves)
        results.append((*ys, *torch.autograd.grad(ys, [*leaves, *module.parameters()], (dy, d_total))))
    for got, expected in zip(*results, strict=True):
        close(got, expected)
    assert p > 0 or torch.equal(results[0][1], results[1][1])


@every_layer
def test_evaluation_drops_nothing(layer: type, norm: type, device: torch.device) -> None:
    fused, plain = pair(layer, norm, torch.float32, device, 0.9)
    x, residual = torch.randn(5, 8, device=device), torch.randn(5, 8, device=device)
    y, total = fused.eval()(x, residual)
    assert torch.equal(total, x + residual)
    close(y, plain(total))


@every_layer
def test_dropout_of_everything_leaves_the_residual(layer: type, norm: type, device: torch.device) -> None:
    fused, plain = pair(layer, norm, torch.float32, device, 1.0)
    x, residual = torch.randn(5, 8, device=device), torch.randn(5, 8, device=device)
    y, total = fused(x, residual)
    assert torch.equal(total, residual)
    close(y, plain(residual))


@every_layer
def test_a_gradient_of_one_output_alone(layer: type, norm: type, device: torch.device) -> None:
    """A last block uses y only, a first one the sum only."""
    fused, plain = pair(layer, norm, torch.float32, device, 0.0)
    x, residual = (torch.randn(5, 8, device=device).requires_grad_() for _ in range(2))
    dy = torch.randn(5, 8, device=device)
    y, total = fused(x, residual)
    (of_total,) = torch.autograd.grad(total, x, dy, retain_graph=True)
    assert torch.equal(of_total, dy)
    (of_y,) = torch.autograd.grad(y, residual, dy)
    h = (x + residual).detach().requires_grad_()
    close(of_y, torch.autograd.grad(plain(h), h, dy)[0])


def test_a_transformer_block_in_either_order(device: torch.device) -> None:
    """The layer's two outputs serve pre-norm (both) and post-norm (the first)."""
    norm = nn.AddLayerNorm(8, device=device)
    sublayer = torch.nn.Linear(8, 8, device=device)
    x = torch.randn(3, 8, device=device)
    normalized, stream = norm(sublayer(x), x)
    torch.testing.assert_close(stream, x + sublayer(x))
    torch.testing.assert_close(normalized, torch.nn.functional.layer_norm(x + sublayer(x), (8,)))


@every_layer
def test_the_sum_needs_a_gradient_where_a_term_does(layer: type, norm: type, device: torch.device) -> None:
    """The parameters alone give the sum no history."""
    x, residual = torch.randn(2, 5, 8, device=device)
    y, total = layer(8, device=device)(x, residual)
    assert y.requires_grad
    assert not total.requires_grad
    assert layer(8, device=device)(x, residual.requires_grad_())[1].requires_grad
