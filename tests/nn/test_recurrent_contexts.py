"""The surroundings people use recurrent layers in: compile, export, AMP, pickle, other tools."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from nn.recurrent import ALL, BATCH_LSTM, LSTM, ROW_LAYERS, Recurrent, flat, randomize, step_of, weighted_sum
from normkit import nn

x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def built(case: Recurrent, **options: Any) -> torch.nn.RNNBase:
    return case.build(4, 5, num_layers=2, bidirectional=True, **options)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_compile_takes_the_layer_whole(case: Recurrent, fresh_dynamo: None) -> None:
    """torch's own LSTM, GRU and RNN break the graph."""
    layer, eager = (case.build(4, 5) for _ in range(2))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, want = flat(compiled(x[:2])), flat(eager(x[:2]))
    weighted_sum(got).backward()
    weighted_sum(want).backward()
    grads = [(p.grad, q.grad) for p, q in zip(layer.parameters(), eager.parameters(), strict=True)]
    buffers = zip(layer.buffers(), eager.buffers(), strict=True)
    for a, b in [*zip(got, want, strict=True), *grads, *buffers]:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "strict"), [*((case, False) for case in ALL), (LSTM, True)], ids=["LSTM", "GRU", "RNN", "BN", "strict"]
)
def test_export(case: Recurrent, strict: bool, fresh_dynamo: None) -> None:
    layer = case.build(4, 5, bidirectional=not strict).eval()
    exported = torch.export.export(layer, (x[:2],), strict=strict).module()
    for a, b in zip(flat(exported(x[:2])), flat(layer(x[:2])), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_copies_compute_the_same(case: Recurrent) -> None:
    layer = built(case).eval()
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for copied in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(saved, weights_only=False),
    ):
        assert list(copied.state_dict()) == list(layer.state_dict())
        for a, b in zip(flat(copied(x)), flat(layer(x)), strict=True):
            assert torch.equal(a, b)
        copied.weight_hh_l0.data.zero_()
        assert not torch.equal(flat(copied(x))[0], flat(layer(x))[0])


@pytest.mark.parametrize("case", ALL, ids=str)
def test_compile_takes_gradients_of_each_sequence_whole(case: Recurrent, fresh_dynamo: None) -> None:
    """vmap over torch.func.grad, compiled, as it is uncompiled."""
    layer = case.build(4, 5).eval()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], sequence: torch.Tensor) -> torch.Tensor:
        outputs = flat(torch.func.functional_call(layer, parameters, (sequence[:, None],)))
        return torch.stack([(t * t.detach().cos()).sum() for t in outputs]).sum()

    call = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))
    want = call(parameters, x)
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(parameters, x)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)


def cell_of(case: Recurrent, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return randomize(case.cell(4, 5, **({"max_steps": 3} if case is BATCH_LSTM else {}))).to(dtype)


def two_steps(cell: Any, rows: torch.Tensor, case: Recurrent) -> list[torch.Tensor]:
    """The state after two steps, as a list."""
    state: Any = None
    for step in range(2):
        state = cell(rows, state, **step_of(case, step))
    return list(state) if case.has_c else [state]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_copies_of_cells_compute_the_same(case: Recurrent) -> None:
    cell = cell_of(case).eval()
    want = two_steps(cell, x[0], case)
    for copied in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert list(copied.state_dict()) == list(cell.state_dict())
        for a, b in zip(two_steps(copied, x[0], case), want, strict=True):
            assert torch.equal(a, b)
        copied.weight_hh.data.zero_()
        assert not torch.equal(two_steps(copied, x[0], case)[0], want[0])


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at that of the state
def test_compile_and_export_take_cells_whole(case: Recurrent, fresh_dynamo: None) -> None:
    cell, eager = cell_of(case), cell_of(case)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    got, want = two_steps(compiled, x[0], case), two_steps(eager, x[0], case)
    weighted_sum(got).backward()
    weighted_sum(want).backward()
    grads = [(p.grad, q.grad) for p, q in zip(cell.parameters(), eager.parameters(), strict=True)]
    buffers = zip(cell.buffers(), eager.buffers(), strict=True)
    for a, b in [*zip(got, want, strict=True), *grads, *buffers]:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    options = step_of(case, 1)
    exported = torch.export.export(eager.eval(), (x[0],), options).module()
    for a, b in zip(as_list(exported(x[1], **options)), as_list(eager(x[1], **options)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def as_list(state: Any) -> list[torch.Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_cells_in_16_bits_and_under_autocast(case: Recurrent) -> None:
    cell, low = cell_of(case).eval(), cell_of(case, torch.bfloat16).eval()
    step = step_of(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = as_list(cell(x[0], **step))
    for a, b in zip(got, as_list(cell(x[0], **step)), strict=True):
        assert torch.equal(a, b.bfloat16())
    wide = copy.deepcopy(low).float()
    rows = x[0].bfloat16()
    for a, b in zip(as_list(low(rows, **step)), as_list(wide(rows.float(), **step)), strict=True):
        assert torch.equal(a, b.bfloat16())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_shapes_alone_on_the_meta_device(case: Recurrent) -> None:
    layer = built(case)
    for a, b in zip(flat(copy.deepcopy(layer).to("meta")(x.to("meta"))), flat(layer(x)), strict=True):
        assert a.is_meta
        assert a.shape == b.shape
    cell = cell_of(case)
    of_meta = two_steps(copy.deepcopy(cell).to("meta"), x[0].to("meta"), case)
    assert [s.shape for s in of_meta] == [s.shape for s in two_steps(cell, x[0], case)]


@pytest.mark.parametrize("case", ALL, ids=str)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace:DeprecationWarning")
def test_a_trace_computes_and_does_not_remember(case: Recurrent) -> None:
    layer = built(case).eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,), check_trace=False)
        for a, b in zip(flat(traced(2 * x)), flat(layer(2 * x)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_compile_takes_lengths_whole(case: Recurrent, fresh_dynamo: None) -> None:
    layer = case.build(4, 5, bidirectional=True).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for a, b in zip(flat(compiled(x, lengths=[5, 2, 3])), flat(layer(x, lengths=[5, 2, 3])), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_repr_says_what_was_built(case: Recurrent) -> None:
    layer = case.layer(4, 5, num_layers=2, norm="input", eps=1e-3)
    assert "4, 5, num_layers=2, norm='input', eps=0.001" in repr(layer)
    assert "norm='input', eps=1e-05" in repr(case.cell(4, 5, norm="input"))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_flatten_parameters_does_nothing(case: Recurrent) -> None:
    layer = built(case)
    before = [p.data_ptr() for p in layer.parameters()]
    layer.flatten_parameters()
    assert [p.data_ptr() for p in layer.parameters()] == before


@pytest.mark.parametrize("case", ALL, ids=str)
def test_reset_parameters_starts_anew(case: Recurrent) -> None:
    torch.manual_seed(5)
    fresh = case.layer(4, 5)
    layer = case.build(4, 5)
    torch.manual_seed(5)
    layer.reset_parameters()
    for a, b in zip(layer.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_autocast_returns_its_dtype_and_computes_in_float32(case: Recurrent) -> None:
    layer = built(case).eval()
    want = flat(layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = flat(layer(x))
        low = flat(layer(x.bfloat16()))
    for a, b, c in zip(got, want, low, strict=True):
        assert a.dtype == c.dtype == torch.bfloat16
        assert torch.equal(a, b.bfloat16())
    for a, b in zip(low, flat(layer(x.bfloat16().float())), strict=True):
        assert torch.equal(a, b.bfloat16())
    weighted_sum(got).backward()
    assert layer.weight_hh_l0.grad is not None
    assert layer.weight_hh_l0.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_dtypes(case: Recurrent, dtype: torch.dtype) -> None:
    """16-bit in and out, float32 inside: the result of the same numbers in float32, rounded once."""
    layer = built(case).to(dtype).eval()
    wide = built(case).to(dtype).to(torch.float32 if dtype != torch.float64 else dtype).eval()
    packed = pack_padded_sequence(x.to(dtype), [5, 4, 2])
    wide_input = pack_padded_sequence(x.to(dtype).to(wide.weight_ih_l0.dtype), [5, 4, 2])
    for a, b in zip(flat(layer(packed)), flat(wide(wide_input)), strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b.to(dtype))
    for p in layer.parameters():
        assert p.dtype == dtype


def test_running_statistics_of_a_16_bit_module_are_float32() -> None:
    for layer in (nn.BatchNormLSTM(4, 5, dtype=torch.bfloat16), nn.BatchNormLSTM(4, 5).half()):
        assert {buffer.dtype for buffer in layer.buffers()} == {torch.float32}
    assert {buffer.dtype for buffer in nn.BatchNormLSTM(4, 5).double().buffers()} == {torch.float64}


@pytest.mark.parametrize("case", ROW_LAYERS, ids=str)
def test_weights_that_another_tool_parametrizes(case: Recurrent) -> None:
    layer = case.build(4, 5)
    want = flat(layer(x))
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    for a, b in zip(flat(layer(x)), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    weighted_sum(flat(layer(x))).backward()
    assert layer.parametrizations.weight_hh_l0.original1.grad is not None


@pytest.mark.parametrize("case", ALL, ids=str)
def test_twice_in_one_graph(case: Recurrent) -> None:
    """The second call's gradients add to the first's."""
    layer, once, again = (case.build(4, 5).eval() for _ in range(3))
    (weighted_sum(flat(layer(x))) + weighted_sum(flat(layer(2 * x)))).backward()
    weighted_sum(flat(once(x))).backward()
    weighted_sum(flat(again(2 * x))).backward()
    for p, q, r in zip(layer.parameters(), once.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad + r.grad)


def test_a_module_of_torch_loads_where_norms_are_left_to_start() -> None:
    theirs = torch.nn.LSTM(4, 5)
    result = LSTM.layer(4, 5).load_state_dict(theirs.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith("norm_") for key in result.missing_keys)
