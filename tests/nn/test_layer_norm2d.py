"""LayerNorm2d against what it replaces: permute, torch.nn.LayerNorm, permute back."""

import pytest
import torch

from normkit import nn

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_is_layer_norm_of_the_permuted_map(memory_format: torch.memory_format, device: torch.device) -> None:
    ours = nn.LayerNorm2d(6, device=device)
    theirs = torch.nn.LayerNorm(6, eps=1e-6, device=device)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, 4, 3, device=device).contiguous(memory_format=memory_format)
    dy = torch.randn_like(x)
    results = []
    for call in (ours, lambda t: theirs(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = call(leaf)
        results.append((y, torch.autograd.grad(y, leaf, dy)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][0].is_contiguous(memory_format=memory_format)


def test_unbatched_map_is_a_batch_of_one(device: torch.device) -> None:
    layer = nn.LayerNorm2d(6, device=device)
    x = torch.randn(6, 4, 3, device=device)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_one_channel_gives_the_bias(device: torch.device) -> None:
    layer = nn.LayerNorm2d(1, device=device)
    torch.nn.init.constant_(layer.bias, 0.3)
    y = layer(torch.randn(2, 1, 3, 3, device=device) * 1e3)
    assert torch.equal(y, torch.full_like(y, 0.3))


def test_reset_parameters(device: torch.device) -> None:
    layer = nn.LayerNorm2d(6, device=device)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.ones(6, device=device))
    assert torch.equal(layer.bias, torch.zeros(6, device=device))
