"""What carries a known name and must not be swapped: another formula, however small the difference, or other habits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normkit
from surgery import foreign

Formula = Callable[["Hostile", Tensor], Tensor]


class Hostile(nn.Module):
    """Called LlamaRMSNorm, and computes what a test says."""

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.variance_epsilon = 1e-6
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


Hostile.__name__, Hostile.__module__ = "LlamaRMSNorm", "transformers.models.llama.modeling_llama"


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


FORMULAS: dict[str, Formula] = {
    "eps outside the root": lambda m, x: m.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-6),
    "another eps": lambda m, x: m.weight * rms(x, 1.01e-6),
    "Bessel's correction": lambda m, x: m.weight * rms(x) * (47 / 48) ** 0.5,
    "sum for mean": lambda m, x: m.weight * x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6),
    "the weight squared": lambda m, x: m.weight**2 * rms(x),
    "a weight that is not learnt": lambda m, x: m.weight.detach() * rms(x),
    "a gradient cut in the statistic": lambda m, x: m.weight * x * (rms(x) / x).detach(),
    "the whole sample as one row": lambda m, x: (
        m.weight * x * torch.rsqrt(x.square().mean((1, 2), keepdim=True) + 1e-6)
    ),
    "clipped": lambda m, x: m.weight * rms(x).clamp(-2, 2),
    "noise in training": lambda m, x: m.weight * rms(x) + m.training * 1e-3 * torch.randn_like(x),
    "another mode in evaluation": lambda m, x: m.weight * (rms(x) if m.training else x),
    "centred": lambda m, x: m.weight * rms(x - x.mean(-1, keepdim=True)),
    "nan": lambda m, x: m.weight * rms(x) * float("nan"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FORMULAS)
def test_another_formula_under_a_known_name_is_left(name: str, dtype: torch.dtype) -> None:
    module = Hostile(FORMULAS[name]).to(dtype)
    before = type(module)
    (left,) = normkit.upgrade(module).left
    assert type(module) is before
    assert "normkit's" in left.reason


def test_the_formula_it_should_have_is_swapped() -> None:
    # Without which the test above would pass for a comparison that refuses everything.
    assert len(normkit.upgrade(Hostile(lambda m, x: m.weight * rms(x))).swapped) == 1


def test_the_reason_says_by_how_much() -> None:
    (left,) = normkit.upgrade(Hostile(FORMULAS["Bessel's correction"])).left
    assert left.reason == (
        "its output differs from normkit's by 1.0e-02 of the largest value, where rounding in float32 explains 4.8e-06"
    )


def raises(m: Hostile, x: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available\nfor this device")


def counts(m: Hostile, x: Tensor) -> Tensor:
    m.calls = getattr(m, "calls", 0) + 1
    return m.weight * rms(x)


def remembers(m: Hostile, x: Tensor) -> Tensor:
    m.history.append(len(m.history))
    return m.weight * rms(x)


def writes(m: Hostile, x: Tensor) -> Tensor:
    y = m.weight * rms(x)
    with torch.no_grad():
        m.weight.mul_(0.5)
    return y.clone()


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        (raises, "its forward raises on input float32 [3, 5, 48]: RuntimeError: no kernel image is available"),
        (counts, "its forward changes what the module stores"),
        (remembers, "its forward changes what the module stores"),
        (lambda m, x: (m.weight * rms(x), x), "its forward raises on input float32 [3, 5, 48]: TypeError: it returned"),
        (
            lambda m, x: (m.weight * rms(x)).double(),
            "its output is float64 [3, 5, 48], and normkit's float32 [3, 5, 48]",
        ),
        (lambda m, x: (m.weight * rms(x))[:, :1], "its output is float32 [3, 1, 48], and normkit's float32 [3, 5, 48]"),
    ],
    ids=["raises", "counts", "remembers", "pair", "dtype", "shape"],
)
def test_other_habits_are_left_with_their_reason(formula: Formula, reason: str) -> None:
    module = Hostile(formula)
    module.history = []
    (left,) = normkit.upgrade(module).left
    assert left.reason.startswith(reason)
    assert module.history == []
    assert not hasattr(module, "calls")


def test_a_forward_that_writes_to_its_parameters_is_left() -> None:
    module = Hostile(writes)
    assert len(normkit.upgrade(module).left) == 1
    assert torch.equal(module.weight, torch.ones(48))


def test_forwards_that_take_more_than_the_input_are_left() -> None:
    class Gated(foreign.LlamaRMSNorm):
        def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
            y = super().forward(hidden_states)
            return y if gate is None else y * gate

    Gated.__module__, Gated.__name__ = foreign.LlamaRMSNorm.__module__, "GatedRMSNorm"
    (left,) = normkit.upgrade(Gated(8)).left
    assert left.reason == "its forward takes more than the input"


def test_what_cannot_be_compared_is_left() -> None:
    class Uncopied(foreign.LlamaRMSNorm):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise ValueError("one of a kind")

    Uncopied.__module__ = foreign.LlamaRMSNorm.__module__
    Uncopied.__name__ = "UncopiedRMSNorm"
    fast = foreign.TimmLayerNorm(8)
    fast._fast_norm = True
    replaced = foreign.LlamaRMSNorm(8)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    model = nn.ModuleDict(
        {
            "uncopied": Uncopied(8),
            "meta": foreign.LlamaRMSNorm(8).to("meta"),
            "fast": fast,
            "replaced": replaced,
            "unknown": foreign.SimpleNorm(8),
            "parametrized": nn.utils.parametrize.register_parametrization(
                foreign.LlamaRMSNorm(8), "weight", nn.Identity()
            ),
            "response": nn.LocalResponseNorm(2),
            "float64": foreign.LlamaRMSNorm(8).double(),
        }
    )
    reasons = {x.name: x.reason for x in normkit.upgrade(model).left}
    assert reasons.pop("float64").endswith("where rounding in float64 explains 8.9e-15")  # it computes in float32
    assert reasons == {
        "uncopied": "it cannot be copied, to be compared: ValueError: one of a kind",
        "meta": "its parameters are on the meta device: load them, then upgrade",
        "fast": "it is in timm's fast mode, which rounds to autocast's dtype",
        "replaced": "its forward was replaced on the module",
        "unknown": "normkit does not know this class",
        "parametrized": "it is parametrized: its parameters are computed on access",
        "response": "normkit does not know this class",
    }


def test_blocks_that_have_a_norm_inside_are_no_norms() -> None:
    class ConvNormAct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)

    report = normkit.upgrade(ConvNormAct())
    assert [s.name for s in report.swapped] == ["bn"]
    assert report.left == ()


def test_the_same_name_in_another_package_proposes_nothing() -> None:
    class LlamaRMSNorm(foreign.LlamaRMSNorm):
        pass

    (left,) = normkit.upgrade(LlamaRMSNorm(8)).left
    assert left.reason == "normkit does not know this class"


def test_an_error_puts_adopted_modules_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from normkit.surgery.classes import _OURS

    model = nn.Sequential(foreign.LlamaRMSNorm(8), nn.LayerNorm(8))
    types = copy.copy([type(m) for m in model])
    monkeypatch.setitem(_OURS, nn.LayerNorm, int)
    with pytest.raises(TypeError):
        normkit.upgrade(model)
    assert [type(m) for m in model] == types
