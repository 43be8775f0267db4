"""The LSTM with recurrent BatchNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import _checks, _sequence_checks
from normkit.nn import _step_statistics
from normkit.nn._batch_lstm import BatchLSTM
from normkit.nn._recurrent import Recurrent, sizes_of_norms, weights_of, wide
from normkit.nn._recurrent_cell import RecurrentCell
from normkit.nn._step_statistics import StepNorm, StepStatistics
from normkit.nn.lstm import HiddenAndCell
from normkit.recurrence import LSTM, Cell, Norms

BatchPlacement = Literal["none", "sum", "separate", "input"]
_PLACEMENTS: tuple[str, ...] = get_args(BatchPlacement)


class BatchNormLSTM(Recurrent):
    """An LSTM whose gates and cell are normalized over the batch, at each time step by itself.

    With p = W_ih x and q = W_hh h, gates in torch's order, and all else as in :class:`LayerNormLSTM`:

        "separate"   a = BN_ih(p) + b_ih + BN_hh(q) + b_hh,   h' = o·tanh(BN_c(c'))       Cooijmans et al., eq. 6-8
        "sum"        a = BN_sum(p + b_ih + q + b_hh)
        "input"      a = BN_ih(p) + b_ih + q + b_hh                                       Laurent et al.
        "none"       a = p + b_ih + q + b_hh                                              torch.nn.LSTM

    In training each BN normalizes a value over the sequences that reach the time step: padding never enters, and
    the last sequence left alone is normalized by the running statistics. Those belong to each time step, counted
    from where the direction starts; from step ``max_steps`` on all share those of the last. In evaluation they
    normalize. One weight, which starts at 0.1, serves all steps; BN_c and BN_sum have a bias, BN_ih and BN_hh
    that of the layer.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: as for
            ``torch.nn.LSTM``. ``bias=False`` leaves out the norms' biases, too.
        device, dtype: of the parameters. Running statistics are float32 at least.
        norm: where to normalize, one of the names above.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        max_steps: how many time steps have running statistics of their own; the longest training sequence is a
            good choice.

    Shape, Dtypes:
        As :class:`LayerNormLSTM`.

    Raises:
        SingleValueError: a training batch of one sequence.
        As :class:`LayerNormLSTM` otherwise. A call that raises leaves the running statistics as they were.

    Example:
        >>> layer = BatchNormLSTM(3, 5, max_steps=7)
        >>> y, (h, c) = layer(torch.randn(7, 4, 3))
        >>> y.shape, layer.statistics_ih_l0.running_mean.shape
        (torch.Size([7, 4, 5]), torch.Size([7, 20]))

    Differs from torch:
        torch has no such layer. With norm="none" it is ``torch.nn.LSTM`` to rounding. Names as in
        :class:`LayerNormLSTM`; running statistics are statistics_ih_l0.running_mean and so on.

    Source:
        Cooijmans et al., "Recurrent Batch Normalization", 2016, https://arxiv.org/abs/1603.09025; Laurent et al.,
        "Batch Normalized Recurrent Neural Networks", 2015, https://arxiv.org/abs/1510.01378 (the placement; their
        statistics are those of all steps together)
    """

    _norm_weight = 0.1  # Cooijmans et al., section 4: from 1, the saturated tanh passes hardly any gradient

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        norm: BatchPlacement = "separate",
        eps: float = 1e-5,
        momentum: float = 0.1,
        max_steps: int = 100,
    ) -> None:
        _step_statistics.check_arguments("BatchNormLSTM", max_steps, momentum, eps)
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype, norm=norm, norms=_PLACEMENTS, eps=eps,
        )  # fmt: skip
        for suffix in self._suffixes():
            _add_statistics(self, suffix, max_steps, momentum, device, dtype)

    def _biased_norms(self, sizes: Mapping[str, int]) -> Sequence[str]:
        return _biased(sizes)

    def _cell(self, suffix: str) -> LSTM:
        return BatchLSTM(weights_of(self, suffix), _norms_of(self, suffix))

    def _ran(self, cells: Sequence[Cell]) -> None:
        _remember("BatchNormLSTM", cells)

    @overload
    def forward(
        self, input: Tensor, hx: HiddenAndCell | None = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, HiddenAndCell]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: HiddenAndCell | None = None, *, lengths: None = None
    ) -> tuple[PackedSequence, HiddenAndCell]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: HiddenAndCell | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, HiddenAndCell]:
        if hx is not None:
            _sequence_checks.recurrent_pair("BatchNormLSTM", hx)
        y, (h, c) = self._run(input, hx, lengths)
        return y, (h, c)


class BatchNormLSTMCell(RecurrentCell):
    """One step of :class:`BatchNormLSTM`.

    Args:
        input_size, hidden_size, bias, device, dtype: as for ``torch.nn.LSTMCell``.
        norm, eps, momentum, max_steps: as for :class:`BatchNormLSTM`.

    Shape:
        input [N, I] or [I], states [N, H] or [H], ``step`` the time step, from 0 -> (h, c) of the states' shape.
        From max_steps on, each call updates the shared running statistics by itself.

    Example:
        >>> cell = BatchNormLSTMCell(3, 5)
        >>> h, c = cell(torch.randn(4, 3), step=0)
        >>> h, c = cell(torch.randn(4, 3), (h, c), step=1)
        >>> h.shape
        torch.Size([4, 5])
    """

    _norm_weight = 0.1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        norm: BatchPlacement = "separate",
        eps: float = 1e-5,
        momentum: float = 0.1,
        max_steps: int = 100,
    ) -> None:
        _step_statistics.check_arguments("BatchNormLSTMCell", max_steps, momentum, eps)
        super().__init__("LSTM", input_size, hidden_size, bias, device, dtype, norm=norm, norms=_PLACEMENTS, eps=eps)
        _add_statistics(self, "", max_steps, momentum, device, dtype)

    def _biased_norms(self, sizes: Mapping[str, int]) -> Sequence[str]:
        return _biased(sizes)

    def _cell(self) -> LSTM:
        return LSTM(weights_of(self, ""), _norms_of(self, ""))

    def forward(self, input: Tensor, hx: HiddenAndCell | None = None, *, step: int) -> HiddenAndCell:
        _sequence_checks.whole_number("BatchNormLSTMCell", "step", step, "give the number of the time step, from 0")
        if hx is not None:
            _sequence_checks.recurrent_pair("BatchNormLSTMCell", hx)
        cell = self._cell()
        h, c = _checks.as_call("BatchNormLSTMCell", self._run, cell, input, hx, step)
        _remember("BatchNormLSTMCell", [cell])
        return h, c


def _biased(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """BN_ih and BN_hh are followed by the layer's own biases."""
    return tuple(place for place in sizes if place in ("sum", "c"))


def _add_statistics(
    module: BatchNormLSTM | BatchNormLSTMCell, suffix: str, max_steps: int, momentum: float, device: Any, dtype: Any
) -> None:
    for place, size in sizes_of_norms("LSTM", module.norm, module.hidden_size).items():
        statistics = StepStatistics(size, max_steps, module.eps, momentum, device, dtype)
        module.add_module(f"statistics_{place}{suffix}", statistics)


def _norms_of(module: torch.nn.Module, suffix: str) -> Norms:
    found: dict[str, StepNorm] = {}
    for place in Norms._fields:
        statistics = getattr(module, f"statistics_{place}{suffix}", None)
        if statistics is not None:
            weight = wide(module, f"norm_weight_{place}{suffix}")
            assert weight is not None
            found[place] = StepNorm(statistics, weight, wide(module, f"norm_bias_{place}{suffix}"))
    return Norms(**found)


def _remember(call: str, cells: Sequence[Cell]) -> None:
    """Lets what a call has found enter the running statistics: of all norms, or of none where one cannot be written."""
    norms = [norm for cell in cells if isinstance(cell, LSTM) for norm in cell.norms if isinstance(norm, StepNorm)]
    for norm in norms:
        norm.statistics.check_writable(call)
    for norm in norms:
        norm.remember()
