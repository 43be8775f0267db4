"""Whatever shape, stride, dtype and scale a call has: the numbers of the reference, for every layer."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conformance.layers import CASES, LayerCase, Shape, outputs
from conformance.layouts import LAYOUTS
from conformance.norms import Rows
from conformance.oracle import exact
from normkit.errors import SingleValueError

LOW_PRECISION = (torch.bfloat16, torch.float16)
# float16 ends at 65504, and has few digits below 6e-5.
SCALES = {torch.float16: (1e-2, 1.0, 30.0), torch.bfloat16: (1e-10, 1.0, 1e10)}
WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 256, 257, 1000]))


@st.composite
def shapes(draw: st.DrawFn, case: LayerCase, n: int) -> Shape:
    """What the layer for n takes: the axes that it fixes, and others of any size."""
    usual = case.sized(n)[1]
    if isinstance(case.norm, Rows):
        leading = draw(st.lists(st.integers(1, 9), max_size=3))
        return (*leading, *usual[len(usual) - case.norm.n_axes :])
    free = [draw(st.integers(1, 9)) for _ in usual[2:]]
    return (draw(st.integers(1, 9)), usual[1], *free)


@st.composite
def dtypes(draw: st.DrawFn) -> tuple[torch.dtype, torch.dtype]:
    """Of the input and of the parameters."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64, *LOW_PRECISION]))
    own = draw(st.booleans())
    return dtype, torch.float32 if dtype in LOW_PRECISION and not own else dtype


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_every_layer_on_any_input(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES))
    n = data.draw(WIDTHS)
    shape = data.draw(shapes(case, n))
    dtype, of_parameters = data.draw(dtypes())
    scale = data.draw(st.sampled_from(SCALES.get(dtype, (1e-20, 1e-3, 1.0, 1e20))))
    offset = data.draw(st.sampled_from([0.0, 1.0, 100.0])) * scale
    layout, dy_layout = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(LAYOUTS))
    options = data.draw(st.sampled_from(case.variants))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))

    layer = case.build(n, of_parameters, **options)
    if layer.eps is None:  # what it stands for; the oracle cannot tell without a weight
        layer.eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    inputs = tuple(layout(x).requires_grad_() for x in case.inputs(n, dtype, offset=offset, scale=scale, shape=shape))
    try:
        ys = outputs(layer(*inputs))
    except SingleValueError:  # a statistic of one value
        assume(False)
    dys = tuple(dy_layout(torch.randn(y.shape, dtype=torch.float64).to(y)) for y in ys)
    oracle = exact(case, layer, inputs, dys)
    parameters = dict(layer.named_parameters())
    wanted = {f"input {i}": x for i, x in enumerate(inputs)} | parameters
    kept = {name: t for name, t in wanted.items() if data.draw(st.booleans(), label=name)}
    found = dict(zip(kept, torch.autograd.grad(ys, [*kept.values()], dys), strict=True)) if kept else {}
    for i, (y, expected) in enumerate(zip(ys, oracle.ys, strict=True)):
        assert y.dtype == dtype
        expected.check(y, f"output {i}")
    of = {f"input {i}": dx for i, dx in enumerate(oracle.dxs)} | dict(oracle.parameters)
    for name, gradient in found.items():
        assert gradient.dtype == wanted[name].dtype
        # Sums of many terms may lie outside float16.
        assume(np.abs(of[name].value).max() < torch.finfo(gradient.dtype).max)
        of[name].check(gradient, f"gradient of {name}")
