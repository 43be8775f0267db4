"""Bad calls: where torch raises, ours raises, in a class that catches torch's, with a message that helps."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch

from conformance.layers import CASES, LayerCase
from normkit import nn
from normkit.errors import NormkitError

MESSAGE = re.compile(r"(?P<call>\w+): expected (?P<rule>.+), got (?P<got>.+?); (?P<advice>.+)\.", re.DOTALL)

X = torch.zeros(3, 6)
MAP = torch.zeros(2, 6, 4, 3)
SEQUENCE = torch.zeros(2, 6, 5)


@dataclass(frozen=True)
class Bad:
    """A call that ours refuses; ``torch`` is what torch's layer raises for it, None where it computes something."""

    layer: str
    what: str
    call: Callable[[Any], object]
    got: str
    torch: type[Exception] | None

    def __str__(self) -> str:
        return f"{self.layer} {self.what}"


def of_normalized_shape(layer: str) -> list[Bad]:
    def build(*args: Any, **kwargs: Any) -> Callable[[Any], object]:
        return lambda m: getattr(m, layer)(*args, **kwargs)

    def apply(x: object, **kwargs: Any) -> Callable[[Any], object]:
        return lambda m: getattr(m, layer)(6, **kwargs)(x)

    too_few_axes = ValueError if layer == "RMSNorm" else RuntimeError
    return [
        Bad(layer, "float shape", build(6.0), "6.0", TypeError),
        Bad(layer, "string shape", build("6"), "'6'", TypeError),
        Bad(layer, "list of floats", build([6.0]), "[6.0]", TypeError),
        Bad(layer, "no shape", build(None), "None", TypeError),
        Bad(layer, "boolean shape", build(True), "True", TypeError),
        Bad(layer, "negative size", build(-1), "[-1]", RuntimeError),
        Bad(layer, "empty shape", lambda m: getattr(m, layer)([])(X), "[]", RuntimeError),
        Bad(layer, "negative eps", build(6, eps=-1e-5), "-1e-05", None),
        Bad(layer, "nan eps", build(6, eps=float("nan")), "nan", None),
        Bad(layer, "infinite eps", build(6, eps=float("inf")), "inf", None),
        Bad(layer, "string eps", lambda m: getattr(m, layer)(6, eps="1e-5")(X), "'1e-5'", TypeError),
        Bad(layer, "eps made negative later", lambda m: with_eps(getattr(m, layer)(6), -1.0)(X), "-1.0", None),
        Bad(layer, "last axis of another size", apply(torch.zeros(6, 5)), "[6, 5]", RuntimeError),
        Bad(layer, "0-d input", apply(torch.tensor(1.0)), "[]", too_few_axes),
        Bad(layer, "fewer axes than the shape", lambda m: getattr(m, layer)((2, 6))(X[0]), "[6]", too_few_axes),
        Bad(layer, "integers", apply(X.long()), "int64", RuntimeError),
        Bad(layer, "booleans", apply(X.bool()), "bool", RuntimeError),
        Bad(layer, "float8", apply(X.to(torch.float8_e4m3fn)), "float8_e4m3fn", RuntimeError),
        Bad(layer, "a list", apply([1.0] * 6), "list", TypeError),
        Bad(layer, "an array", apply(X.numpy()), "ndarray", TypeError),
        Bad(layer, "None", apply(None), "NoneType", TypeError),
        Bad(layer, "a sparse tensor", apply(X.to_sparse()), "sparse_coo", RuntimeError),
    ]


def with_eps(layer: torch.nn.Module, eps: float) -> torch.nn.Module:
    layer.eps = eps
    return layer


def of_channels(layer: str, good: torch.Tensor, ranks: dict[str, torch.Tensor]) -> list[Bad]:
    """For BatchNorm and InstanceNorm, with parameters and statistics."""

    def build(**kwargs: Any) -> Callable[[Any], object]:
        return lambda m: getattr(m, layer)(**{"num_features": 6, **kwargs})

    def apply(x: object, **kwargs: Any) -> Callable[[Any], object]:
        return lambda m: getattr(m, layer)(6, affine=True, track_running_stats=True, **kwargs)(x)

    other = torch.zeros(2, 5, *good.shape[2:])
    wrong_channels = RuntimeError if "Batch" in layer else ValueError
    return [
        Bad(layer, "float channels", build(num_features=6.0, affine=True), "6.0", TypeError),
        Bad(layer, "negative channels", build(num_features=-6, affine=True), "-6", RuntimeError),
        Bad(layer, "negative eps", build(eps=-1.0), "-1.0", None),
        Bad(layer, "string eps", lambda m: getattr(m, layer)(6, eps="1e-5")(good), "'1e-5'", TypeError),
        Bad(layer, "string momentum", apply(good, momentum="0.1"), "'0.1'", TypeError),
        Bad(layer, "nan momentum", build(momentum=float("nan")), "nan", None),
        Bad(layer, "another number of channels", apply(other), "5", wrong_channels),
        Bad(layer, "integers", apply(good.long()), "int64", NotImplementedError),
        Bad(layer, "complex numbers", apply(good.to(torch.complex64)), "complex64", NotImplementedError),
        Bad(layer, "another device", apply(good.to("meta")), "cpu", RuntimeError),
        Bad(layer, "float64 beside float32 parameters", apply(good.double()), "float32", RuntimeError),
        Bad(layer, "a sparse tensor", apply(good.to_sparse()), "sparse_coo", RuntimeError),
        *(Bad(layer, f"{rank} input", apply(x), str(list(x.shape)), ValueError) for rank, x in ranks.items()),
    ]


BAD_CALLS = [
    *of_normalized_shape("LayerNorm"),
    *of_normalized_shape("RMSNorm"),
    Bad("LayerNorm", "no eps", lambda m: m.LayerNorm(6, eps=None)(X), "None", TypeError),
    Bad("LayerNorm", "complex numbers", lambda m: m.LayerNorm(6)(X.to(torch.complex64)), "complex64", RuntimeError),
    Bad("RMSNorm", "complex numbers", lambda m: m.RMSNorm(6)(X.to(torch.complex64)), "complex64", None),
    Bad("LayerNorm", "float64 layer", lambda m: m.LayerNorm(6).double()(X), "float64", RuntimeError),
    Bad("LayerNorm", "16-bit layer", lambda m: m.LayerNorm(6).half()(X), "float16", RuntimeError),
    Bad("LayerNorm", "another device", lambda m: m.LayerNorm(6)(X.to("meta")), "cpu", RuntimeError),
    *of_channels("BatchNorm1d", X, {"1-d": X[0], "4-d": MAP, "0-d": torch.tensor(1.0)}),
    *of_channels("BatchNorm2d", MAP, {"2-d": X, "3-d": SEQUENCE, "5-d": MAP[None]}),
    *of_channels("BatchNorm3d", MAP[..., None], {"4-d": MAP, "2-d": X}),
    *of_channels("InstanceNorm1d", SEQUENCE, {"1-d": X[0], "4-d": MAP}),
    *of_channels("InstanceNorm2d", MAP, {"2-d": X, "5-d": MAP[None]}),
    *of_channels("InstanceNorm3d", MAP[..., None], {"2-d": X, "3-d": SEQUENCE}),
    Bad("BatchNorm1d", "one value a channel", lambda m: m.BatchNorm1d(6)(X[:1]), "[1, 6]", ValueError),
    Bad("BatchNorm2d", "one value", lambda m: m.BatchNorm2d(6)(MAP[:1, :, :1, :1]), "[1, 6, 1, 1]", ValueError),
    Bad("BatchNorm1d", "eps of 0 in training", lambda m: m.BatchNorm1d(6, eps=0)(X), "0", ValueError),
    Bad("BatchNorm2d", "channels last but one", lambda m: m.BatchNorm2d(3)(MAP), "6", RuntimeError),
    Bad("InstanceNorm1d", "one position", lambda m: m.InstanceNorm1d(6)(SEQUENCE[..., :1]), "[2, 6, 1]", ValueError),
    Bad("InstanceNorm2d", "one position", lambda m: m.InstanceNorm2d(6)(MAP[..., :1, :1]), "[2, 6, 1, 1]", ValueError),
    Bad("InstanceNorm2d", "one position, unbatched", lambda m: m.InstanceNorm2d(6)(MAP[0, :, :1, :1]), "1", ValueError),
    Bad("GroupNorm", "groups that do not divide", lambda m: m.GroupNorm(8, 30), "30 and 8", ValueError),
    Bad("GroupNorm", "no groups", lambda m: m.GroupNorm(0, 6), "6 and 0", ZeroDivisionError),
    Bad("GroupNorm", "negative groups", lambda m: m.GroupNorm(-2, 6)(X), "6 and -2", RuntimeError),
    Bad("GroupNorm", "float groups", lambda m: m.GroupNorm(2.0, 6)(X), "2.0", TypeError),
    Bad("GroupNorm", "float channels", lambda m: m.GroupNorm(2, 6.0), "6.0", TypeError),
    Bad("GroupNorm", "negative channels", lambda m: m.GroupNorm(2, -6), "-6", RuntimeError),
    Bad("GroupNorm", "negative eps", lambda m: m.GroupNorm(2, 6, eps=-1.0), "-1.0", None),
    Bad("GroupNorm", "another number of channels", lambda m: m.GroupNorm(2, 6)(X[:, :4]), "4", RuntimeError),
    Bad("GroupNorm", "an odd number of channels", lambda m: m.GroupNorm(2, 6)(X[:, :3]), "3", RuntimeError),
    Bad(
        "GroupNorm", "channels its groups do not divide, without parameters",
        lambda m: m.GroupNorm(2, 6, affine=False)(X[:, :3]), "3 and 2", RuntimeError,
    ),
    Bad("GroupNorm", "1-d input", lambda m: m.GroupNorm(2, 6)(X[0]), "[6]", RuntimeError),
    Bad("GroupNorm", "one value a group, one sample", lambda m: m.GroupNorm(6, 6)(X[:1]), "[1, 6]", ValueError),
    Bad("GroupNorm", "one value a group, some samples", lambda m: m.GroupNorm(6, 6)(X), "[3, 6]", None),
    Bad("GroupNorm", "integers", lambda m: m.GroupNorm(2, 6)(X.long()), "int64", RuntimeError),
    Bad("GroupNorm", "a sparse tensor", lambda m: m.GroupNorm(2, 6)(X.to_sparse()), "sparse_coo", RuntimeError),
    Bad("LayerNorm2d", "another number of channels", lambda m: m.LayerNorm2d(6)(MAP[:, :5]), "5", None),
    Bad(
        "LayerNorm2d", "another number of channels, without parameters",
        lambda m: m.LayerNorm2d(6, elementwise_affine=False)(MAP[:, :5]), "5", None,
    ),
    Bad("LayerNorm2d", "channels last", lambda m: m.LayerNorm2d(3)(MAP), "6", None),
    Bad("LayerNorm2d", "2-d input", lambda m: m.LayerNorm2d(6)(X), "[3, 6]", None),
    Bad("LayerNorm2d", "5-d input", lambda m: m.LayerNorm2d(6)(MAP[None]), "[1, 2, 6, 4, 3]", None),
    Bad("LayerNorm2d", "integers", lambda m: m.LayerNorm2d(6)(MAP.long()), "int64", None),
    Bad("LayerNorm2d", "float channels", lambda m: m.LayerNorm2d(6.0), "6.0", None),
    Bad("LayerNorm2d", "negative channels", lambda m: m.LayerNorm2d(-6), "-6", None),
    Bad("LayerNorm2d", "negative eps", lambda m: m.LayerNorm2d(6, eps=-1.0), "-1.0", None),
    *(
        bad
        for layer in ("AddLayerNorm", "AddRMSNorm")
        for bad in (
            Bad(layer, "residual to broadcast", lambda m, n=layer: getattr(m, n)(6)(X, X[0]), "[6]", None),
            Bad(layer, "float64 residual", lambda m, n=layer: getattr(m, n)(6)(X, X.double()), "float64", None),
            Bad(layer, "residual elsewhere", lambda m, n=layer: getattr(m, n)(6)(X, X.to("meta")), "meta", None),
            Bad(layer, "no residual", lambda m, n=layer: getattr(m, n)(6)(X, None), "NoneType", None),
            Bad(layer, "integers", lambda m, n=layer: getattr(m, n)(6)(X.long(), X.long()), "int64", None),
            Bad(layer, "dropout_p above 1", lambda m, n=layer: getattr(m, n)(6, dropout_p=1.5), "1.5", None),
            Bad(layer, "negative dropout_p", lambda m, n=layer: getattr(m, n)(6, dropout_p=-0.1), "-0.1", None),
            Bad(layer, "nan dropout_p", lambda m, n=layer: getattr(m, n)(6, dropout_p=float("nan")), "nan", None),
            Bad(layer, "negative eps", lambda m, n=layer: getattr(m, n)(6, eps=-1.0), "-1.0", None),
            Bad(layer, "last axis of another size", lambda m, n=layer: getattr(m, n)(5)(X, X), "[3, 6]", None),
        )
    ),
]  # fmt: skip

# Accidents of torch's implementation that nobody catches on purpose.
ACCIDENTS = (ZeroDivisionError,)

every_bad_call = pytest.mark.parametrize("bad", BAD_CALLS, ids=str)


@every_bad_call
def test_raises_what_torch_raises(bad: Bad) -> None:
    with pytest.raises(NormkitError) as caught:
        bad.call(nn)
    if hasattr(torch.nn, bad.layer):
        raised = what_raises(bad, torch.nn)
        expected = bad.torch if bad.torch is not None else type(None)
        assert issubclass(raised, expected), "torch's layer behaves otherwise than the table says"
        if bad.torch is not None and raised not in ACCIDENTS:
            assert isinstance(caught.value, raised)


def what_raises(bad: Bad, layers: ModuleType) -> type:
    try:
        bad.call(layers)
    except Exception as error:
        return type(error)
    return type(None)


@every_bad_call
def test_message_names_layer_rule_value_and_way_out(bad: Bad) -> None:
    with pytest.raises(NormkitError) as caught:
        bad.call(nn)
    text = str(caught.value)
    match = MESSAGE.fullmatch(text)
    assert match, text
    assert match["call"] == bad.layer, text
    assert bad.got in match["got"], text
    assert "\n" not in text
    assert "  " not in text


STATEFUL = [case for case in CASES if case.training and issubclass(case.layer, torch.nn.modules.batchnorm._NormBase)]


@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_a_call_that_raises_leaves_the_layer_as_it_was(case: LayerCase) -> None:
    layer = case.build(track_running_stats=True)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    (x,) = case.inputs()
    bad_inputs = [
        x.long(),
        x[:, :5],
        x.double(),
        x.to("meta"),
        x[None, None, None],
        torch.zeros(1, 6, *[1] * (x.dim() - 2)),
    ]
    for bad in bad_inputs:
        with pytest.raises(NormkitError):
            layer(bad)
        for name, value in layer.state_dict().items():
            assert torch.equal(value, before[name]), name
    layer(x)
    assert not torch.equal(layer.running_mean, before["running_mean"])
