"""The LSTM with LayerNorm or RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import _sequence_checks
from normkit.nn._recurrent import PLACEMENTS, Placement, Recurrent, row_norms_of, weights_of
from normkit.nn._recurrent_cell import RecurrentCell
from normkit.recurrence import LSTM

HiddenAndCell = tuple[Tensor, Tensor]


class LayerNormLSTM(Recurrent):
    """An LSTM whose gates and cell are normalized, sequence by sequence and step by step.

    With p = W_ih x and q = W_hh h, gates in torch's order:

        "separate"   a = LN_ih(p) + b_ih + LN_hh(q) + b_hh,   h' = o·tanh(LN_c(c'))      Ba et al., eq. 20-22
        "sum"        a = LN_sum(p + b_ih + q + b_hh)                                      as their eq. 4
        "input"      a = LN_ih(p) + b_ih + q + b_hh                                       Laurent et al.
        "none"       a = p + b_ih + q + b_hh                                              torch.nn.LSTM

        (i, f, g, o) = a,   c' = sigmoid(f)·c + sigmoid(i)·tanh(g),   h' = sigmoid(o)·tanh(c')

    LN is over all 4H values of the gates together (LN_c: the H values of the cell), with the population variance
    and eps inside the root. "rms_separate", "rms_sum" and "rms_input" have RMSNorm, which has no bias, in its place.
    c' itself goes on to the next step as it is; what is normalized is its way into h'.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: as for
            ``torch.nn.LSTM``. ``bias=False`` leaves out the norms' biases, too.
        device, dtype: of the parameters.
        norm: where to normalize, one of the names above.
        eps: added to the variance.

    Shape:
        As ``torch.nn.LSTM``: [T, N, I], with ``batch_first`` [N, T, I], unbatched [T, I], or a PackedSequence;
        states [layers · directions, N, ·]. With ``lengths``, N integers, a padded batch is read as if it were
        packed: no sequence past its own end, outputs zero there, states those at the end of each.

    Dtypes:
        float32, float64, bfloat16, float16. 16-bit sequences, and all under autocast, are computed in float32 with
        float32 states from step to step; what is returned is rounded once.

    Raises:
        ShapeError: the input's rank or size, the initial state's shape, or lengths do not fit; a sequence is
            empty; the rows of a PackedSequence are not sorted; a parameter has been replaced by one of another size.
        DtypeError, DeviceError: input, states and weights do not lie together.
        ArgumentError: norm is not one of the names, dropout or eps is outside its range.

    Example:
        >>> import torch
        >>> layer = LayerNormLSTM(3, 5, num_layers=2, bidirectional=True)
        >>> y, (h, c) = layer(torch.randn(7, 4, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 4, 10]), torch.Size([4, 4, 5]))
        >>> plain = LayerNormLSTM(3, 5, norm="none")
        >>> plain.load_state_dict(torch.nn.LSTM(3, 5).state_dict())
        <All keys matched successfully>

    Differs from torch:
        torch has no such layer. With norm="none" it is ``torch.nn.LSTM`` to rounding. Weights have torch's names;
        the norms' are norm_weight_ih_l0, norm_bias_ih_l0 and so on, with ih, hh, c or sum for the place. The
        class is a ``torch.nn.RNNBase``, but not a ``torch.nn.LSTM``, so that ``torch.compile`` takes it whole.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450;
        Laurent et al., "Batch Normalized Recurrent Neural Networks", 2015, https://arxiv.org/abs/1510.01378
        (the placement); Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019,
        https://arxiv.org/abs/1910.07467
    """

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
        norm: Placement = "separate",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype, norm=norm, norms=PLACEMENTS, eps=eps,
        )  # fmt: skip

    def _cell(self, suffix: str) -> LSTM:
        norms = row_norms_of(self, "LSTM", self.norm, self.hidden_size, self.eps, suffix)
        return LSTM(weights_of(self, suffix), norms)

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
            _sequence_checks.recurrent_pair("LayerNormLSTM", hx)
        y, (h, c) = self._run(input, hx, lengths)
        return y, (h, c)


class LayerNormLSTMCell(RecurrentCell):
    """One step of :class:`LayerNormLSTM`.

    Args:
        input_size, hidden_size, bias, device, dtype: as for ``torch.nn.LSTMCell``.
        norm, eps: as for :class:`LayerNormLSTM`.

    Shape:
        input [N, I] or [I], states [N, H] or [H] -> (h, c) of the states' shape.

    Example:
        >>> import torch
        >>> cell = LayerNormLSTMCell(3, 5)
        >>> h, c = cell(torch.randn(4, 3))
        >>> h, c = cell(torch.randn(4, 3), (h, c))
        >>> h.shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        norm: Placement = "separate",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, bias, device, dtype, norm=norm, norms=PLACEMENTS, eps=eps
        )  # fmt: skip

    def _cell(self) -> LSTM:
        norms = row_norms_of(self, "LSTM", self.norm, self.hidden_size, self.eps, "")
        return LSTM(weights_of(self, ""), norms)

    def forward(self, input: Tensor, hx: HiddenAndCell | None = None) -> HiddenAndCell:
        if hx is not None:
            _sequence_checks.recurrent_pair("LayerNormLSTMCell", hx)
        h, c = self._run(self._cell(), input, hx)
        return h, c
