"""Input without padding: packed sequences, and jagged nested tensors [N, C, j]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from normkit._padding import Padding
from normkit.errors import ArgumentError, DtypeError, ShapeError


def is_ragged(x: object) -> bool:
    return isinstance(x, PackedSequence) or (isinstance(x, Tensor) and x.is_nested)


def through_rows(call: str, norm: Callable[..., Tensor], x: Any, residual: Any, padding: Padding | None) -> Any:
    """A norm of [M, C] that does not care which sequence a row is of, on ragged input."""
    _check(call, x, padding)
    if residual is None:
        return _with_rows(x, norm(rows_of(x)))
    if type(residual) is not type(x):
        raise DtypeError(
            f"{call}: expected residual of the input's type {type(x).__name__}, got {type(residual).__name__}; "
            f"make it from the same lengths."
        )
    return _with_rows(x, norm(rows_of(x), rows_of(residual)))


def through_padding(call: str, norm: Callable[..., Tensor], x: Any, padding: Padding | None) -> Any:
    """A norm of [N, C, L] that takes lengths, on ragged input."""
    _check(call, x, padding)
    if isinstance(x, PackedSequence):
        sorted_by_length = PackedSequence(x.data, x.batch_sizes)
        padded, lengths = pad_packed_sequence(sorted_by_length, batch_first=True)
        y = norm(padded.transpose(1, 2), lengths=lengths).transpose(1, 2)
        return _with_rows(x, pack_padded_sequence(y, lengths, batch_first=True).data)
    lengths = x.offsets().diff()
    padded = torch.nested.to_padded_tensor(x.transpose(1, 2), 0.0)
    y = norm(padded.transpose(1, 2), lengths=lengths).transpose(1, 2)
    valid = torch.arange(y.shape[1], device=y.device) < lengths.unsqueeze(1)
    return _with_rows(x, y[valid])


def _check(call: str, x: Any, padding: Padding | None) -> None:
    if padding is not None:
        raise ArgumentError(
            f"{call}: expected mask, weights and lengths only with padded input, got a {type(x).__name__}; "
            f"it knows its own."
        )
    if isinstance(x, PackedSequence):
        if x.data.dim() != 2:
            raise ShapeError(
                f"{call}: expected a PackedSequence of data (sum of lengths, C), got {x.data.dim()}-d "
                f"{list(x.data.shape)}; pack sequences of vectors."
            )
    elif x.layout != torch.jagged:  # it does not know its shape
        raise ShapeError(
            f"{call}: expected a nested tensor [N, C, j] with layout=torch.jagged, got one with layout={x.layout}; "
            f"make it with torch.nested.nested_tensor(…, layout=torch.jagged)."
        )
    elif x.dim() != 3 or isinstance(x.shape[1], torch.SymInt):
        advice = "bring the ragged axis last with .transpose(1, 2)"
        if x.dim() != 3:
            advice = "pad it with torch.nested.to_padded_tensor, and say what counts with mask="
        raise ShapeError(f"{call}: expected a nested tensor [N, C, j], got {list(x.shape)}; {advice}.")


def rows_of(x: Any) -> Tensor:
    """[M, C]: every value of ragged input."""
    rows: Tensor = x.data if isinstance(x, PackedSequence) else x.transpose(1, 2).values()
    return rows


def _with_rows(x: Any, rows: Tensor) -> Any:
    """Ragged as x, with these rows."""
    if isinstance(x, PackedSequence):
        return x._replace(data=rows)
    return torch.nested.nested_tensor_from_jagged(rows, x.offsets()).transpose(1, 2)
