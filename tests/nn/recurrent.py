"""The recurrent layers, beside torch's, and the runs that tests compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit import nn

State = tuple[Tensor, ...]
ROW_PLACEMENTS = ("none", "sum", "separate", "input", "rms_sum", "rms_separate", "rms_input")
BATCH_PLACEMENTS = ("none", "sum", "separate", "input")


@dataclass(frozen=True)
class Recurrent:
    """One recurrent layer, its cell, and torch's."""

    layer: Callable[..., torch.nn.RNNBase]
    cell: Callable[..., torch.nn.RNNCellBase]
    torch_layer: Callable[..., torch.nn.RNNBase]
    torch_cell: Callable[..., torch.nn.RNNCellBase]
    placements: Sequence[str] = ROW_PLACEMENTS

    def build(self, *args: Any, seed: int = 0, **options: Any) -> torch.nn.RNNBase:
        """The layer with random parameters and running statistics."""
        torch.manual_seed(seed)
        return randomize(self.layer(*args, **options))

    @property
    def has_c(self) -> bool:
        return self.torch_layer is torch.nn.LSTM

    def __str__(self) -> str:
        return self.layer.__name__


LSTM = Recurrent(nn.LayerNormLSTM, nn.LayerNormLSTMCell, torch.nn.LSTM, torch.nn.LSTMCell)
GRU = Recurrent(nn.LayerNormGRU, nn.LayerNormGRUCell, torch.nn.GRU, torch.nn.GRUCell)
RNN = Recurrent(nn.LayerNormRNN, nn.LayerNormRNNCell, torch.nn.RNN, torch.nn.RNNCell)
BATCH_LSTM = Recurrent(
    nn.BatchNormLSTM, nn.BatchNormLSTMCell, torch.nn.LSTM, torch.nn.LSTMCell, placements=BATCH_PLACEMENTS
)
ROW_LAYERS = (LSTM, GRU, RNN)
ALL = (*ROW_LAYERS, BATCH_LSTM)
PLACED = [(layer, norm) for layer in ALL for norm in layer.placements]


def placed_id(value: object) -> str:
    return str(value)


def randomize(layer: torch.nn.Module) -> Any:
    """Norm parameters away from 1 and 0, running statistics away from their start."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("norm_"):
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    return layer


def flat(result: Any) -> list[Tensor]:
    """The output and the states, whatever form they have."""
    output, states = result
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(states if isinstance(states, tuple) else (states,))]


def weighted_sum(tensors: Sequence[Tensor]) -> Tensor:
    """A loss with random weights, the same for tensors of the same sizes in the same order, whatever their dtype."""
    generator = torch.Generator().manual_seed(1)
    return sum(((t * torch.randn(t.shape, generator=generator).to(t.dtype)).sum() for t in tensors), torch.zeros(()))


def step_of(case: Recurrent, step: int = 0) -> dict[str, int]:
    """What a cell is told beside its input and state: recurrent BatchNorm's the number of the step."""
    return {"step": step} if case is BATCH_LSTM else {}
