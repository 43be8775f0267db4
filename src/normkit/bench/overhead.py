"""What a call costs by itself: functions on 4x8 values, without a backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import normkit.functional as nkf
from normkit.bench.gate import error_share
from normkit.bench.problem import TOLERANCES, as_tuple
from normkit.bench.results import OverheadResult
from normkit.bench.sides import LAYER_NORM2D_EPS, RMS_EPS
from normkit.bench.threads import thread_count
from normkit.bench.timing import Call, Plan, take_turns

SHAPE = (4, 8)

Sides = dict[str, dict[str, Call]]


def calls() -> Sides:
    """For each function, each side's call."""
    x, w, b = torch.randn(SHAPE), torch.ones(8), torch.zeros(8)
    mean, var = torch.zeros(8), torch.ones(8)
    pixels = x.view(4, 8, 1, 1)
    return {
        "layer_norm": {
            "torch": lambda: F.layer_norm(x, (8,), w, b),
            "normkit": lambda: nkf.layer_norm(x, (8,), w, b),
        },
        "rms_norm": {
            "torch": lambda: F.rms_norm(x, (8,), w, RMS_EPS),
            "normkit": lambda: nkf.rms_norm(x, (8,), w, RMS_EPS),
        },
        "add_layer_norm": {
            "torch": lambda: F.layer_norm(x + x, (8,), w, b),
            "normkit": lambda: nkf.add_layer_norm(x, x, (8,), w, b),
        },
        "batch_norm_eval": {
            "torch": lambda: F.batch_norm(x, mean, var, w, b),
            "normkit": lambda: nkf.batch_norm(x, mean, var, w, b),
        },
        "group_norm": {
            "torch": lambda: F.group_norm(x, 2, w, b),
            "normkit": lambda: nkf.group_norm(x, 2, w, b),
        },
        "layer_norm2d": {
            "torch": lambda: F.layer_norm(pixels.permute(0, 2, 3, 1), (8,), w, b, LAYER_NORM2D_EPS).permute(0, 3, 1, 2),
            "normkit": lambda: nkf.layer_norm2d(pixels, w, b, LAYER_NORM2D_EPS),
        },
    }


def measure_overheads(plan: Plan, sides: Sides | None = None) -> tuple[OverheadResult, ...]:
    """Both sides of every function, by turns; on one thread, so that no parallel region is opened.

    Args:
        plan: for how long.
        sides: the calls of each function, as a test has them.
    """
    with torch.no_grad(), thread_count(1):
        return tuple(_measure(op, of_op, plan) for op, of_op in (sides or calls()).items())


def _measure(op: str, sides: dict[str, Call], plan: Plan) -> OverheadResult:
    ours, theirs = (as_tuple(sides[side]())[0] for side in ("normkit", "torch"))  # type: ignore[arg-type]
    share = error_share(ours, theirs.double(), TOLERANCES[theirs.dtype])
    if not share <= 1:
        return OverheadResult(op, {}, "red", f"normkit differs from torch by {share:.3g} times what is allowed")
    return OverheadResult(op, take_turns(sides, plan))
