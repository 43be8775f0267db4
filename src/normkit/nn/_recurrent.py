"""What the recurrent layers share: torch's constructor and weights, the norms' parameters, and the call."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from operator import index
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import _checks, _sequence_checks
from normkit.composite import widen, without_autocast
from normkit.nn import _sequence
from normkit.recurrence import Cell, Kind, Norms, RowNorm, State, Weights

Placement = Literal["none", "sum", "separate", "input", "rms_sum", "rms_separate", "rms_input"]
PLACEMENTS: tuple[str, ...] = get_args(Placement)

# Where a placement normalizes; an LSTM's cell, "c", belongs to "separate" alone.
_PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"none": (), "sum": ("sum",), "separate": ("ih", "hh", "c"), "input": ("ih",)}
)
GATES: Mapping[str, int] = MappingProxyType({"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1})


def kind_of(norm: str) -> Kind:
    return "rms" if norm.startswith("rms_") else "layer"


def sizes_of_norms(mode: str, norm: str, hidden_size: int) -> dict[str, int]:
    """Each place that is normalized, and the number of values there."""
    places = _PLACES[norm.removeprefix("rms_")]
    return {
        place: hidden_size if place == "c" else GATES[mode] * hidden_size
        for place in places
        if place != "c" or mode == "LSTM"
    }


def add_norm_parameters(
    module: torch.nn.Module,
    sizes: Mapping[str, int],
    biased: Sequence[str],
    suffix: str,
    start: float,
    device: Any,
    dtype: Any,
) -> None:
    """norm_weight_<place>, from ``start``, and at the places in ``biased`` norm_bias_<place>, from 0."""
    for place, size in sizes.items():
        values = {"norm_weight": start} | ({"norm_bias": 0.0} if place in biased else {})
        for name, value in values.items():
            parameter = torch.nn.Parameter(torch.full((size,), value, device=device, dtype=dtype))
            module.register_parameter(f"{name}_{place}{suffix}", parameter)


def check_arguments(call: str, norm: object, norms: Sequence[str], eps: float, **sizes: object) -> None:
    for name, size in sizes.items():
        _checks.positive(call, name, size)
    _checks.one_of(call, "norm", norm, norms)
    _checks.eps(call, eps)


def output_dtype(x: Tensor) -> torch.dtype:
    """The dtype of x, or autocast's where that is on. Inside, 16-bit values are float32 either way."""
    if x.dtype != torch.float64 and _sequence_checks.under_autocast(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def biased_row_norms(norm: str, sizes: Mapping[str, int]) -> Sequence[str]:
    """LayerNorm has a bias everywhere, RMSNorm nowhere."""
    return tuple(sizes) if kind_of(norm) == "layer" else ()


def reset_parameters(module: torch.nn.Module, hidden_size: int, norm_weight: float) -> None:
    """Weights and biases uniform in ±1/sqrt(hidden_size), as torch's; norms at ``norm_weight`` and 0."""
    bound = 1 / math.sqrt(hidden_size)
    for name, parameter in module.named_parameters():
        if name.startswith("norm_weight"):
            torch.nn.init.constant_(parameter, norm_weight)
        elif name.startswith("norm_bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.uniform_(parameter, -bound, bound)


def weights_of(module: torch.nn.Module, suffix: str) -> Weights:
    """The weights of one direction of one layer, 16-bit ones as float32."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return Weights(*(wide(module, name + suffix) for name in names))  # type: ignore[arg-type]


def row_norms_of(module: torch.nn.Module, mode: str, norm: str, hidden_size: int, eps: float, suffix: str) -> Norms:
    """LayerNorm or RMSNorm where the placement wants it. A GRU's r and z are one stretch, its n another."""
    found: dict[str, RowNorm] = {}
    for place, size in sizes_of_norms(mode, norm, hidden_size).items():
        weight = wide(module, f"norm_weight_{place}{suffix}")
        assert weight is not None
        bias = wide(module, f"norm_bias_{place}{suffix}")
        stretches = [2 * hidden_size, hidden_size] if mode == "GRU" else [size]
        found[place] = RowNorm(kind_of(norm), weight, bias, eps, stretches)
    return Norms(**found)


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Of each parameter."""
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def wide(module: Any, name: str) -> Tensor | None:
    """The parameter of this name, 16-bit ones as float32."""
    kept = module._parameters
    # As getattr has it, at less cost: what a tool has put in a parameter's place comes first.
    found = name in kept and name not in module.__dict__
    parameter = kept[name] if found else getattr(module, name, None)
    _sequence_checks.recurrent_parameter(type(module), name, parameter, module._shapes.get(name))
    return None if parameter is None else widen(parameter)


class Recurrent(torch.nn.RNNBase):
    """The base of the recurrent layers; those are final.

    It is torch's RNNBase, hence torch's names, but none of torch's LSTM, GRU and RNN: torch.compile refuses those.
    """

    weight_ih_l0: Tensor
    _norm_weight: ClassVar[float] = 1.0  # where the norms' weights start

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: Any,
        *,
        norm: str,
        norms: Sequence[str],
        eps: float,
    ) -> None:
        call = type(self).__name__
        check_arguments(call, norm, norms, eps, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _sequence_checks.projection(call, proj_size, hidden_size)
        _checks.probability(call, "dropout", dropout)
        # torch takes no integers but Python's
        input_size, hidden_size, num_layers, proj_size = map(index, (input_size, hidden_size, num_layers, proj_size))
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip
        self.norm = norm
        self.eps = eps
        sizes = sizes_of_norms(mode, norm, hidden_size)
        for suffix in self._suffixes():
            biased = self._biased_norms(sizes) if bias else ()
            add_norm_parameters(self, sizes, biased, suffix, self._norm_weight, device, dtype)
        self._shapes = shapes_of(self)

    @abstractmethod
    def _cell(self, suffix: str) -> Cell:
        """The maths of the direction of a layer whose parameters end so."""

    def _ran(self, cells: Sequence[Cell]) -> None:
        """What there is to do after a call that used these cells."""

    def _biased_norms(self, sizes: Mapping[str, int]) -> Sequence[str]:
        return biased_row_norms(self.norm, sizes)

    def _suffixes(self) -> list[str]:
        """How the names of the parameters of each direction of each layer end."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def reset_parameters(self) -> None:
        """Draws the weights and biases anew, uniform in ±1/sqrt(hidden_size); the norms' go back to their start."""
        reset_parameters(self, self.hidden_size, self._norm_weight)

    def flatten_parameters(self) -> None:
        """Does nothing: for cuDNN torch's layers lay their weights out as one, and nothing here needs that."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}, eps={self.eps}"

    def _run(
        self, x: Tensor | PackedSequence, hx: State | None, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Any, State]:
        """The output in the form of the input, and the final states."""
        call = type(self).__name__
        rows, layout = self._rows(call, x, lengths)
        _sequence_checks.recurrent_input(call, rows, self.input_size, self.weight_ih_l0)
        dtype = output_dtype(rows)
        hx = self._initial(call, hx, layout, rows)
        n_directions = 2 if self.bidirectional else 1
        with without_autocast(rows):
            cells = [self._cell(suffix) for suffix in self._suffixes()]
            y, final = _sequence.run_layers(
                [cells[i : i + n_directions] for i in range(0, len(cells), n_directions)],
                widen(rows),
                layout.sizes,
                tuple(widen(s) for s in layout.in_order(hx)),
                self.dropout if self.training else 0.0,
            )
        self._ran(cells)
        if y.dtype != dtype:
            y, final = y.to(dtype), tuple(s.to(dtype) for s in final)
        return layout.output(y), layout.as_given(final)

    def _initial(self, call: str, hx: State | None, layout: _sequence.Layout, rows: Tensor) -> State:
        """The initial states as given, once they fit, or zeros."""
        batch = () if layout.unbatched else (layout.sizes[0],)
        sizes = [self.proj_size or self.hidden_size] + ([self.hidden_size] if self.mode == "LSTM" else [])
        shapes = [(len(self._suffixes()), *batch, size) for size in sizes]
        if hx is None:
            return tuple(rows.new_zeros(shape) for shape in shapes)
        for name, s, shape in zip(("h_0", "c_0"), hx, shapes, strict=False):
            _sequence_checks.recurrent_state(call, name, s, shape, rows)
        return hx

    def _rows(
        self, call: str, x: Tensor | PackedSequence, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Tensor, _sequence.Layout]:
        if isinstance(x, PackedSequence):
            _sequence_checks.packed(call, x, lengths)
            return _sequence.from_packed(x)
        layout = "N, T, C" if self.batch_first else "T, N, C"
        n_steps = _sequence_checks.padded(call, x, layout)
        n_sequences = x.shape[0 if self.batch_first else 1] if x.dim() == 3 else None
        checked = None if lengths is None else _sequence_checks.lengths(call, lengths, n_sequences, n_steps)
        return _sequence.from_padded(x, self.batch_first, checked)
