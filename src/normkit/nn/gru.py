"""The GRU with LayerNorm or RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit.nn._recurrent import PLACEMENTS, Placement, Recurrent, row_norms_of, weights_of
from normkit.nn._recurrent_cell import RecurrentCell
from normkit.recurrence import GRU


class LayerNormGRU(Recurrent):
    """A GRU whose gates are normalized, sequence by sequence and step by step.

    With p = W_ih x and q = W_hh h, gates in torch's order, and each LN over the 2H values of r and z together and
    over the H of n by themselves:

        "separate"   p' = LN_ih(p) + b_ih,   q' = LN_hh(q) + b_hh                         Ba et al., eq. 26-28
        "input"      p' = LN_ih(p) + b_ih,   q' = q + b_hh                                Laurent et al.
        "sum", "none"   p' = p + b_ih,   q' = q + b_hh

        (r, z) = sigmoid(p'_rz + q'_rz),   n = tanh(p'_n + r·q'_n),   h' = (1 − z)·n + z·h

    "sum" normalizes what enters sigmoid and tanh, LN_sum(p'_rz + q'_rz) and LN_sum(p'_n + r·q'_n), as their equation
    4 does for an RNN. z keeps the old state, as in torch; theirs lets the new one in. "rms_separate", "rms_sum" and
    "rms_input" have RMSNorm, which has no bias, in place of LN.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as for ``torch.nn.GRU``.
            ``bias=False`` leaves out the norms' biases, too.
        device, dtype: of the parameters.
        norm: where to normalize, one of the names above.
        eps: added to the variance.

    Shape, Dtypes, Raises:
        As :class:`LayerNormLSTM`, with h alone as the state.

    Example:
        >>> import torch
        >>> layer = LayerNormGRU(3, 5)
        >>> y, h = layer(torch.randn(7, 4, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 4, 5]), torch.Size([1, 4, 5]))

    Differs from torch:
        torch has no such layer. With norm="none" it is ``torch.nn.GRU`` to rounding.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450, and its authors' code,
        https://github.com/ryankiros/layer-norm; Laurent et al., "Batch Normalized Recurrent Neural Networks",
        2015, https://arxiv.org/abs/1510.01378 (the placement); Zhang, Sennrich, "Root Mean Square Layer
        Normalization", 2019, https://arxiv.org/abs/1910.07467
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
        device: Any = None,
        dtype: Any = None,
        *,
        norm: Placement = "separate",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype, norm=norm, norms=PLACEMENTS, eps=eps,
        )  # fmt: skip

    def _cell(self, suffix: str) -> GRU:
        return GRU(weights_of(self, suffix), row_norms_of(self, "GRU", self.norm, self.hidden_size, self.eps, suffix))

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


class LayerNormGRUCell(RecurrentCell):
    """One step of :class:`LayerNormGRU`.

    Args:
        input_size, hidden_size, bias, device, dtype: as for ``torch.nn.GRUCell``.
        norm, eps: as for :class:`LayerNormGRU`.

    Shape:
        input [N, I] or [I], state [N, H] or [H] -> the state's shape.

    Example:
        >>> import torch
        >>> cell = LayerNormGRUCell(3, 5)
        >>> h = cell(torch.randn(4, 3))
        >>> cell(torch.randn(4, 3), h).shape
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
        super().__init__("GRU", input_size, hidden_size, bias, device, dtype, norm=norm, norms=PLACEMENTS, eps=eps)

    def _cell(self) -> GRU:
        return GRU(weights_of(self, ""), row_norms_of(self, "GRU", self.norm, self.hidden_size, self.eps, ""))

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        (h,) = self._run(self._cell(), input, None if hx is None else (hx,))
        return h
