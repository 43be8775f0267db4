"""docs/derivatives.md, from the measurements of ``derivatives``.

Write it again with ``PYTHONPATH=tests python -m conformance.derivatives_page``.
"""

from __future__ import annotations

from pathlib import Path

from conformance.derivatives import MODES, POINTS, STEP, TOLERANCE, Mode, error
from conformance.layers import CLASSES, LayerCase

PAGE = Path(__file__).parents[2] / "docs" / "derivatives.md"

TEXT = f"""# Derivatives of every order and mode

Which derivatives of a layer are right, measured: each is contracted with one random direction through the input
and all parameters at once, and compared with a finite difference of the layer in float64 ({2 * POINTS + 1} points,
step {STEP}). *Right* means within {TOLERANCE:g} of it, relative to the larger of 1 and the derivative. The tests
measure all of this again and hold this page to the outcome.

BatchNorm is in training, normalizing with the batch; `reverse` is `torch.autograd.grad(..., create_graph=True)`
applied so many times; the rest are `torch.func`'s transforms.

## normkit

{{ours}}

## torch.nn

Where a derivative is wrong nothing is said: the numbers are finite, and off by as much as their own size. The
layers without a counterpart in torch are left out.

{{torchs}}
"""


def render() -> str:
    with_torch = [case for case in CLASSES if case.torch_layer is not None]
    return TEXT.format(ours=table(list(CLASSES), "normkit"), torchs=table(with_torch, "torch"))


def table(cases: list[LayerCase], whose: str) -> str:
    header = ["order", "mode", *(case.layer.__name__ for case in cases)]
    rows = [[str(mode.order), mode.name, *(verdict(case, mode, whose) for case in cases)] for mode in MODES]
    rows.sort(key=lambda row: row[0])
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def verdict(case: LayerCase, mode: Mode, whose: str) -> str:
    return "right" if error(case, mode, whose, "cpu") <= TOLERANCE else "**wrong**"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
