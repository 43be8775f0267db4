"""Whether a norm of another library computes what ours does: both on random input, forward and backward.

The bound. Each of the two differs from the exact result by rounding alone: in a chain of at most 8 roundings to the
dtype forward and 16 with the backward, each half an ulp or u = eps/2 relative, and in sums, which are accumulated
in float32 at least and err by 32 u of that times the sum of magnitudes. Input whose mean is m standard deviations
from 0 costs a factor 1 + m when it is centred. Everything is relative to the largest value of the tensor that is
compared; the gradient of a parameter is a sum over n terms of random sign, whose magnitudes add up to √n times that.
Two such results lie within twice that of each other.

In 16 bits this bound is wide, and would let another formula through. So a module in 16 bits is compared twice: in its
dtype, where it shows which dtypes it returns, and as a copy in float32, where it shows what it computes.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from normkit.surgery import known
from normkit.surgery.adoption import Bases, adopted
from normkit.surgery.forwards import ThenActivation
from normkit.surgery.replica import plain_state, replica

_LOW = (torch.bfloat16, torch.float16)
_FORWARD, _BACKWARD = 8, 16
_SUM = 32 * torch.finfo(torch.float32).eps / 2


class _Case(NamedTuple):
    """One experiment: the dtypes, and what the input looks like."""

    parameters: torch.dtype
    input: torch.dtype
    scale: float = 1.0
    offset: float = 0.0  # in units of the scale
    channels_last: bool = False
    training: bool = True
    required: bool = True  # what the original itself refuses may be refused


class MismatchError(Exception):
    """Why the two are not the same, in words for the report, and how far they are from it."""

    def __init__(self, reason: str, excess: float = math.inf) -> None:
        super().__init__(reason)
        self.excess = excess  # the difference over what rounding explains


def compare(module: torch.nn.Module, bases: Bases) -> MismatchError | None:
    """Why the forward of ``bases`` must not take the place of the module's; None if it may."""
    device, dtype = _home(module)
    try:
        with _quiet(device):
            for case in _cases(dtype, known.takes_maps(bases)):
                _compare(module, bases, case, device)
    except MismatchError as mismatch:
        return mismatch
    return None


def _home(module: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            return t.device, t.dtype
    return torch.device("cpu"), torch.float32


@contextlib.contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Nothing of the caller's surroundings changes the outcome, and nothing of ours reaches them."""
    devices = [device] if device.type == "cuda" else []
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        warnings.simplefilter("ignore")
        yield


def _cases(dtype: torch.dtype, maps: bool) -> list[_Case]:
    exact = torch.float32 if dtype in _LOW else dtype
    cases = [_Case(dtype, dtype)] if dtype in _LOW else []
    # Scales at which the usual eps of 1e-6 and 1e-5 are as large as the variance; an offset, which centring removes.
    cases += [_Case(exact, exact, scale, offset) for scale, offset in ((1, 0), (1, 2), (2e-3, 0), (0, 0))]
    cases += [_Case(exact, exact, training=False, offset=1)]
    if maps:
        cases += [_Case(exact, exact, channels_last=True)]
    # What mixed precision makes of it: the dtype of the result is part of what a model relies on.
    if dtype in _LOW:
        cases += [_Case(dtype, torch.float32, required=False)]
    elif dtype == torch.float32:
        cases += [_Case(dtype, torch.bfloat16, required=False)]
    return cases


class _Outcome(NamedTuple):
    y: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]  # after the call


def _compare(module: torch.nn.Module, bases: Bases, case: _Case, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = _replica(module, bases, case, generator)
    ours = _replica(module, bases, case, generator.manual_seed(0))
    ours.__class__ = adopted(type(ours), bases)
    x = _input(module, bases, case, generator).to(device)
    dy_seed = torch.Generator().manual_seed(1)
    before = plain_state(theirs)
    try:
        expected = _run(theirs, x, dy_seed)
    except Exception as error:
        if not case.required:
            return
        raise MismatchError(f"its forward raises on input {_described(x)}: {_first_line(error)}") from None
    if plain_state(theirs) != before:
        raise MismatchError("its forward changes what the module stores")
    try:
        got = _run(ours, x, dy_seed.manual_seed(1))
    except Exception as error:
        raise MismatchError(f"normkit's raises on input {_described(x)}: {_first_line(error)}") from None
    _check_outcomes(expected, got, case)


def _replica(module: torch.nn.Module, bases: Bases, case: _Case, generator: torch.Generator) -> torch.nn.Module:
    try:
        twin = replica(module, generator)
    except Exception as error:
        raise MismatchError(f"it cannot be copied, to be compared: {_first_line(error)}") from None
    if ThenActivation in bases:
        # A rounding before the kink of a ReLU can end on the other side of it, with another gradient. Whatever
        # the module calls as its activation is smooth in both.
        twin.act = torch.nn.Tanh()
    return twin.to(case.parameters).train(case.training)


def _input(module: torch.nn.Module, bases: Bases, case: _Case, generator: torch.Generator) -> Tensor:
    size = _size(module)
    shape = (3, size[0], 5, 7) if known.takes_maps(bases) else (3, 5, *size)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + case.offset) * case.scale
    x = x.to(case.input)
    return x.contiguous(memory_format=torch.channels_last) if case.channels_last else x


def _size(module: torch.nn.Module) -> tuple[int, ...]:
    """The sizes that one parameter has, or for a norm without any some size."""
    for name in ("normalized_shape", "num_features", "num_channels"):
        size = getattr(module, name, None)
        if size is not None:
            return (size,) if isinstance(size, int) else tuple(size)
    weight = getattr(module, "weight", None)
    return (24,) if weight is None or weight.dim() == 0 else tuple(weight.shape)


def _run(module: torch.nn.Module, x: Tensor, generator: torch.Generator) -> _Outcome:
    x = x.clone().requires_grad_()
    torch.manual_seed(0)  # of a fork: a dropout in the module drops the same for both
    y = module.forward(x.view_as(x))  # a view: an activation may work in place
    if not isinstance(y, Tensor) or not y.requires_grad:
        raise TypeError(f"it returned {type(y).__name__} without a gradient")
    dy = torch.randn(y.shape, generator=generator).to(y)
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(y, [x, *parameters.values()], dy, allow_unused=True)
    gradients = {k: g for k, g in zip(("input", *parameters), found, strict=True) if g is not None}
    return _Outcome(y.detach(), gradients, {**parameters, **dict(module.named_buffers())})


def _check_outcomes(expected: _Outcome, got: _Outcome, case: _Case) -> None:
    conditioning = 1 + abs(case.offset)
    if expected.y.dim() == 4 and _is_channels_last(expected.y) != _is_channels_last(got.y):
        raise MismatchError("the memory format of its output is another than that of normkit's")
    _check("output", expected.y, got.y, conditioning * _bound(_FORWARD, case), case)
    if expected.gradients.keys() != got.gradients.keys():
        raise MismatchError(
            f"gradients flow to {sorted(expected.gradients)}, and with normkit's to {sorted(got.gradients)}"
        )
    for name, gradient in expected.gradients.items():
        n_terms = 1 if name == "input" else expected.y.numel() / max(gradient.numel(), 1)
        bound = conditioning * math.sqrt(n_terms) * _bound(_BACKWARD, case)
        _check(f"gradient of {name}", gradient, got.gradients[name], bound, case)
    for name, tensor in expected.state.items():
        _check(f"{name} after a call", tensor, got.state[name], conditioning * _bound(_FORWARD, case), case)


def _is_channels_last(y: Tensor) -> bool:
    """What convolutions that follow go by."""
    return y.is_contiguous(memory_format=torch.channels_last)


def _bound(roundings: int, case: _Case) -> float:
    """Twice the relative error of one: roundings to the widest unit in play, and the sums."""
    u = max(torch.finfo(d).eps for d in (case.parameters, case.input)) / 2
    sums = 32 * u if case.parameters == case.input == torch.float64 else _SUM
    return 2 * (roundings * u + sums)


def _check(what: str, expected: Tensor, got: Tensor, bound: float, case: _Case) -> None:
    where = "" if case.parameters == case.input else f" for {_name(case.input)} input"
    if (expected.dtype, expected.shape) != (got.dtype, got.shape):
        raise MismatchError(f"its {what} is {_described(expected)}{where}, and normkit's {_described(got)}")
    if expected.numel() == 0 or torch.equal(expected, got):
        return
    wide, ours = expected.detach().double(), got.detach().double()
    error = (wide - ours).abs().max() / torch.maximum(wide.abs().max(), ours.abs().max())
    if not error <= bound:
        raise MismatchError(
            f"its {what} differs from normkit's by {error:.1e} of the largest value{where}, where rounding in "
            f"{_name(case.parameters)} explains {bound:.1e}",
            float(error) / bound,
        )


def _described(t: Tensor) -> str:
    return f"{_name(t.dtype)} {list(t.shape)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
