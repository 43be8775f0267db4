"""A recurrent network whose pre-activations are normalized, written to be read beside the papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normkit.lab.norms import NormFactory


class NormLSTM(nn.Module):
    """An LSTM with a norm on each term of the gates and on the cell before the output.

    [i f g o] = norm_x(W_x x_t) + norm_h(W_h h_{t-1}) + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(norm_c(c_t))

    Args:
        input_size, hidden_size: as for ``torch.nn.LSTM``.
        steps: the longest sequence.
        norm: makes the three norms.

    Shape: x [N, T, input_size], lengths [N] or None for T each -> the state [N, hidden_size] at the last
    step of each sequence. A step past a sequence's end is never computed, so that padding changes nothing,
    the statistics of a batch norm included.

    Source: Ba et al. 2016, "Layer Normalization", equations 20-22, https://arxiv.org/abs/1607.06450, and
    Cooijmans et al. 2016, "Recurrent Batch Normalization", equations 6-8, https://arxiv.org/abs/1603.09025
    """

    def __init__(self, input_size: int, hidden_size: int, *, steps: int, norm: NormFactory) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.norm_x = norm.recurrent(4 * hidden_size, steps)
        self.norm_h = norm.recurrent(4 * hidden_size, steps)
        self.norm_c = norm.recurrent(hidden_size, steps)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            return self._last_states(x, [x.shape[0]] * x.shape[1])
        longest_first = torch.argsort(lengths, descending=True, stable=True)
        alive = (lengths[:, None] > torch.arange(x.shape[1])).sum(dim=0)  # [T] sequences that reach each step
        states = self._last_states(x[longest_first], [n for n in alive.tolist() if n > 0])
        return states[torch.argsort(longest_first)]

    def _last_states(self, x: Tensor, alive: list[int]) -> Tensor:
        """The state at the end of each sequence of x [N, T, input_size]; alive[t] of them reach step t."""
        inputs = self.norm_x.sequence(self.input(x.transpose(0, 1)), alive)
        h = c = x.new_zeros(x.shape[0], self.recurrent.in_features)
        ended = []  # states of the sequences that are over, the shortest first
        for t, n in enumerate(alive):
            ended.append(h[n:])
            gates = inputs[t] + self.norm_h(self.recurrent(h[:n]), t) + self.bias
            i, f, g, o = gates.chunk(4, dim=1)
            c = torch.sigmoid(f) * c[:n] + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_c(c, t))
        return torch.cat([h, *reversed(ended)])
