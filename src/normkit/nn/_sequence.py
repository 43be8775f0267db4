"""Sequences as rows, layers and directions: what all recurrent layers share beside their maths.

Inside, a batch of sequences is packed as torch packs it: rows [R, C] step after step, at each step those of the
sequences that reach it, the longest sequence first. A batch of equal lengths is its own packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from normkit import recurrence
from normkit.recurrence import Cell, State


@dataclass(frozen=True)
class Layout:
    """How rows come from an input, and go back to its form."""

    sizes: list[int]  # rows at each step
    order: Tensor | None = None  # the sequences, longest first
    inverse: Tensor | None = None
    packed: PackedSequence | None = None  # the input, where it was one
    batch_first: bool = False
    unbatched: bool = False
    places: Tensor | None = None  # of each row among the [T·N] of a padded input with lengths
    steps: int = 0  # of that padded input

    def in_order(self, state: State) -> State:
        """A state given for the sequences as the caller has them, the longest first."""
        if self.unbatched:
            return tuple(s.unsqueeze(1) for s in state)
        return state if self.order is None else tuple(s.index_select(1, self.order) for s in state)

    def as_given(self, state: State) -> State:
        """The inverse of :meth:`in_order`."""
        if self.unbatched:
            return tuple(s.squeeze(1) for s in state)
        return state if self.inverse is None else tuple(s.index_select(1, self.inverse) for s in state)

    def output(self, rows: Tensor) -> PackedSequence | Tensor:
        """The rows in the form of the input; zeros in the padding."""
        if self.packed is not None:
            return PackedSequence(
                rows, self.packed.batch_sizes, self.packed.sorted_indices, self.packed.unsorted_indices
            )
        n_sequences = self.sizes[0]
        if self.places is not None:
            padded = rows.new_zeros(self.steps * n_sequences, rows.shape[1])
            rows = padded.index_copy(0, self.places, rows)
        y = torch.unflatten(rows, 0, (-1, n_sequences)) if n_sequences else rows.reshape(self.steps, 0, rows.shape[1])
        if self.unbatched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y


def from_packed(x: PackedSequence) -> tuple[Tensor, Layout]:
    """The rows of a PackedSequence."""
    return x.data, Layout(x.batch_sizes.tolist(), x.sorted_indices, x.unsorted_indices, packed=x)


def from_padded(x: Tensor, batch_first: bool, lengths: Sequence[int] | None) -> tuple[Tensor, Layout]:
    """The rows of [T, N, C], of [N, T, C] or of [T, C], those past the end of a sequence left out."""
    unbatched = x.dim() == 2
    if unbatched:
        x = x.unsqueeze(1)
    elif batch_first:
        x = x.transpose(0, 1)
    steps, n_sequences = x.shape[:2]
    batch_first = batch_first and not unbatched
    rows = x.flatten(0, 1)
    if not lengths:  # without sequences there are none to be told
        return rows, Layout([n_sequences] * steps, batch_first=batch_first, unbatched=unbatched, steps=steps)
    sizes: list[int] = []
    for n, length in zip(range(n_sequences, 0, -1), sorted(lengths), strict=True):
        sizes += [n] * (length - len(sizes))
    order = torch.argsort(torch.tensor(lengths), descending=True, stable=True)
    step, column = _places(sizes)
    places = (order[column] + n_sequences * step).to(x.device)
    order = order.to(x.device)
    layout = Layout(
        sizes,
        order,
        torch.argsort(order),
        batch_first=batch_first,
        unbatched=unbatched,
        places=places,
        steps=steps,
    )
    return rows.index_select(0, places), layout


def reverse(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each sequence from its end to its start. Doing it twice undoes it."""
    if sizes[0] == sizes[-1]:
        return torch.unflatten(rows, 0, (len(sizes), -1)).flip(0).flatten(0, 1) if sizes[0] else rows
    step, column = _places(sizes)
    starts = torch.tensor([0, *accumulate(sizes)][:-1])
    lengths = (torch.tensor(sizes)[:, None] > torch.arange(sizes[0])).sum(0)
    source = starts[lengths[column] - 1 - step] + column
    return rows.index_select(0, source.to(rows.device))


def _places(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The step of each row, and which of the sequences it belongs to. Of a size that a compiler can tell."""
    n_rows, each = sum(sizes), torch.tensor(sizes)
    step = torch.repeat_interleave(torch.arange(len(sizes)), each, output_size=n_rows)
    return step, torch.arange(n_rows) - (each.cumsum(0) - each)[step]


def run_layers(
    layers: Sequence[Sequence[Cell]],
    rows: Tensor,
    sizes: Sequence[int],
    state: State,
    dropout_p: float,
) -> tuple[Tensor, State]:
    """Layer after layer, each in one direction or two, with dropout between layers.

    Args:
        layers: the cells of each layer, forward and then reverse.
        rows, sizes: the packed input.
        state: h, and c where there is one, [layers · directions, N, *], the longest sequence first.
        dropout_p: of what goes from one layer to the next; 0 when not training.

    Returns:
        The rows of the last layer, and the final state in the form of ``state``.
    """
    initial = iter(zip(*(s.unbind(0) for s in state), strict=True))
    final: list[State] = []
    for number, directions in enumerate(layers):
        if number > 0 and dropout_p > 0:
            rows = dropout(rows, dropout_p)
        outputs: list[Tensor] = []
        for backwards, cell in enumerate(directions):
            x = reverse(rows, sizes) if backwards else rows
            y, last = recurrence.run(cell, x, sizes, next(initial))
            outputs.append(reverse(y, sizes) if backwards else y)
            final.append(last)
        rows = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return rows, tuple(torch.stack(parts) for parts in zip(*final, strict=True))
