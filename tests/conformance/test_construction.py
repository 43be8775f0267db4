"""What a layer is before and beside its forward: signature, repr, state, copies, dtypes, devices."""

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch

from conformance.layers import (
    CASES,
    CLASSES,
    PARITY_CASES,
    LayerCase,
    every_class,
    every_layer,
    every_parity_layer,
    outputs,
)

DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.float32)
STATISTICS = ("running_mean", "running_var")
PARITY_CLASSES = [case for case in CLASSES if case.torch_layer is not None]
VARIANTS = [(case, variant) for case in CASES for variant in case.variants]
PARITY_VARIANTS = [(case, variant) for case in PARITY_CASES for variant in case.variants]

every_parity_class = pytest.mark.parametrize("case", PARITY_CLASSES, ids=lambda case: case.layer.__name__)
every_parity_variant = pytest.mark.parametrize(("case", "variant"), PARITY_VARIANTS, ids=str)
every_variant = pytest.mark.parametrize(("case", "variant"), VARIANTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@every_parity_class
def test_constructor_has_torchs_signature(case: LayerCase) -> None:
    """Same names, kinds, order and defaults; what is added is keyword-only and comes after."""
    ours = list(inspect.signature(case.layer).parameters.values())
    theirs = list(inspect.signature(case.torch_layer).parameters.values())
    assert [(p.name, p.kind, p.default) for p in ours[: len(theirs)]] == [(p.name, p.kind, p.default) for p in theirs]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])


@every_parity_class
def test_forward_takes_torchs_arguments(case: LayerCase) -> None:
    ours, theirs = (inspect.signature(layer.forward) for layer in (case.layer, case.torch_layer))
    assert list(ours.parameters)[: len(theirs.parameters)] == list(theirs.parameters)
    more = list(ours.parameters.values())[len(theirs.parameters) :]  # a residual, which nothing is added without
    assert [p.default for p in more] == [None] * len(more)


@every_parity_class
def test_is_a_torch_layer_of_its_kind(case: LayerCase) -> None:
    """So that isinstance checks and tools that look for norms (weight decay, surgery) find it."""
    assert issubclass(case.layer, case.torch_layer)


@every_parity_variant
def test_repr_is_torchs(case: LayerCase, variant: dict[str, Any]) -> None:
    args = case.sized(6)[0]
    assert repr(case.layer(*args, **variant)) == repr(case.torch_layer(*args, **variant))


@every_variant
def test_repr_builds_the_layer_again(case: LayerCase, variant: dict[str, Any]) -> None:
    """The repr of every layer names each setting that was given, in the constructor's terms."""
    text = repr(case.layer(*case.sized(6)[0], **variant))
    assert text.startswith(f"{case.layer.__name__}(")
    for name, value in variant.items():
        assert f"{name}={value}" in text


@every_parity_variant
def test_state_dict_loads_both_ways(case: LayerCase, variant: dict[str, Any]) -> None:
    args = case.sized(6)[0]
    ours, theirs = case.build(**variant), case.torch_layer(*args, **{**case.options, **variant})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    back = case.layer(*args, **{**case.options, **variant})
    back.load_state_dict(theirs.state_dict(), strict=True)
    for name, value in ours.state_dict().items():
        assert value.dtype == theirs.state_dict()[name].dtype
        assert torch.equal(back.state_dict()[name], value), name


@every_parity_variant
def test_starts_as_torchs(case: LayerCase, variant: dict[str, Any]) -> None:
    """Same parameters, buffers, dtypes, requires_grad and mode before any training."""
    args = case.sized(6)[0]
    ours, theirs = case.layer(*args, **variant), case.torch_layer(*args, **variant)
    assert ours.training == theirs.training
    assert [(n, p.requires_grad) for n, p in ours.named_parameters()] == [
        (n, p.requires_grad) for n, p in theirs.named_parameters()
    ]
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def copies(layer: torch.nn.Module) -> dict[str, torch.nn.Module]:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return {
        "pickle": pickle.loads(pickle.dumps(layer)),
        "deepcopy": copy.deepcopy(layer),
        "torch.save": torch.load(file, weights_only=False),
    }


@every_variant
def test_copies_compute_the_same_and_share_nothing(case: LayerCase, variant: dict[str, Any]) -> None:
    layer = case.build(**variant)
    inputs = case.inputs()
    twins = copies(layer)  # before a training step changes the statistics
    expected = outputs(layer(*inputs))
    for how, twin in twins.items():
        assert type(twin) is type(layer), how
        assert twin.training == layer.training, how
        assert repr(twin) == repr(layer), how
        assert all(torch.equal(a, b) for a, b in zip(outputs(twin(*inputs)), expected, strict=True)), how
        assert twin.state_dict().keys() == layer.state_dict().keys(), how
        for name, value in twin.state_dict().items():
            assert torch.equal(value, layer.state_dict()[name]), (how, name)
            assert value.data_ptr() != layer.state_dict()[name].data_ptr(), (how, name)


@every_layer
def test_weights_only_checkpoint(case: LayerCase) -> None:
    layer = case.build()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = case.build()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in other.state_dict().items())


@every_dtype
@every_parity_layer
def test_dtype_conversions_are_torchs(case: LayerCase, dtype: torch.dtype) -> None:
    """.to, .half and the rest, and dtype= of the constructor; but 16-bit running statistics are float32."""
    args = case.sized(6)[0]
    made = [
        (case.build().to(dtype), case.torch_layer(*args, **case.options).to(dtype)),
        (case.layer(*args, **case.options, dtype=dtype), case.torch_layer(*args, **case.options, dtype=dtype)),
    ]
    method = {torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float"}
    convert = method[dtype]
    made.append((getattr(case.build(), convert)(), getattr(case.torch_layer(*args, **case.options), convert)()))
    for ours, theirs in made:
        for name, value in theirs.state_dict().items():
            expected = value.dtype
            if name in STATISTICS and dtype in (torch.bfloat16, torch.float16):
                expected = torch.float32
            assert ours.state_dict()[name].dtype == expected, name


@every_layer
def test_conversion_to_16_bits_and_back_keeps_statistics(case: LayerCase) -> None:
    layer = case.build()
    before = {name: b.clone() for name, b in layer.named_buffers()}
    layer.half().bfloat16().float()
    for name, value in before.items():
        assert torch.equal(getattr(layer, name), value), name


@every_class
def test_meta_device(case: LayerCase) -> None:
    """Built without memory, then given memory and reset, the layer is as new."""
    args = case.sized(6)[0]
    layer = case.layer(*args, device="meta", dtype=torch.bfloat16)
    assert all(value.is_meta for value in layer.state_dict().values())
    layer.to_empty(device="cpu").reset_parameters()
    fresh = case.layer(*args, dtype=torch.bfloat16)
    for name, value in fresh.state_dict().items():
        assert layer.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(layer.state_dict()[name], value), name


@every_class
def test_works_on_meta_tensors(case: LayerCase) -> None:
    layer = case.layer(*case.sized(6)[0], **case.options, device="meta")
    inputs = case.inputs(device="meta")
    y = outputs(layer(*inputs))[0]
    assert y.is_meta
    assert y.shape == inputs[0].shape
    assert y.dtype == inputs[0].dtype


@every_layer
def test_device(case: LayerCase, device: torch.device) -> None:
    layer = case.build().to(device)
    assert all(value.device.type == device.type for value in layer.state_dict().values())
    assert outputs(layer(*case.inputs(device=device)))[0].device.type == device.type


@every_class
def test_shared_memory(case: LayerCase) -> None:
    layer = case.build()
    expected = outputs(copy.deepcopy(layer)(*case.inputs()))[0].shape
    layer.share_memory()
    assert all(value.is_shared() for value in layer.state_dict().values())
    assert outputs(layer(*case.inputs()))[0].shape == expected


@every_parity_class
def test_checkpoints_from_before_num_batches_tracked(case: LayerCase) -> None:
    """torch's layers still load state of version 1, which had no such buffer; so do ours."""
    layer = case.build(**({"track_running_stats": True} if "InstanceNorm" in case.name else {}))
    state = layer.state_dict()
    state.pop("num_batches_tracked", None)
    del state._metadata
    fresh = case.layer(*case.sized(6)[0], **{**case.options, **layer_options(layer)})
    fresh.load_state_dict(state, strict=True)
    for name, value in state.items():
        assert torch.equal(fresh.state_dict()[name], value), name


def layer_options(layer: torch.nn.Module) -> dict[str, Any]:
    return {"track_running_stats": True} if getattr(layer, "track_running_stats", False) else {}


@every_layer
def test_hooks_fire_once(case: LayerCase) -> None:
    layer = case.build()
    calls = []
    layer.register_forward_pre_hook(lambda module, args: calls.append("before"))
    layer.register_forward_hook(lambda module, args, output: calls.append("after"))
    layer(*case.inputs())
    assert calls == ["before", "after"]
