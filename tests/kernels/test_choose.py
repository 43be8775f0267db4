"""Which calls take a kernel, and what is said of those that do not."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import normkit
from normkit.errors import DtypeError
from normkit.kernels import choose, cpu, eager


class Recorder:
    """A library whose functions write down under which kernel's name they computed something."""

    def __init__(self, library: Any, reached: list[str]) -> None:
        self._library, self._reached = library, reached

    def __getattr__(self, name: str) -> Callable[..., object]:
        function: Callable[..., object] = getattr(self._library, name)

        def recorded(*args: object) -> object:
            result = function(*args)
            if name.endswith("ward"):
                self._reached.append(name)
            elif name in vars(eager.ABSENT) and result is not None:
                self._reached.append(_KERNELS.get(name, "channel_norm_forward"))
            return result

        return recorded


_KERNELS = {
    **dict.fromkeys(("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm"), "row_norm_forward"),
    "layer_norm2d": "layer_norm2d_forward",
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, each_way_to_call: str) -> list[str]:
    """The calls that reached a kernel of the compiled library."""
    reached: list[str] = []
    monkeypatch.setattr(cpu, "LIBRARY", Recorder(cpu.LIBRARY, reached))
    monkeypatch.setattr(eager, "LIBRARY", Recorder(eager.LIBRARY, reached))
    return reached


x, w, b = torch.randn(3, 8), torch.ones(8), torch.zeros(8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: normkit.functional.layer_norm(x, 8, w, b),
        lambda: normkit.functional.layer_norm(x, [8]),
        lambda: normkit.functional.layer_norm(x, (3, 8)),
        lambda: normkit.functional.layer_norm(x.T, 3),
        lambda: normkit.functional.layer_norm(x.bfloat16(), 8, w, b),
        lambda: normkit.functional.rms_norm(x, 8),
        lambda: normkit.functional.rms_norm(x, 8, w, 1),
        lambda: normkit.functional.add_layer_norm(x, x, 8, dropout_p=0.5),
        lambda: normkit.functional.add_rms_norm(x, x, 8, w),
        lambda: normkit.nn.LayerNorm(8)(x),
        lambda: normkit.nn.RMSNorm(8)(x),
    ],
)
def test_plain_calls_take_the_kernel(call: Callable[[], object], calls: list[str]) -> None:
    call()
    assert calls == ["row_norm_forward"]


pixels = torch.randn(3, 8, 2, 2)


@pytest.mark.parametrize(
    ("kernel", "call"),
    [
        ("channel_norm_forward", lambda: normkit.functional.batch_norm(pixels, b, w, w, b)),
        ("channel_norm_forward", lambda: normkit.functional.batch_norm(pixels, None, None, training=True)),
        ("channel_norm_forward", lambda: normkit.functional.group_norm(pixels.bfloat16(), 2, w, b)),
        ("channel_norm_forward", lambda: normkit.functional.group_norm(pixels.transpose(2, 3), 8)),
        ("layer_norm2d_forward", lambda: normkit.functional.layer_norm2d(pixels, w)),
        ("layer_norm2d_forward", lambda: normkit.functional.layer_norm2d(pixels[0])),
    ],
)
def test_plain_calls_on_images_take_the_kernel(kernel: str, call: Callable[[], object], calls: list[str]) -> None:
    call()
    assert calls == [kernel]


@pytest.mark.parametrize("odd", [w.double(), w[:4], w.view(8, 1), torch.ones(16)[::2], "w"])
def test_odd_parameters_are_looked_at_with_care(odd: object) -> None:
    assert cpu.LIBRARY.plain_channels(pixels, w, b, b, w) is True
    for place in (1, 2, 3, 4):
        arguments: list[object] = [pixels, w, b, b, w]
        arguments[place] = odd
        wanted = (
            place > 2 and odd is not None and isinstance(odd, Tensor) and odd.shape == w.shape and odd.is_contiguous()
        )
        assert cpu.LIBRARY.plain_channels(*arguments) is wanted
    for x in (pixels[:0], w, pixels.transpose(2, 3), pixels.long(), pixels.to("meta"), None):
        assert cpu.LIBRARY.plain_channels(x, None, None, None, None) is False
    assert cpu.LIBRARY.plain_sum(w, b) is True
    assert cpu.LIBRARY.plain_sum(w, odd) is False


def _jvp() -> Tensor:
    return torch.func.jvp(lambda x: normkit.functional.layer_norm(x, 8), (x,), (x,))[1]


def _dual() -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        return normkit.functional.layer_norm(torch.autograd.forward_ad.make_dual(x, x), 8)


# torch loads its own formulas of forward mode through torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


class Subclass(Tensor):
    pass


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.func.vmap(lambda x: normkit.functional.layer_norm(x, 8, w, b))(x),
        lambda: torch.func.grad(lambda x: normkit.functional.layer_norm(x, 8).sin().sum())(x),
        _jvp,
        _dual,
        lambda: normkit.functional.layer_norm(x.as_subclass(Subclass), 8),  # type: ignore[no-untyped-call]
        lambda: normkit.functional.layer_norm(x.to("meta"), 8),
        lambda: torch.fx.experimental.proxy_tensor.make_fx(lambda x: normkit.functional.layer_norm(x, 8))(x),
        lambda: normkit.functional.layer_norm(torch._neg_view(x), 8),
    ],
    ids=["vmap", "grad", "jvp", "dual", "subclass", "meta", "make_fx", "negated"],
)
def test_what_a_kernel_cannot_see_takes_composite(call: Callable[[], object], calls: list[str]) -> None:
    call()
    assert calls == []


def test_a_negated_view_is_read_as_what_it_stands_for() -> None:
    got = normkit.functional.layer_norm(torch._neg_view(x), 8, w, b)
    torch.testing.assert_close(got, -normkit.functional.layer_norm(x, 8, w, b))


def test_the_reason_is_told() -> None:
    assert choose.why_not(x, w, None) is None
    assert choose.why_not(x.to("meta")) == "there is no kernel for device meta"
    assert choose.why_not(x.long()) == "there is no kernel for torch.int64"
    assert choose.why_not(x.as_subclass(Subclass)) == "Subclass is a tensor subclass"  # type: ignore[no-untyped-call]
    assert choose.why_not(x.to_sparse()) == "the tensor is not in plain memory"
    with torch.autograd.forward_ad.dual_level():
        assert choose.why_not(x) == "forward-mode differentiation is active"


def test_description_names_the_instruction_set() -> None:
    env = {**os.environ, "NORMKIT_ISA": "portable", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = "from normkit.kernels import cpu; print(cpu.DESCRIPTION)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "compiled kernels for portable"


@pytest.mark.needs_no_library
def test_without_the_library_composite_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LIBRARY", None)
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    monkeypatch.setattr(cpu, "DESCRIPTION", "the compiled library is not there: no compiler")
    assert choose.why_not(x) == "the compiled library is not there: no compiler"
    y = normkit.functional.layer_norm(x, 8, w, b)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (8,), w, b))
    z = normkit.functional.add_rms_norm(x, x, 8, w)[1]
    assert torch.equal(z, x + x)


def test_after_fork() -> None:
    """The first parallel region of a forked child must not wait for its parent's threads."""
    code = (
        "import os, sys, torch, normkit\n"
        "x = torch.randn(4096, 256)\n"
        "y = normkit.functional.layer_norm(x, 256)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    os._exit(0 if torch.equal(y, normkit.functional.layer_norm(x, 256)) else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, timeout=60)
    assert done.returncode == 0


def test_zeros_that_are_in_no_memory_are_not_read() -> None:
    """As forward AD leaves them: they have no address."""
    zeros = torch._efficientzerotensor((4, 8))
    for y in (normkit.functional.layer_norm(zeros, (8,), w, b), normkit.functional.group_norm(zeros, 2, w, b)):
        assert torch.equal(y, b.expand(4, 8))
    assert not choose.are_plain_floats(zeros)
    state = torch._efficientzerotensor((1, 2, 4)), torch.zeros(1, 2, 4)
    layer, x = normkit.nn.LayerNormLSTM(3, 4), torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x, state)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("tensors", "plain"),
    [
        ((w, None, pixels.transpose(2, 3), Parameter(b)), True),
        ((), True),
        ((w, w.double()), False),
        ((w[:0],), False),
        ((w.to("meta"),), False),
        ((w.to_sparse(),), False),
        ((torch._neg_view(w),), False),
        ((w.as_subclass(Subclass),), False),
    ],
)
def test_float32_in_plain_memory(
    tensors: tuple[Tensor | None, ...], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same is said with libtorch's eyes and by Python's attributes."""
    assert choose.are_plain_floats(*tensors) is plain
    monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    assert choose.are_plain_floats(*tensors) is plain


def test_a_number_beyond_all_floats_is_no_eps() -> None:
    with pytest.raises(DtypeError, match="eps"):
        normkit.functional.layer_norm(x, 8, eps=10**400)
