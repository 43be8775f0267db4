"""Every check of an argument, and the wording of every message.

The form is ``call: expected rule, got value; do this.`` Checks run before anything is computed or changed, so a
call that raises leaves its tensors and its module as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normkit.errors import ArgumentError, DeviceError, DtypeError, NormkitError, ShapeError, SingleValueError

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LOW_PRECISION = (torch.bfloat16, torch.float16)

T = TypeVar("T")


def as_call(call: str, function: Callable[..., T], *args: object, **options: object) -> T:
    """What the function returns; its errors name ``call``, the layer that the user called, in the function's place."""
    try:
        return function(*args, **options)
    except NormkitError as error:
        raise of_call(call, error) from None


def of_call(call: str, error: NormkitError) -> NormkitError:
    """The error, naming ``call``."""
    _, _, rest = str(error).partition(":")
    return type(error)(f"{call}:{rest}")


def tensor(call: str, name: str, value: object) -> None:
    """The argument is a tensor of a dtype that can be normalized."""
    if not isinstance(value, Tensor):
        advice = "convert it with torch.as_tensor"
        if isinstance(value, PackedSequence):
            advice = "give it to a layer of sequences, or its data to this one"
        raise DtypeError(f"{call}: expected {name} to be a torch.Tensor, got {type(value).__name__}; {advice}.")
    if value.dtype not in FLOATING:
        if value.dtype.is_complex:
            advice = "normalize the real and the imaginary part, or the magnitude"
        elif value.dtype.is_floating_point:
            advice = "convert it to bfloat16 or float32"
        else:
            advice = "call .float() on it"
        raise DtypeError(
            f"{call}: expected {name} of dtype float32, float64, bfloat16 or float16, "
            f"got {dtype_name(value)}; {advice}."
        )
    if value.layout != torch.strided and not value.is_nested:
        layout = str(value.layout).removeprefix("torch.")
        raise DtypeError(f"{call}: expected {name} to be a dense tensor, got {layout}; call .to_dense() on it.")


def eps(call: str, value: float, *, positive: bool = False) -> float:
    """eps is a finite number, not negative; positive where a zero would divide by zero."""
    number = as_number(value)
    if number is not None and 0 <= number < math.inf and not (positive and number == 0):
        return number
    rule = "positive" if positive else "at least 0"
    error = DtypeError if number is None else ArgumentError
    raise error(f"{call}: expected eps to be a finite number, {rule}, got {value!r}; 1e-5 is usual.")


def as_number(value: object) -> float | None:
    """The number that a Python or NumPy number, or a tensor of one element, stands for."""
    try:
        return None if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def activation(call: str, value: object) -> None:
    """One of the activations that go with a norm, or none."""
    if value not in (None, "relu", "silu", "gelu"):
        raise ArgumentError(
            f"{call}: expected activation to be None, 'relu', 'silu' or 'gelu', got {value!r}; "
            f"apply another function to the output."
        )


def probability(call: str, name: str, value: float) -> None:
    """A probability of dropping: 0 <= p < 1 would leave nothing at 1, but torch allows 1, so do we."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ArgumentError(f"{call}: expected {name} between 0 and 1, got {value!r}; 0.0 drops nothing.")


def size(call: str, name: str, value: object) -> None:
    """A size given to a constructor is an integer, not negative."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DtypeError(f"{call}: expected {name} to be an integer, got {value!r}; give the number of channels.")
    if value.__index__() < 0:
        raise ShapeError(f"{call}: expected {name} of at least 0, got {value!r}; give the number of channels.")


def momentum(call: str, value: object, *, or_none: bool = True) -> None:
    """momentum is a number, or None for the cumulative average."""
    number = 0.0 if value is None and or_none else as_number(value)
    if number is not None and -math.inf < number < math.inf:
        return
    error = DtypeError if number is None else ArgumentError
    if not or_none:
        raise error(f"{call}: expected momentum to be a number, got {value!r}; 0.1 is usual.")
    raise error(
        f"{call}: expected momentum to be a number or None, got {value!r}; "
        f"0.1 is usual, None averages over all batches."
    )


def normalized_shape(call: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """normalized_shape as a tuple of at least one size."""
    sizes = value if hasattr(value, "__iter__") else (value,)
    try:
        if isinstance(value, bool):
            raise TypeError
        shape = tuple(int(size.__index__()) for size in sizes)
    except (TypeError, AttributeError):
        raise DtypeError(
            f"{call}: expected normalized_shape to be an integer or a sequence of integers, got {value!r}; "
            f"give the sizes of the trailing axes to normalize over."
        ) from None
    if not shape or min(shape) < 0:
        raise ShapeError(
            f"{call}: expected normalized_shape to hold at least one size, none negative, got {list(shape)}; "
            f"give the sizes of the trailing axes to normalize over."
        )
    return shape


def trailing(call: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """The last axes of x are the normalized shape."""
    if tuple(x.shape[x.dim() - len(shape) :]) != shape or x.dim() < len(shape):
        raise ShapeError(
            f"{call}: expected input of shape [*, {', '.join(map(str, shape))}] for "
            f"normalized_shape={list(shape)}, got {list(x.shape)}; "
            f"build the layer for the sizes of the last {_axes(len(shape))}, or move what it normalizes there."
        )


def _axes(n: int) -> str:
    return "axis" if n == 1 else f"{n} axes"


def groups(call: str, num_groups: int, num_channels: int) -> None:
    """num_groups divides num_channels."""
    if isinstance(num_groups, bool) or not hasattr(num_groups, "__index__"):
        raise DtypeError(f"{call}: expected num_groups to be an integer, got {num_groups!r}; 32 is usual.")
    if num_groups >= 1 and num_channels % num_groups == 0:
        return
    raise ShapeError(
        f"{call}: expected num_channels divisible by num_groups, got {num_channels} and {num_groups}; "
        f"use num_groups={_nearest_divisors(num_channels, num_groups)}."
    )


def _nearest_divisors(n: int, wanted: int) -> str:
    """The divisors of n on either side of the one wanted, as words."""
    divisors = [d for d in range(1, n + 1) if n % d == 0] or [1]
    below = [d for d in divisors if d < wanted]
    above = [d for d in divisors if d > wanted]
    return " or ".join(str(d) for d in below[-1:] + above[:1])


def rank(call: str, x: Tensor, layouts: tuple[str, ...]) -> None:
    """x has as many axes as one of the layouts names: "N, C, L" stands for three. What is nested lacks one."""
    if x.is_nested:
        raise ShapeError(
            f"{call}: expected input of shape ({layouts[0]}), got a nested tensor; pad it with "
            f"torch.nested.to_padded_tensor, and say what counts with mask= where the layer takes one."
        )
    for layout in layouts:
        if x.dim() == layout.count(",") + 1:
            return
    ranks = {layout.count(",") + 1: layout for layout in layouts}
    expected = " or ".join(f"{r}-d ({layout})" for r, layout in ranks.items())
    if x.dim() + 1 in ranks:
        advice = "add the missing axis, for one sample with .unsqueeze(0)"
    else:
        advice = "use the layer for that number of axes, or reshape"
    raise ShapeError(f"{call}: expected {expected} input, got {x.dim()}-d {list(x.shape)}; {advice}.")


def at_least_2d(call: str, x: Tensor) -> None:
    """x has a sample and a channel axis."""
    if x.dim() < 2:
        raise ShapeError(
            f"{call}: expected input of shape (N, C, *), got {x.dim()}-d {list(x.shape)}; "
            f"add the sample axis with .unsqueeze(0)."
        )


def channels(call: str, x: Tensor, expected: int, axis: int = 1) -> None:
    """The channel axis has the size that the layer was built for."""
    got = x.shape[axis]
    if got == expected:
        return
    others = [a for a, s in enumerate(x.shape) if s == expected and a != axis]
    if others:
        advice = f"axis {others[-1]} has {expected}: move it to axis {axis}, or build the layer for {got} channels"
    else:
        advice = f"build the layer for {got} channels"
    raise ShapeError(
        f"{call}: expected {expected} channels on axis {axis}, got {got} in input of shape {list(x.shape)}; {advice}."
    )


def values_per_statistic(call: str, x: Tensor, count: int, unit: str, advice: str) -> None:
    """More than one value enters each statistic: of one value, the normalized output is 0 whatever it was."""
    if count == 1 and x.numel() > 0:
        raise SingleValueError(
            f"{call}: expected more than 1 value per {unit}, got 1 in input of shape {list(x.shape)}; "
            f"the output would not depend on the input; {advice}."
        )


def parameter(call: str, name: str, value: Tensor | None, shape: tuple[int, ...], x: Tensor) -> None:
    """A weight, bias or running statistic has the right shape and lies where x lies."""
    if value is None:
        return
    tensor(call, name, value)
    if tuple(value.shape) != shape:
        raise ShapeError(
            f"{call}: expected {name} of shape {list(shape)} for input of shape {list(x.shape)}, "
            f"got {list(value.shape)}; build the layer for the input's size."
        )
    if value.device != x.device:
        raise DeviceError(
            f"{call}: expected {name} on the input's device {x.device}, got {value.device}; "
            f"move one of them with .to(...)."
        )


def parameter_dtype(call: str, name: str, value: Tensor | None, x: Tensor) -> None:
    """A weight or bias has the input's dtype, or float32 beside 16-bit input."""
    if value is None or value.dtype == x.dtype or (x.dtype in LOW_PRECISION and value.dtype == torch.float32):
        return
    allowed = dtype_name(x) + (" or float32" if x.dtype in LOW_PRECISION else "")
    raise DtypeError(
        f"{call}: expected {name} of dtype {allowed} for {dtype_name(x)} input, got {dtype_name(value)}; "
        f"convert the input with .to({value.dtype}) or the layer with .to({x.dtype})."
    )


def residual(call: str, x: Tensor, value: Tensor) -> None:
    """The residual has the shape, dtype and device of the input that is added to it."""
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        raise DtypeError(f"{call}: expected residual to be of the input's dtype, got bool; give a mask by name: mask=.")
    tensor(call, "residual", value)
    if value.shape != x.shape:
        raise ShapeError(
            f"{call}: expected residual of the input's shape {list(x.shape)}, got {list(value.shape)}; "
            f"expand it first if broadcasting is meant."
        )
    if value.dtype != x.dtype:
        raise DtypeError(
            f"{call}: expected residual of the input's dtype {dtype_name(x)}, got {dtype_name(value)}; "
            f"convert one of them with .to(...)."
        )
    if value.device != x.device:
        raise DeviceError(
            f"{call}: expected residual on the input's device {x.device}, got {value.device}; "
            f"move one of them with .to(...)."
        )


def out(call: str, x: Tensor, value: Tensor, *others: Tensor | None) -> None:
    """The result may be written into out: like the input, without a gradient, and overlapping nothing but the input."""
    tensor(call, "input", x)
    tensor(call, "out", value)
    if value.shape != x.shape:
        raise ShapeError(
            f"{call}: expected out of the input's shape {list(x.shape)}, got {list(value.shape)}; "
            f"make it with torch.empty_like(input)."
        )
    if value.dtype != x.dtype or value.device != x.device:
        error = DtypeError if value.dtype != x.dtype else DeviceError
        raise error(
            f"{call}: expected out of the input's dtype and device, {dtype_name(x)} on {x.device}, "
            f"got {dtype_name(value)} on {value.device}; make it with torch.empty_like(input)."
        )
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (value, x, *others)):
        raise ArgumentError(
            f"{call}: expected out where no gradient is needed, got a tensor that requires one; "
            f"call it under torch.no_grad(), or leave out away."
        )
    if _has_memory(value) and _overlaps(value, x, others):
        raise ArgumentError(
            f"{call}: expected out to share memory with nothing but all of the input, got a tensor that overlaps "
            f"itself, a part of the input, or a parameter; make it with torch.empty_like(input)."
        )


def _has_memory(t: Tensor) -> bool:
    """Whether the tensor's address can be asked for: not inside a transform, nor while a graph is made."""
    return not torch.compiler.is_compiling() and type(t) is Tensor and not torch._C._are_functorch_transforms_active()


def _overlaps(value: Tensor, x: Tensor, others: tuple[Tensor | None, ...]) -> bool:
    if any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True)):
        return True
    first, last = _extent(value)
    same = value.data_ptr() == x.data_ptr() and value.stride() == x.stride()
    extents = [_extent(t) for t in (None if same else x, *others) if t is not None]
    return any(its_first < last and first < its_last for its_first, its_last in extents)


def _extent(t: Tensor) -> tuple[int, int]:
    """The first address of the tensor's elements, and the one after the last."""
    if t.numel() == 0 or t.device.type == "meta":
        return 0, 0
    if t.is_contiguous():
        return t.data_ptr(), t.data_ptr() + t.nbytes
    items = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + items * t.element_size()


def running_pair(call: str, running_mean: Tensor | None, running_var: Tensor | None, *, needed: bool) -> None:
    """Both running statistics or none; both where they are what normalizes."""
    if (running_mean is None) != (running_var is None):
        given = "running_mean" if running_var is None else "running_var"
        raise ShapeError(f"{call}: expected both running_mean and running_var or neither, got only {given}; give both.")
    if needed and running_mean is None:
        raise ShapeError(
            f"{call}: expected running_mean and running_var when they are to normalize, got None; "
            f"give them, or normalize with the input's own statistics."
        )


def dtype_name(x: Tensor) -> str:
    """float32 for torch.float32."""
    return str(x.dtype).removeprefix("torch.")


def module(call: str, value: object) -> None:
    """The model is a module."""
    if not isinstance(value, torch.nn.Module):
        raise DtypeError(f"{call}: expected a torch.nn.Module, got {type(value).__name__}; give the model itself.")


def kind(cls: type[torch.nn.Module]) -> str:
    """torch.nn.LayerNorm for torch.nn.modules.normalization.LayerNorm, and so on."""
    for package in ("torch.nn", "normkit.nn"):
        if cls.__module__.startswith(package + "."):
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def positive(call: str, name: str, value: object) -> None:
    """A size given to a constructor is an integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DtypeError(f"{call}: expected {name} to be an integer, got {value!r}; give a whole number.")
    if value.__index__() < 1:
        raise ShapeError(f"{call}: expected {name} of at least 1, got {value!r}; give a larger one.")


def one_of(call: str, name: str, value: object, known: Sequence[str]) -> None:
    """A choice is one of its named values."""
    if value not in known:
        *head, last = (repr(k) for k in known)
        raise ArgumentError(f"{call}: expected {name} {', '.join(head)} or {last}, got {value!r}; use one of these.")


def timeout(call: str, value: object) -> None:
    """A time to wait is a positive number of seconds, or None for what the process group waits."""
    number = 1.0 if value is None else as_number(value)
    if number is None or not 0 < number < math.inf:
        error = DtypeError if number is None else ArgumentError
        raise error(f"{call}: expected timeout in seconds, more than 0, got {value!r}; None takes the process group's.")


def values_over_ranks(call: str, count: float) -> None:
    """More than one value enters each statistic, on all ranks together."""
    if count <= 1:
        raise SingleValueError(
            f"{call}: expected more than 1 value per channel on all ranks together when training, got {count:g}; use "
            f"larger batches, .eval(), or a norm that does not depend on the batch, such as LayerNorm."
        )
