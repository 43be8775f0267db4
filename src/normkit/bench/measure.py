"""One workload, from its tensors to its two cells: gate, then time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from normkit.bench.cases import MODES, OPS, Cell, Mode, Workload, floor_bytes
from normkit.bench.contenders import SIDES, Contender, Side, contender
from normkit.bench.gate import check
from normkit.bench.memory import saved_bytes
from normkit.bench.problem import Expected, Problem, pose, solve
from normkit.bench.results import COPY, UNMASKED, CellResult
from normkit.bench.timing import Plan, take_turns
from normkit.bench.yardstick import copy_of

Build = Callable[[Side, Problem], Contender]


@dataclass(frozen=True)
class Field:
    """The contenders of a workload, and those that could not be had."""

    contenders: dict[Side, Contender]
    absent: dict[str, str]
    unmasked: Contender | None  # what normkit does without the mask, where there is one


def measure(
    workload: Workload, plan: Plan, *, absent: Mapping[str, str] | None = None, build: Build = contender
) -> list[CellResult]:
    """Both cells of a workload.

    Args:
        workload: what to time.
        plan: for how long.
        absent: sides to leave out, and why.
        build: makes a side's contender.
    """
    problem, expected = solve(pose(workload))
    sides = _field(problem, dict(absent or {}), build)
    try:
        return [_measure_cell(Cell(workload, mode), sides, problem, expected, plan) for mode in MODES]
    finally:
        torch.compiler.reset()  # else the compiled graphs of all workloads stay, and past eight of a kind none is made


def _field(problem: Problem, absent: dict[str, str], build: Build) -> Field:
    """Every side, run once. torch.compile may be missing what it needs; the others have no excuse."""
    contenders: dict[Side, Contender] = {}
    for side in SIDES:
        if side in absent:
            continue
        one = build(side, problem)
        try:
            one.lay_out_dys()
            one.training()
        except Exception as error:
            if side != "compile":
                raise
            absent[side] = first_line(error)
        else:
            contenders[side] = one
    return Field(contenders, absent, _unmasked(problem, contenders.get("normkit"), build))


def _unmasked(problem: Problem, masked: Contender | None, build: Build) -> Contender | None:
    """What a mask is added to, on the same tensors: where others lie in the caches may cost more than a mask."""
    unmasked = OPS[problem.workload.op].unmasked
    if unmasked is None or masked is None:
        return None
    one = build("normkit", replace(problem, workload=replace(problem.workload, op=unmasked)))
    one.dys = masked.dys
    return one


def _measure_cell(cell: Cell, sides: Field, problem: Problem, expected: Expected, plan: Plan) -> CellResult:
    contenders, n_bytes = sides.contenders, floor_bytes(cell)
    verdicts = {side: check(one, problem, expected, cell.mode) for side, one in contenders.items()}
    shares: dict[str, float] = {side: verdict.share for side, verdict in verdicts.items()}
    wrong = [f"{side}: {v.where} is off by {v.share:.3g} times" for side, v in verdicts.items() if not v.is_right]
    if wrong:
        message = f"{'; '.join(wrong)} what is allowed"
        return CellResult(cell, "red", n_bytes, message, error_shares=shares, absent=sides.absent)
    calls = {str(side): _timed(one, cell.mode) for side, one in contenders.items()}
    if sides.unmasked is not None:
        calls[UNMASKED] = _timed(sides.unmasked, cell.mode)
    with torch.no_grad() if cell.mode == "fwd" else nullcontext():
        times = take_turns(calls | {COPY: copy_of(n_bytes)}, plan)
    saved: dict[str, int] = {}
    if cell.mode == "fwd+bwd":  # compiled functions may not be called under the hooks that count
        saved = {side: saved_bytes(one) for side, one in contenders.items() if side != "compile"}
    return CellResult(
        cell, "timed", n_bytes, times=times, error_shares=shares, saved_bytes=saved, absent=dict(sides.absent)
    )


def _timed(one: Contender, mode: Mode) -> Callable[[], object]:
    return one.forward if mode == "fwd" else one.training


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
