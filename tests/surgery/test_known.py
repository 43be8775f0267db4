"""upgrade on the norms of timm, torchvision and transformers: what they return stays what it was."""

from __future__ import annotations

import copy
import io
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

import normkit
from surgery import foreign
from tolerances import ulp

ROWS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: foreign.LlamaRMSNorm(40),
    "olmo2": lambda: foreign.Olmo2RMSNorm(40),
    "t5": lambda: foreign.T5LayerNorm(40),
    "gemma": lambda: foreign.GemmaRMSNorm(40),
    "gemma3n": lambda: foreign.Gemma3nRMSNorm(40),
    "cohere": lambda: foreign.CohereLayerNorm(40),
    "convnext": lambda: foreign.ConvNextLayerNorm(40),
    "data_format": lambda: foreign.LayerNorm(40),
    "timm layer": lambda: foreign.TimmLayerNorm(40),
    "timm layer fp32": lambda: foreign.LayerNormFp32(40),
    "timm rms": lambda: foreign.RmsNorm(40),
}
MAPS: dict[str, Callable[[], nn.Module]] = {
    "convnext first": lambda: foreign.ConvNextLayerNorm(40, data_format="channels_first"),
    "data_format first": lambda: foreign.LayerNorm(40, data_format="channels_first"),
    "torchvision 2d": lambda: foreign.LayerNorm2d(40),
    "torchvision frozen": lambda: foreign.FrozenBatchNorm2d(40),
    "detr frozen": lambda: foreign.DetrFrozenBatchNorm2d(40),
    "timm 2d": lambda: foreign.TimmLayerNorm2d(40),
    "timm group": lambda: foreign.GroupNorm1(40),
    "timm rms 2d": lambda: foreign.RmsNorm2d(40),
    "timm batch": lambda: foreign.BatchNormAct2d(40),
    "timm batch gelu": lambda: foreign.BatchNormAct2d(40, nn.GELU()),
    "timm frozen": lambda: foreign.FrozenBatchNormAct2d(40),
    "timm group silu": lambda: foreign.GroupNormAct(40),
}
EVERY = {**ROWS, **MAPS}


def example(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.Tensor]:
    """A module with parameters that have been trained, and input for it."""
    module = EVERY[name]()
    with torch.no_grad():
        for t in (*module.parameters(), *module.buffers()):
            if t.is_floating_point():
                t.add_(torch.rand_like(t))
    shape = (6, 40, 8, 5) if name in MAPS else (6, 7, 40)
    return module.to(dtype), (torch.randn(shape) + 1).to(dtype)


def run(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x.view_as(x))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], dy)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", EVERY)
def test_the_same_numbers_come_out_afterwards(name: str, training: bool) -> None:
    module, x = example(name)
    module.train(training)
    twin, tensors = copy.deepcopy(module), {k: id(v) for k, v in module.state_dict(keep_vars=True).items()}
    report = normkit.upgrade(module)
    assert len(report.swapped) == 1, report
    assert report.left == ()
    # Both round in float32: 1e-5 of the largest value is 80 units in the last place.
    for got, expected in zip(run(module, x), run(twin, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(dict(module.named_buffers()), dict(twin.named_buffers()))
    assert {k: id(v) for k, v in module.state_dict(keep_vars=True).items()} == tensors
    assert isinstance(module, type(twin))
    assert repr(module) == repr(twin)
    assert normkit.upgrade(module) == normkit.UpgradeReport((), ())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ROWS)
def test_16_bit_output_is_the_exact_one_rounded_once(name: str, dtype: torch.dtype) -> None:
    module, x = example(name, dtype)
    exact = copy.deepcopy(module).double()(x.double()).detach()
    assert len(normkit.upgrade(module).swapped) == 1
    error = (module(x).detach().double() - exact).abs()
    # 0.51 ulp, and what float32, in which most of these compute the "exact" one, errs by: 8 units of the largest.
    bound = 0.51 * torch.from_numpy(ulp(exact.numpy(), dtype)) + 8 * 2**-23 * exact.abs().max()
    assert (error <= bound).all()


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", EVERY)
def test_mixed_dtypes_give_the_dtype_that_they_gave(name: str, own: torch.dtype) -> None:
    module, x = example(name, own)
    other = torch.bfloat16 if own == torch.float32 else torch.float32
    try:
        expected = module(x.to(other))
    except RuntimeError:
        pytest.skip("torch's own layer refuses these dtypes together")
    normkit.upgrade(module)
    assert module(x.to(other)).dtype == expected.dtype


@pytest.mark.parametrize("name", ["timm 2d", "timm rms 2d", "timm batch", "torchvision frozen"])
def test_channels_last_stays(name: str) -> None:
    module, x = example(name)
    normkit.upgrade(module)
    y = module(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_the_report_names_what_computes_and_in_what_order() -> None:
    model = nn.Sequential(foreign.GemmaRMSNorm(8), foreign.BatchNormAct2d(4))
    assert [(s.before, s.after) for s in normkit.upgrade(model).swapped] == [
        ("transformers.models.gemma.modeling_gemma.GemmaRMSNorm", "normkit.functional.rms_norm, times 1 + weight"),
        ("timm.layers.norm_act.BatchNormAct2d", "normkit.nn.BatchNorm2d, then its own activation"),
    ]


def test_upgraded_modules_of_one_class_stay_of_one_class() -> None:
    first, second = foreign.LlamaRMSNorm(8), foreign.LlamaRMSNorm(16)
    normkit.upgrade(first)
    normkit.upgrade(second)
    assert type(first) is type(second) is type(copy.deepcopy(first))


def test_an_upgraded_module_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    home = types.ModuleType("transformers_modules")
    monkeypatch.setitem(sys.modules, home.__name__, home)
    monkeypatch.setattr(foreign.LlamaRMSNorm, "__module__", home.__name__)
    home.LlamaRMSNorm = foreign.LlamaRMSNorm  # type: ignore[attr-defined]
    module, x = example("llama")
    module.mark = "kept"
    normkit.upgrade(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert type(loaded) is type(module)
    assert loaded.mark == "kept"
    assert torch.equal(loaded(x), module(x))


@pytest.mark.parametrize("name", ["llama", "timm batch", "data_format first"])
def test_upgraded_modules_compile_whole_and_trace(name: str) -> None:
    module, x = example(name)
    module.eval()
    normkit.upgrade(module)
    expected = module(x)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(module))(x), expected)


def test_the_comparison_leaves_no_trace() -> None:
    module, x = example("timm batch")
    calls = []
    module.register_forward_hook(lambda *_: calls.append("hook"))
    module.act.register_forward_hook(lambda *_: calls.append("act"))
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    with torch.no_grad():
        assert len(normkit.upgrade(module).swapped) == 1
    assert calls == []
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    module(x)
    assert calls == ["act", "hook"]


def test_upgrading_inside_inference_mode_and_autocast_compares_as_outside() -> None:
    module, _ = example("llama")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert len(normkit.upgrade(module).swapped) == 1


def test_equal_modules_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = foreign.LlamaRMSNorm.forward
    monkeypatch.setattr(
        foreign.LlamaRMSNorm, "forward", lambda self, x: (calls.append(x.shape[-1]), forward(self, x))[1]
    )
    normkit.upgrade(nn.ModuleList([foreign.LlamaRMSNorm(8) for _ in range(9)]))
    once = len(calls)
    assert once > 0
    normkit.upgrade(
        nn.ModuleList([foreign.LlamaRMSNorm(8), foreign.LlamaRMSNorm(8, eps=1e-5), foreign.LlamaRMSNorm(4)])
    )
    assert len(calls) == 4 * once
    assert set(calls) == {8, 4}
