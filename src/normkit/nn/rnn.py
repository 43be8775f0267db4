"""The plain RNN with LayerNorm or RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import _checks
from normkit.nn._recurrent import PLACEMENTS, Placement, Recurrent, row_norms_of, weights_of
from normkit.nn._recurrent_cell import RecurrentCell
from normkit.recurrence import RNN, Nonlinearity


class LayerNormRNN(Recurrent):
    """An RNN whose pre-activation is normalized, sequence by sequence and step by step.

    With p = W_ih x and q = W_hh h, and each LN over all H values:

        "sum"        h' = tanh(LN_sum(p + b_ih + q + b_hh))                               Ba et al., eq. 4
        "separate"   h' = tanh(LN_ih(p) + b_ih + LN_hh(q) + b_hh)                         as their eq. 20
        "input"      h' = tanh(LN_ih(p) + b_ih + q + b_hh)                                Laurent et al.
        "none"       h' = tanh(p + b_ih + q + b_hh)                                       torch.nn.RNN

    "rms_sum", "rms_separate" and "rms_input" have RMSNorm, which has no bias, in place of LN.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional: as for
            ``torch.nn.RNN``; nonlinearity "relu" takes the place of tanh. ``bias=False`` leaves out the norms'
            biases, too.
        device, dtype: of the parameters.
        norm: where to normalize, one of the names above.
        eps: added to the variance.

    Shape, Dtypes, Raises:
        As :class:`LayerNormLSTM`, with h alone as the state.

    Example:
        >>> import torch
        >>> layer = LayerNormRNN(3, 5)
        >>> y, h = layer(torch.randn(7, 4, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 4, 5]), torch.Size([1, 4, 5]))

    Differs from torch:
        torch has no such layer. With norm="none" it is ``torch.nn.RNN`` to rounding.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450; Laurent et al., "Batch
        Normalized Recurrent Neural Networks", 2015, https://arxiv.org/abs/1510.01378 (the placement); Zhang,
        Sennrich, "Root Mean Square Layer Normalization", 2019, https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        norm: Placement = "sum",
        eps: float = 1e-5,
    ) -> None:
        _checks.one_of("LayerNormRNN", "nonlinearity", nonlinearity, get_args(Nonlinearity))
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype, norm=norm, norms=PLACEMENTS, eps=eps,
        )  # fmt: skip
        self.nonlinearity: Nonlinearity = nonlinearity

    def _cell(self, suffix: str) -> RNN:
        norms = row_norms_of(self, self.mode, self.norm, self.hidden_size, self.eps, suffix)
        return RNN(weights_of(self, suffix), norms, self.nonlinearity)

    @overload
    def forward(
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: Tensor | None = None, *, lengths: None = None
    ) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Tensor]:
        y, (h,) = self._run(input, None if hx is None else (hx,), lengths)
        return y, h


class LayerNormRNNCell(RecurrentCell):
    """One step of :class:`LayerNormRNN`.

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as for ``torch.nn.RNNCell``.
        norm, eps: as for :class:`LayerNormRNN`.

    Shape:
        input [N, I] or [I], state [N, H] or [H] -> the state's shape.

    Example:
        >>> import torch
        >>> cell = LayerNormRNNCell(3, 5)
        >>> h = cell(torch.randn(4, 3))
        >>> cell(torch.randn(4, 3), h).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        norm: Placement = "sum",
        eps: float = 1e-5,
    ) -> None:
        _checks.one_of("LayerNormRNNCell", "nonlinearity", nonlinearity, get_args(Nonlinearity))
        super().__init__(
            "RNN_TANH", input_size, hidden_size, bias, device, dtype, norm=norm, norms=PLACEMENTS, eps=eps
        )  # fmt: skip
        self.nonlinearity: Nonlinearity = nonlinearity

    def _cell(self) -> RNN:
        norms = row_norms_of(self, "RNN_TANH", self.norm, self.hidden_size, self.eps, "")
        return RNN(weights_of(self, ""), norms, self.nonlinearity)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        (h,) = self._run(self._cell(), input, None if hx is None else (hx,))
        return h
