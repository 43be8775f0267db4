"""A part of a model that runs over several micro-batches, one at a time, as over one batch, and recomputes.

In the forward pass each micro-batch runs up to the first BatchNorm, whose statistics are merged; then again, up to the
second, and so on; the last run gives the outputs. In the backward pass the derivatives for the sums of the last
BatchNorm come first (``_joint_batch``), for they enter those of the one before it; a last run gives the derivatives
for inputs and parameters. Each run starts from the inputs, so that no more than one micro-batch's graph exists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from normkit.errors import ArgumentError, DtypeError
from normkit.nn._buffers import BufferState
from normkit.nn._joint_batch import Call, Reached, Run, merge

Rebuild = Callable[[Sequence[Tensor]], Any]


class Stage:
    """A module over micro-batches. ``layers`` are those that normalize with the statistics of their input."""

    def __init__(self, call: str, module: torch.nn.Module, layers: Sequence[_BatchNorm], batches: list[Any]) -> None:
        self.call, self.module, self.layers = call, module, layers
        taken = [take_apart(call, batch) for batch in batches]
        self.counts, self.rebuild = [len(tensors) for tensors, _ in taken], [rebuild for _, rebuild in taken]
        self.inputs = [t for tensors, _ in taken for t in tensors]
        self.parameters = list(module.parameters())
        self.modes = [(m, m.training) for m in module.modules()]
        self.buffers = BufferState(module.modules())
        self.autocast = _autocast_now({t.device.type for t in (*self.inputs, *self.parameters)} | {"cpu"})
        self.cuda = sorted({t.device.index or 0 for t in (*self.inputs, *self.parameters) if t.device.type == "cuda"})
        self.seeds = [int(torch.randint(2**62, ())) for _ in batches]
        self.calls: list[Call] = []

    def __call__(self) -> list[Any]:
        """The output of every micro-batch."""
        found: list[tuple[int, Rebuild]] = []
        flat = _Joint.apply(self, found, *self.inputs, *self.parameters)  # type: ignore[no-untyped-call]
        tensors = iter(flat)
        return [rebuild([next(tensors) for _ in range(n)]) for n, rebuild in found]

    def outputs(self, inputs: Sequence[Tensor]) -> list[Any]:
        """The output of every micro-batch, one run each for every call of a BatchNorm and one for the rest."""
        before = _versions(inputs)
        while True:
            reached, outputs = [], []
            for i in range(len(self.counts)):
                try:
                    with self._run(i, inputs, Run(self.calls)) as output:
                        outputs.append(output)
                except Reached as call:
                    reached.append(call)
            if _versions(inputs) != before:
                raise ArgumentError(
                    f"{self.call}: expected a module that leaves its input as it is, got one that writes to it; use "
                    f"inplace=False in its first layers, or clone the input."
                )
            if reached and outputs:
                raise ArgumentError(
                    f"{self.call}: expected every micro-batch to call the same BatchNorm layers, got "
                    f"{len(reached)} of {len(self.counts)} at {reached[0].layer} and the others past it."
                )
            if not reached:
                return outputs
            self.calls.append(merge(reached))

    @contextmanager
    def _run(self, i: int, inputs: Sequence[Tensor], run: Run) -> Iterator[Any]:
        """The output of one micro-batch, from the state that everything was in at the first run.

        That state lasts until the graph has been used: an activation checkpoint in the module runs it again then.
        """
        start = sum(self.counts[:i])
        batch = self.rebuild[i](inputs[start : start + self.counts[i]])
        self.buffers.put_back()
        with ExitStack() as stack:
            stack.enter_context(_in_modes(self.modes))
            stack.enter_context(_seeded(self.seeds[i], self.cuda))
            stack.enter_context(_uncompiled())
            stack.enter_context(run.at(self.layers))
            for autocast in self.autocast:
                stack.enter_context(autocast())
            output = self.module(*batch)
            run.finished = True
            yield output

    def gradients(
        self, inputs: Sequence[Tensor], dys: Sequence[Tensor | None], needs: Sequence[bool]
    ) -> list[Tensor | None]:
        """The derivatives for the inputs of all micro-batches, then for the parameters."""
        now = BufferState(self.module.modules())
        try:
            with torch.enable_grad():
                of_calls: list[Tensor | None] = [None] * len(self.calls)
                for place in reversed(range(len(self.calls))):
                    of_calls[place] = self._of_sums(place, inputs, dys, of_calls)
                return self._of_inputs_and_parameters(inputs, dys, of_calls, needs)
        finally:
            self.buffers.put_back()
            now.put_back()

    def _of_sums(
        self, place: int, inputs: Sequence[Tensor], dys: Sequence[Tensor | None], of_calls: Sequence[Tensor | None]
    ) -> Tensor | None:
        """dL/d(D, Q) of a call: the sum over the micro-batches, which it reaches directly and through later calls."""
        total = None
        for i in range(len(self.counts)):
            run = Run(self.calls, wanted=place)
            with self._run(i, inputs, run) as output:
                if run.sums is not None:
                    (d,) = self._differentiate(i, output, run, dys, of_calls, [run.sums])
                    total = _plus(total, d)
        return total

    def _of_inputs_and_parameters(
        self,
        inputs: Sequence[Tensor],
        dys: Sequence[Tensor | None],
        of_calls: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> list[Tensor | None]:
        n = len(inputs)
        wanted = [p for p, need in zip(self.parameters, needs[n:], strict=True) if need]
        of_inputs: list[Tensor | None] = [None] * n
        of_parameters: list[Tensor | None] = [None] * len(wanted)
        for i, count in enumerate(self.counts):
            start = sum(self.counts[:i])
            leaves = [x.detach().requires_grad_(needs[j]) for j, x in enumerate(inputs)]
            places = [j for j in range(start, start + count) if needs[j]]
            run = Run(self.calls)
            with self._run(i, leaves, run) as output:
                sources = [*(leaves[j] for j in places), *wanted]
                found = self._differentiate(i, output, run, dys, of_calls, sources)
            for j, d in zip(places, found, strict=False):
                of_inputs[j] = d
            # Sums of 16 bits would lose what one pass over the whole batch keeps in float32.
            of_parameters = [_plus(total, d) for total, d in zip(of_parameters, found[len(places) :], strict=True)]
        rounded = iter(d if d is None else d.to(p.dtype) for d, p in zip(of_parameters, wanted, strict=True))
        return [*of_inputs, *(next(rounded) if need else None for need in needs[n:])]

    def _differentiate(
        self,
        i: int,
        output: Any,
        run: Run,
        dys: Sequence[Tensor | None],
        of_calls: Sequence[Tensor | None],
        sources: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        """The derivatives of all that a run of the micro-batch gave to what comes after it."""
        tensors, _ = take_apart(self.call, output, result=True)
        ends = [
            *zip(tensors, dys[i * len(tensors) : (i + 1) * len(tensors)], strict=True),
            *zip(run.terms, of_calls, strict=True),
        ]
        known = [(end, d) for end, d in ends if end is not None and d is not None and end.requires_grad]
        if not known or not sources:
            return [None] * len(sources)
        outputs, given = zip(*known, strict=True)
        return torch.autograd.grad(outputs, sources, given, allow_unused=True)


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stage: Stage, found: list[tuple[int, Rebuild]], *tensors: Tensor) -> tuple[Tensor, ...]:
        taken = [take_apart(stage.call, y, result=True) for y in stage.outputs(tensors[: len(stage.inputs)])]
        found.extend((len(flat), rebuild) for flat, rebuild in taken)
        outputs = tuple(t for flat, _ in taken for t in flat)
        ctx.stage = stage
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*(t for t in outputs if not (t.is_floating_point() or t.is_complex())))
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        stage: Stage = ctx.stage
        inputs = ctx.saved_tensors[: len(stage.inputs)]  # an error where something was written to since
        return None, None, *stage.gradients(inputs, dys, ctx.needs_input_grad[2:])


def take_apart(call: str, value: Any, *, result: bool = False) -> tuple[list[Tensor], Rebuild]:
    """The tensors in a tensor, or in tuples, lists and dictionaries of them, and how to put others in their place."""
    if isinstance(value, Tensor):
        return [value], lambda tensors: tensors[0]
    if isinstance(value, dict):
        tensors, of_values = take_apart(call, list(value.values()), result=result)
        return tensors, lambda tensors: type(value)(zip(value, of_values(tensors), strict=True))
    if isinstance(value, (tuple, list)):
        parts = [take_apart(call, part, result=result) for part in value]
        counts = [len(tensors) for tensors, _ in parts]

        def rebuild(tensors: Sequence[Tensor]) -> Any:
            left = iter(tensors)
            rebuilt = [own([next(left) for _ in range(n)]) for n, (_, own) in zip(counts, parts, strict=True)]
            return type(value)(*rebuilt) if hasattr(value, "_fields") else type(value)(rebuilt)

        return [t for tensors, _ in parts for t in tensors], rebuild
    if result and value is not None:
        raise DtypeError(
            f"{call}: expected modules that return tensors, or tuples, lists and dictionaries of them, got "
            f"{type(value).__name__}; return the tensors themselves."
        )
    return [], lambda tensors: value


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was written to. Inference tensors do not count it."""
    return [0 if t.is_inference() else t._version for t in tensors]


def _plus(total: Tensor | None, d: Tensor | None) -> Tensor | None:
    if d is None:
        return total
    d = d.to(torch.promote_types(d.dtype, torch.float32)) if d.is_floating_point() else d
    return d if total is None else total + d


@contextmanager
def _in_modes(modes: Sequence[tuple[torch.nn.Module, bool]]) -> Iterator[None]:
    """Training or evaluation as it was in the forward pass."""
    now = [(module, module.training) for module, _ in modes]
    try:
        for module, training in modes:
            module.training = training
        yield
    finally:
        for module, training in now:
            module.training = training


@contextmanager
def _seeded(seed: int, cuda: Sequence[int]) -> Iterator[None]:
    """torch's generators begin at a seed, and afterwards go on as if nothing had been drawn."""
    cpu, others = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in cuda]
    try:
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(cpu)
        for device, state in zip(cuda, others, strict=True):
            torch.cuda.set_rng_state(state, device)


def _uncompiled() -> AbstractContextManager[Any]:
    """What was compiled runs as written. Nothing was, while the compiler is not loaded."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _autocast_now(device_types: set[str]) -> list[Callable[[], AbstractContextManager[Any]]]:
    """autocast as it is now. Without its cache, which would keep casts of weights that have no graph."""

    def same(kind: str) -> Callable[[], AbstractContextManager[Any]]:
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return lambda: torch.autocast(kind, dtype, enabled, cache_enabled=False)

    return [same(kind) for kind in sorted(device_types) if torch.amp.is_autocast_available(kind)]
