"""Packed sequences and jagged nested tensors through the norms of sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from normkit import nn
from normkit.errors import ArgumentError, DtypeError, ShapeError

LENGTHS = (3, 5, 2)
NORMS = {
    "batch": lambda: nn.BatchNorm1d(4, dtype=torch.float64),
    "instance": lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True, dtype=torch.float64),
    "group": lambda: nn.GroupNorm(2, 4, dtype=torch.float64),
}
every_norm = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)


def sequences() -> list[torch.Tensor]:
    return [torch.randn(n, 4, dtype=torch.float64) for n in LENGTHS]


def padded(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).transpose(1, 2)


def jagged(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True).transpose(1, 2)


@every_norm
def test_a_packed_sequence_is_its_padded_form(make: Any) -> None:
    parts, layer, same = sequences(), make(), make()
    packed = pack_sequence(parts, enforce_sorted=False)
    packed.data.requires_grad_()
    x = padded(parts).requires_grad_()
    y = layer(packed)
    expected = same(x, lengths=LENGTHS)
    assert isinstance(y, PackedSequence)
    for i, found in enumerate(unpack_sequence(y)):
        torch.testing.assert_close(found, expected[i, :, : LENGTHS[i]].T)
    for name, value in same.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), value)
    (y.data**3).sum().backward()
    (expected**3).sum().backward()
    for i, found in enumerate(unpack_sequence(packed._replace(data=packed.data.grad))):
        torch.testing.assert_close(found, x.grad[i, :, : LENGTHS[i]].T)


@every_norm
def test_sorted_sequences_too(make: Any) -> None:
    parts = sorted(sequences(), key=len, reverse=True)
    y = make()(pack_sequence(parts))
    expected = make()(padded(parts), lengths=[len(p) for p in parts])
    for i, found in enumerate(unpack_sequence(y)):
        torch.testing.assert_close(found, expected[i, :, : len(parts[i])].T)


@every_norm
def test_a_nested_tensor_is_its_padded_form(make: Any) -> None:
    parts, layer, same = sequences(), make(), make()
    x = jagged(parts)
    y = layer(x)
    expected = same(padded(parts), lengths=LENGTHS)
    assert y.shape == x.shape
    for i, found in enumerate(y.transpose(1, 2).unbind()):
        torch.testing.assert_close(found, expected[i, :, : LENGTHS[i]].T)
    for name, value in same.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), value)


STRIDED_IS_OLD = "ignore:The PyTorch API of nested tensors is in prototype"


@pytest.mark.filterwarnings(STRIDED_IS_OLD)
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.InstanceNorm2d, nn.LayerNorm2d])
def test_norms_of_images_say_what_to_do_with_ragged_ones(make: Any, layout: torch.layout) -> None:
    layer = make(4)
    images = torch.nested.nested_tensor([torch.randn(n, 4, 6) for n in LENGTHS], layout=layout).transpose(1, 2)
    with pytest.raises(ShapeError, match=r"2d: expected input of shape \(N, C, H, W\), got a nested tensor; pad it"):
        layer(images)
    with pytest.raises(DtypeError, match=r"got PackedSequence; give it to a layer of sequences"):
        layer(pack_sequence([torch.randn(3, 4)]))


def test_a_residual_is_as_ragged_as_the_input() -> None:
    parts, others = sequences(), sequences()
    layer = nn.BatchNorm1d(4, activation="relu", dtype=torch.float64)
    y = layer(pack_sequence(parts, enforce_sorted=False), pack_sequence(others, enforce_sorted=False))
    expected = layer(padded(parts), padded(others), lengths=LENGTHS)
    torch.testing.assert_close(unpack_sequence(y)[1], expected[1].T)
    with pytest.raises(
        DtypeError, match="BatchNorm1d: expected residual of the input's type PackedSequence, got Tensor"
    ):
        layer(pack_sequence(parts, enforce_sorted=False), padded(others))


@every_norm
def test_ragged_input_knows_its_own_padding(make: Any) -> None:
    for x in (pack_sequence(sequences(), enforce_sorted=False), jagged(sequences())):
        with pytest.raises(ArgumentError, match="expected mask, weights and lengths only with padded input"):
            make()(x, lengths=LENGTHS)


@pytest.mark.filterwarnings(STRIDED_IS_OLD)
@every_norm
def test_what_is_ragged_elsewhere_is_an_error(make: Any) -> None:
    with pytest.raises(ShapeError, match=r"expected a nested tensor \[N, C, j\], got .*; bring .* \.transpose\(1, 2\)"):
        make()(jagged(sequences()).transpose(1, 2))
    images = torch.nested.nested_tensor([torch.randn(n, 4, 6) for n in LENGTHS], layout=torch.jagged)
    with pytest.raises(ShapeError, match=r"expected a nested tensor \[N, C, j\], got .*; pad it with .* mask="):
        make()(images.transpose(1, 2))
    with pytest.raises(ShapeError, match=r"layout=torch.jagged, got one with layout=torch.strided; make it"):
        make()(torch.nested.nested_tensor([s.T for s in sequences()]))
    with pytest.raises(ShapeError, match="expected a PackedSequence of data"):
        make()(pack_sequence([torch.randn(3, 4, 2)]))
