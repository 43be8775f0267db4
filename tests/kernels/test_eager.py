"""Calls through normkit._eager: one library for one torch, and its backward as autograd has its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from normkit import functional as F
from normkit.kernels import channels, cpu, eager, layer_norm2d, rows

pytestmark = pytest.mark.skipif(eager.LIBRARY is eager.ABSENT, reason=eager.DESCRIPTION)


def most(x: Tensor) -> Tensor:
    """A mask that leaves out every third position."""
    return torch.arange(x[:, 0].numel()).view_as(x[:, 0]) % 3 != 0


Call = Callable[[Tensor, Tensor, Tensor], Tensor]
CALLS: dict[str, Call] = {
    "layer_norm": lambda x, w, b: F.layer_norm(x, (4, 3, 2), w.view(4, 1, 1).expand(4, 3, 2), b[0].expand(4, 3, 2)),
    "rms_norm": lambda x, w, b: F.rms_norm(x, 2, w[:2]) + b.view(4, 1, 1),
    "add_layer_norm": lambda x, w, b: torch.add(*F.add_layer_norm(x, x.sin(), 2, w[:2], b[:2])),
    "add_rms_norm": lambda x, w, b: F.add_rms_norm(x, x.sin(), 2, w[:2])[0] * b[0],
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "batch_norm_add_relu": lambda x, w, b: F.batch_norm(
        x, None, None, w, b, training=True, activation="relu", residual=x.cos()
    ),
    "batch_norm_masked": lambda x, w, b: F.batch_norm(
        x, None, None, w, b, training=True, activation="silu", mask=most(x)
    ),
    "batch_norm_masked_add_relu": lambda x, w, b: F.batch_norm(
        x, None, None, w, b, training=True, activation="relu", residual=x.cos(), mask=most(x)
    ),
    "batch_norm_eval_masked": lambda x, w, b: F.batch_norm(
        x, torch.zeros(4), torch.ones(4), w, b, activation="silu", mask=most(x)
    ),
    "group_norm_masked": lambda x, w, b: F.group_norm(x, 2, w, b, activation="gelu", mask=most(x)),
    "instance_norm_masked": lambda x, w, b: F.instance_norm(x, None, None, w, b, mask=most(x)),
    "batch_norm_eval": lambda x, w, b: F.batch_norm(x, torch.zeros(4), torch.ones(4), w, b, activation="silu"),
    "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b, activation="gelu"),
    "instance_norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "layer_norm2d": lambda x, w, b: F.layer_norm2d(x, w, b),
    "layer_norm2d_channels_last": lambda x, w, b: F.layer_norm2d(x.to(memory_format=torch.channels_last), w, b),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def _inputs() -> list[Tensor]:
    return [t.requires_grad_() for t in (torch.randn(3, 4, 3, 2), torch.randn(4), torch.randn(4))]


def _gradients(call: Call, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(call(*inputs), inputs, dy)


def _run(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ["torch.__version__", "torch.version.git_version"])
def test_a_library_of_another_torch_is_left_alone(what: str) -> None:
    said = _run(
        f"import torch; {what} = '9.9.9'\n"
        "import normkit\n"
        "x = torch.randn(3, 8, requires_grad=True)\n"
        "y = normkit.functional.layer_norm(x, 8)\n"
        "y.sin().sum().backward()\n"
        "torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (8,)))\n"
        "print(y.grad_fn.name(), normkit.info())\n"
    )
    assert said.startswith("_RowNormBackward")
    assert "calls by Python, which is slower on small inputs: built for torch" in said
    assert "9.9.9" in said


def test_a_library_of_other_kernels_is_left_alone() -> None:
    said = _run(
        "import sys, torch\n"
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('normkit._C', {cpu.LIBRARY.__file__!r})\n"
        "sys.modules['normkit._C'] = library = module_from_spec(spec)\n"
        "spec.loader.exec_module(library)\n"
        "del library.table\n"
        "import normkit; print(normkit.info())\n"
    )
    assert "built with another normkit._C than the one that is there" in said


@each_call
def test_the_backward_is_a_kernel(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rows, channels, layer_norm2d):
        monkeypatch.setattr(module, "hand_over", None)
    assert all(g.isfinite().all() for g in _gradients(call, _inputs(), torch.randn(3, 4, 3, 2)))


@each_call
def test_as_calls_by_python(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: it is the same kernels."""
    inputs, dy = _inputs(), torch.randn(3, 4, 3, 2)
    by_libtorch = call(*inputs), *_gradients(call, inputs, dy)
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    by_python = call(*inputs), *_gradients(call, inputs, dy)
    assert all(torch.equal(a, b) for a, b in zip(by_libtorch, by_python, strict=True))


@each_call
def test_what_is_saved_is_what_calls_by_python_save(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for library in (eager.LIBRARY, eager.ABSENT):
        monkeypatch.setattr(eager, "LIBRARY", library)
        inputs, saved = _inputs(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.nbytes), t)[1], lambda t: t):
            call(*inputs)
        kept.append(sorted(saved))
    assert kept[0] == kept[1]


@each_call
def test_a_differentiated_backward_is_handed_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, dy = [t.detach().double().requires_grad_() for t in _inputs()], torch.randn(3, 4, 3, 2).double()
    if call is CALLS["batch_norm_eval"]:
        call = lambda x, w, b: F.batch_norm(x, w.detach(), b.detach().exp(), w, b, activation="silu")  # noqa: E731
    found = []
    for library in (eager.LIBRARY, eager.ABSENT):
        monkeypatch.setattr(eager, "LIBRARY", library)
        first = torch.autograd.grad(call(*inputs), inputs, dy, create_graph=True)
        total = torch.stack([g.sin().sum() for g in first]).sum()
        found.append((*first, *torch.autograd.grad(total, inputs, materialize_grads=True)))
    torch.testing.assert_close(*found)


@each_call
def test_checkpoints_and_offloading(call: Call) -> None:
    inputs, dy = _inputs(), torch.randn(3, 4, 3, 2)
    plain = _gradients(call, inputs, dy)
    again = _gradients(lambda *t: checkpoint(call, *t, use_reentrant=False), inputs, dy)
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))
    checkpoint(call, *inputs, use_reentrant=True).backward(dy)
    assert all(torch.equal(t.grad, g) for t, g in zip(inputs, plain, strict=True))
    with torch.autograd.graph.save_on_cpu():
        y = call(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y, inputs, dy), plain, strict=True))


@each_call
@pytest.mark.parametrize("changed", [0, 1], ids=["input", "weight"])
def test_what_was_changed_in_place_is_noticed(call: Call, changed: int) -> None:
    inputs = _inputs()
    hidden = [t * 1 for t in inputs]
    if call is CALLS["layer_norm2d_channels_last"]:
        hidden[0] = hidden[0].to(memory_format=torch.channels_last)
    y = call(*hidden)
    hidden[changed].add_(1)
    if call is CALLS["layer_norm"] and changed == 1:
        return  # the weight was expanded into memory of its own
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_an_output_changed_in_place_is_noticed() -> None:
    x, w, _ = _inputs()
    _, total = F.add_layer_norm(x, x, 2)
    y = F.add_layer_norm(x, x, 2)
    y[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y[0].sum().backward()
    total.sum().backward()  # no gradient of the norm is asked for
    assert torch.equal(x.grad, torch.full_like(x, 2))
    assert w.grad is None


@each_call
def test_a_second_backward_needs_the_graph(call: Call) -> None:
    inputs, dy = _inputs(), torch.randn(3, 4, 3, 2)
    y = call(*inputs)
    first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y, inputs, dy), first, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, inputs, dy)


def test_hooks_see_and_change_gradients() -> None:
    x, w, b = _inputs()
    y = F.layer_norm2d(x, w, b)
    seen: list[Tensor] = []
    y.register_hook(lambda g: g * 2)
    y.grad_fn.register_hook(lambda inputs, outputs: seen.extend(inputs))
    y.retain_grad()
    dy = torch.randn_like(y)
    y.backward(dy)
    expected = torch.autograd.grad(F.layer_norm2d(x, w, b), (x, w, b), dy * 2)
    assert torch.equal(y.grad, dy * 2)
    assert all(torch.equal(a, b) for a, b in zip((x.grad, w.grad, b.grad), expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_errors_of_a_handed_over_backward_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("of the composite")

    monkeypatch.setattr(rows, "hand_over", fails)
    x = torch.randn(3, 8, requires_grad=True)
    with pytest.raises(KeyError, match="of the composite"):
        torch.autograd.grad(F.layer_norm(x, 8).sum(), x, create_graph=True)


def test_hooks_that_give_back_something_else_do_not_reach_a_kernel() -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    for changed in (lambda t: t.to(torch.int8), lambda t: t[..., :2], lambda t: t.new_empty(0)):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), changed):
            y = F.layer_norm(x, 8, w)
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            y.backward(torch.randn_like(y))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode_names_the_call() -> None:
    x = torch.full((3, 8), torch.nan, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True), pytest.raises(RuntimeError, match="RowNormBackward"):
        F.layer_norm(x, 8).backward(torch.randn(3, 8))


def test_inside_an_operator_nothing_is_recorded() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        assert F.layer_norm(x, 8).grad_fn is None
    with torch.inference_mode():
        assert F.layer_norm(x, 8).is_inference()


def test_inputs_without_a_gradient_get_none() -> None:
    x, w, b = _inputs()
    F.group_norm(x.detach(), 2, w, b).sin().sum().backward()
    assert x.grad is None
    assert w.grad is not None
    (only,) = torch.autograd.grad(F.layer_norm2d(x, w, b).sin().sum(), (b,))
    assert only.shape == b.shape


def test_the_graph_is_freed() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    y, z = F.add_layer_norm(x, x, 8)
    ends = [weakref.ref(t) for t in (y, z)]
    del y, z
    gc.collect()
    assert [end() for end in ends] == [None, None]


def test_one_graph_in_several_threads() -> None:
    x, w = torch.randn(200, 257, requires_grad=True), torch.randn(257, requires_grad=True)
    y, dy = F.layer_norm(x, 257, w), torch.randn(200, 257)
    expected = torch.autograd.grad(y, (x, w), dy, retain_graph=True)
    found: list[tuple[Tensor, ...]] = []
    threads = [
        threading.Thread(target=lambda: found.append(torch.autograd.grad(y, (x, w), dy, retain_graph=True)))
        for _ in range(6)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == len(threads)
    assert all(torch.equal(a, b) for got in found for a, b in zip(got, expected, strict=True))


@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
@each_call
def test_compiled_autograd(call: Call) -> None:
    inputs, dy = _inputs(), torch.randn(3, 4, 3, 2)
    expected = _gradients(call, inputs, dy)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        found = _gradients(call, inputs, dy)
    torch.testing.assert_close(found, expected)


def test_compiled_autograd_of_a_graph_that_it_does_not_know_is_refused() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    y = F.layer_norm(x, 8)
    with (
        torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")),
        pytest.raises(NotImplementedError, match="RowNormBackward"),
    ):
        y.sum().backward()
