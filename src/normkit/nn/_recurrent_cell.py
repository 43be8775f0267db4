"""What the recurrent cells share: one step of a layer, with torch's constructor and weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from normkit import _checks, _sequence_checks
from normkit.composite import widen, without_autocast
from normkit.nn import _recurrent
from normkit.recurrence import Cell, State


class RecurrentCell(torch.nn.RNNCellBase):
    """The base of the recurrent cells; those are final."""

    _norm_weight: ClassVar[float] = 1.0  # where the norms' weights start

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: Any,
        dtype: Any,
        *,
        norm: str,
        norms: Sequence[str],
        eps: float,
    ) -> None:
        call = type(self).__name__
        _recurrent.check_arguments(call, norm, norms, eps, input_size=input_size, hidden_size=hidden_size)
        super().__init__(input_size, hidden_size, bias, _recurrent.GATES[mode], device, dtype)
        self.norm = norm
        self.eps = eps
        self._has_c = mode == "LSTM"
        sizes = _recurrent.sizes_of_norms(mode, norm, hidden_size)
        biased = self._biased_norms(sizes) if bias else ()
        _recurrent.add_norm_parameters(self, sizes, biased, "", self._norm_weight, device, dtype)
        self._shapes = _recurrent.shapes_of(self)

    @abstractmethod
    def _cell(self) -> Cell:
        """The maths of a step."""

    def _biased_norms(self, sizes: Mapping[str, int]) -> Sequence[str]:
        return _recurrent.biased_row_norms(self.norm, sizes)

    def reset_parameters(self) -> None:
        """Draws the weights and biases anew, uniform in ±1/sqrt(hidden_size); the norms' go back to their start."""
        _recurrent.reset_parameters(self, self.hidden_size, self._norm_weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}, eps={self.eps}"

    def _run(self, cell: Cell, x: Tensor, hx: State | None, step: int = 0) -> State:
        """The state after a step from hx, in the shape of the input."""
        call = type(self).__name__
        _checks.tensor(call, "input", x)
        _sequence_checks.not_nested(call, x, "(N, C) or (C) input", "call the cell step by step on a padded batch")
        _checks.rank(call, x, ("N, C", "C"))
        _sequence_checks.recurrent_input(call, x, self.input_size, self.weight_ih)
        shape = (*x.shape[:-1], self.hidden_size)
        if hx is None:
            hx = (x.new_zeros(shape),) * (2 if self._has_c else 1)
        else:
            for name, s in zip(("h_0", "c_0"), hx, strict=False):
                _sequence_checks.recurrent_state(call, name, s, shape, x)
        dtype = _recurrent.output_dtype(x)
        with without_autocast(x):
            rows = widen(x).reshape(-1, self.input_size)
            p = cell.inputs(rows, [rows.shape[0]], step)
            state = cell.step(p, tuple(widen(s).reshape(-1, self.hidden_size) for s in hx), step)
        return tuple(s.reshape(shape).to(dtype) for s in state)
