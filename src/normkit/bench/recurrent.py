"""The recurrent layers beside torch's, which have no norm, and beside loops of the same maths: gate, then clock."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

import normkit.nn as nk
from normkit.bench.cases import MODES, Mode, Sequences
from normkit.bench.gate import FLOAT32_ROUNDOFF
from normkit.bench.loops import LOOPS, USUAL_LOOPS
from normkit.bench.problem import SEED
from normkit.bench.results import RecurrentResult
from normkit.bench.timing import Call, Plan, take_turns

GATED = ("usual", "loop", "normkit")  # torch's layer does other maths: a yardstick, as the copy is elsewhere
# Each of T steps rounds products of H terms, by u·√H of the largest value, and more in three norms of 4 roundings each,
# five curves of 2 units each, and 6 products and sums: an LSTM's, which has the most. Where the recurrence neither
# damps nor amplifies, T of these add up to u·√(T·(H + 38)); four times that is left to the worst of all values.
TOLERANCE = 4.0 * FLOAT32_ROUNDOFF
BESIDE_PRODUCTS = 3 * 4 + 5 * 2**2 + 6
# With norms' weights of 1 an LSTM of these sizes is chaotic: rounding doubles every few steps, and no two float32
# computations agree at the end. Weights around this one keep it from growing.
NORM_WEIGHT = 0.3

_PLAIN: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN, "batch_lstm": nn.LSTM}
)
_OURS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"lstm": nk.LayerNormLSTM, "gru": nk.LayerNormGRU, "rnn": nk.LayerNormRNN, "batch_lstm": nk.BatchNormLSTM}
)


@dataclass(frozen=True)
class Runner:
    """One side with its tensors, ready to be called."""

    module: nn.Module  # holds the parameters
    call: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]  # the module and x to y and the last states
    x: Tensor
    dy: Tensor

    def forward(self) -> tuple[Tensor, ...]:
        return self.call(self.module, self.x)

    def training(self) -> tuple[Tensor, ...]:
        """A forward and a backward: y and the last states, then the gradients of x and of the parameters."""
        outputs = self.forward()
        return *outputs, *torch.autograd.grad(outputs[0], (self.x, *self.module.parameters()), self.dy)

    def in_float64(self) -> Runner:
        x, dy = (t.detach().double() for t in (self.x, self.dy))
        return Runner(copy.deepcopy(self.module).double(), self.call, x.requires_grad_(), dy)


def runners(case: Sequences) -> dict[str, Runner]:
    """Every side, on the same input and in training; the loops share the parameters of the layer."""
    n_steps, n_sequences, n_inputs, n_hidden = case.shape
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        x = torch.randn(n_steps, n_sequences, n_inputs).requires_grad_()
        dy = torch.randn(n_steps, n_sequences, n_hidden)
        plain, ours = _PLAIN[case.op](n_inputs, n_hidden), _OURS[case.op](n_inputs, n_hidden)
        for name, p in ours.named_parameters():
            if name.startswith("norm"):
                nn.init.normal_(p, NORM_WEIGHT if "weight" in name else 0.0, 0.05)
    return {
        "torch": Runner(plain, _flat, x, dy),
        "usual": Runner(ours, USUAL_LOOPS[case.op], x, dy),
        "loop": Runner(ours, LOOPS[case.op], x, dy),
        "normkit": Runner(ours, _flat, x, dy),
    }


def measure_recurrent(
    cases: Sequence[Sequences],
    plan: Plan,
    on_start: Callable[[str], None],
    *,
    build: Callable[[Sequences], dict[str, Runner]] = runners,
) -> Iterator[RecurrentResult]:
    """Both modes of each case, the sides by turns.

    Args:
        cases: what to time.
        plan: for how long each.
        on_start: told what is under way.
        build: makes the sides.
    """
    for case in cases:
        on_start(str(case))
        yield from _measure_case(case, build(case), plan)


def _measure_case(case: Sequences, sides: dict[str, Runner], plan: Plan) -> Iterator[RecurrentResult]:
    # The layer is held against the loop, which knows nothing of how the layer computes.
    right = sides["loop"].in_float64().training()
    for mode in MODES:
        shares = {side: _error_share(case, sides[side], right, mode) for side in GATED}
        wrong = [f"{side} is off by {share:.3g} times" for side, share in shares.items() if not share <= 1]
        if wrong:
            message = f"{'; '.join(wrong)} what is allowed"
            yield RecurrentResult(case, mode, "red", message, error_shares=shares)
            continue
        calls: dict[str, Call] = {side: one.forward if mode == "fwd" else one.training for side, one in sides.items()}
        with torch.no_grad() if mode == "fwd" else nullcontext():
            times = take_turns(calls, plan)
        yield RecurrentResult(case, mode, "timed", times=times, error_shares=shares)


def _error_share(case: Sequences, one: Runner, right: Sequence[Tensor], mode: Mode) -> float:
    """The largest error of any tensor, by its largest value, as a share of what is allowed; NaN is kept."""
    n_steps, _, _, n_hidden = case.shape
    if mode == "fwd":
        with torch.no_grad():
            found = one.forward()
    else:
        found = one.training()
    allowed = TOLERANCE * math.sqrt(n_steps * (n_hidden + BESIDE_PRODUCTS))
    errors = [
        (a.detach().double() - b.detach()).abs().max() / b.detach().abs().max()
        for a, b in zip(found, right[: len(found)], strict=True)
    ]
    return float(torch.stack(errors).max()) / allowed


def _flat(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """y and the last states of a layer called as torch's are, without the states' leading dimension of 1."""
    y, last = layer(x)
    return y, *(s[0] for s in (last if isinstance(last, tuple) else (last,)))
