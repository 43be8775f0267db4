"""The checks of sequences, their lengths and the states of recurrent layers, in the form of ``_checks``."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import _checks
from normkit.errors import ArgumentError, DeviceError, DtypeError, ShapeError


def projection(call: str, proj_size: object, hidden_size: int) -> None:
    """proj_size is 0 for none, or smaller than hidden_size."""
    whole_number(call, "proj_size", proj_size, "0 projects nothing")
    if not proj_size < hidden_size:  # type: ignore[operator]
        raise ArgumentError(
            f"{call}: expected proj_size smaller than hidden_size, got {proj_size} and {hidden_size}; "
            f"0 projects nothing."
        )


def whole_number(call: str, name: str, value: object, advice: str) -> None:
    """An integer, not negative."""
    if isinstance(value, bool) or not (isinstance(value, int) or hasattr(value, "__index__")):
        raise DtypeError(f"{call}: expected {name} to be an integer, got {value!r}; {advice}.")
    if value < 0:  # type: ignore[operator]
        raise ShapeError(f"{call}: expected {name} of at least 0, got {value!r}; {advice}.")


def padded(call: str, x: Tensor, layout: str) -> int:
    """A batch of sequences, or one without the batch axis; the number of steps, of which there is at least one."""
    _checks.tensor(call, "input", x)
    not_nested(call, x, "a padded batch or a PackedSequence", "call .to_padded_tensor(0.0) and give lengths")
    _checks.rank(call, x, (layout, "T, C"))
    n_steps = x.shape[layout.split(", ").index("T") if x.dim() == 3 else 0]
    if n_steps == 0:
        raise ShapeError(
            f"{call}: expected input ({layout}) of at least 1 step, got {list(x.shape)}; leave out empty sequences."
        )
    return n_steps


def not_nested(call: str, x: Tensor, rule: str, advice: str) -> None:
    """Not a nested tensor, which has no sizes to look at."""
    if x.is_nested:
        raise DtypeError(f"{call}: expected {rule}, got a nested tensor; {advice}.")


def packed(call: str, x: PackedSequence, lengths: object) -> None:
    """A PackedSequence as torch's functions make it: rows step by step, at no step more than at the one before."""
    data = x.data
    _checks.tensor(call, "input", data)
    if lengths is not None:
        raise ArgumentError(
            f"{call}: expected lengths only with padded input, got a PackedSequence and lengths; "
            f"a PackedSequence knows its own."
        )
    if data.dim() != 2:
        raise ShapeError(
            f"{call}: expected a PackedSequence of data (sum of lengths, C), got {data.dim()}-d {list(data.shape)}; "
            f"pack sequences of vectors."
        )
    sizes = x.batch_sizes.tolist()
    whole = all(isinstance(n, int) for n in sizes)
    if not whole or sum(sizes) != data.shape[0] or sorted(sizes, reverse=True) != sizes or min(sizes, default=0) < 1:
        raise ShapeError(
            f"{call}: expected a PackedSequence whose batch_sizes are integers that never grow and add up to its "
            f"{data.shape[0]} rows, got {sizes}; sort the sequences longest first, or let "
            f"pack_padded_sequence(enforce_sorted=False) do it."
        )
    for indices in (x.sorted_indices, x.unsorted_indices):
        if indices is not None and indices.shape != (sizes[0],):
            raise ShapeError(
                f"{call}: expected a PackedSequence whose indices name each of its {sizes[0]} sequences once, got "
                f"indices of shape {list(indices.shape)}; let pack_padded_sequence(enforce_sorted=False) make them."
            )


def lengths(call: str, value: object, n_sequences: int | None, n_steps: int) -> list[int]:
    """The length of each sequence of a padded batch, at least 1 and at most its steps."""
    if n_sequences is None:
        raise ShapeError(
            f"{call}: expected lengths only with a batch of sequences, got unbatched input; cut it at its length."
        )
    given = value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, Iterable) else value
    if (
        not isinstance(given, list)
        or len(given) != n_sequences
        or any(isinstance(n, bool) or not hasattr(n, "__index__") for n in given)
    ):
        raise ShapeError(f"{call}: expected lengths of {n_sequences} integers, got {given}; give one a sequence.")
    found = [index(n) for n in given]
    wrong = [(i, n) for i, n in enumerate(found) if not 1 <= n <= n_steps]
    if wrong:
        raise ShapeError(
            f"{call}: expected lengths from 1 to the input's {n_steps} steps, got {wrong[0][1]} for sequence "
            f"{wrong[0][0]}; leave out empty sequences."
        )
    return found


def recurrent_input(call: str, x: Tensor, input_size: int, weight: Tensor) -> None:
    """Input of the size, the device and, unless autocast sees to it, the dtype of the layer."""
    if x.shape[-1] != input_size:
        raise ShapeError(
            f"{call}: expected input_size={input_size} values on the input's last axis, got {x.shape[-1]}; "
            f"build the layer for {x.shape[-1]}."
        )
    if x.device != weight.device:
        raise DeviceError(
            f"{call}: expected input on the weights' device {weight.device}, got {x.device}; "
            f"move one of them with .to(...)."
        )
    if x.dtype != weight.dtype and not under_autocast(x):
        raise DtypeError(
            f"{call}: expected input of the weights' dtype {_checks.dtype_name(weight)}, got {_checks.dtype_name(x)}; "
            f"convert the input with .to({weight.dtype}) or the layer with .to({x.dtype})."
        )


def recurrent_parameter(layer: type, name: str, value: Tensor | None, shape: tuple[int, ...] | None) -> None:
    """A parameter as it was built, whatever has been put in its place: kernels read as much memory as that had."""
    got = None if value is None else value.shape
    if got != shape:
        expected, found = ("none" if s is None else f"shape {list(s)}" for s in (shape, got))
        raise ShapeError(
            f"{layer.__name__}: expected {name} of {expected}, as the layer was built, got {found}; "
            f"build the layer for those sizes."
        )


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of x. The meta device has none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def recurrent_pair(call: str, value: object) -> None:
    """The state of an LSTM has two parts."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        got = f"{len(value)} of them" if isinstance(value, (tuple, list)) else type(value).__name__
        raise DtypeError(f"{call}: expected hx to be a pair of tensors (h_0, c_0), got {got}; give both or neither.")


def recurrent_state(call: str, name: str, value: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    """An initial state of the shape that the layer and the batch ask for, beside the input."""
    _checks.tensor(call, name, value)
    if tuple(value.shape) != shape:
        raise ShapeError(
            f"{call}: expected {name} of shape {list(shape)} for this layer and input, got {list(value.shape)}; "
            f"leave it out for zeros."
        )
    if value.device != x.device:
        raise DeviceError(
            f"{call}: expected {name} on the input's device {x.device}, got {value.device}; move it with .to(...)."
        )
    if value.dtype != x.dtype and not under_autocast(x):
        raise DtypeError(
            f"{call}: expected {name} of the input's dtype {_checks.dtype_name(x)}, got {_checks.dtype_name(value)}; "
            f"convert it with .to({x.dtype})."
        )
