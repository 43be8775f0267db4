"""The recurrent cells: the loop is the layer's maths, and a layer that is wrong is not timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normkit.bench.cases import RECURRENT_OPS, Sequences
from normkit.bench.recurrent import Runner, measure_recurrent, runners
from normkit.bench.timing import Plan

SHORT = Plan(slice_s=0.002, min_rounds=2, warm_up_rounds=0)
SHAPE = (6, 12, 4, 8)  # batch statistics of few sequences would be ill-conditioned


def with_a_wrong(side: str, factor: float, what: str) -> object:
    """That side's y, or the gradient of its input, off by a factor."""

    def build(case: Sequences) -> dict[str, Runner]:
        sides = runners(case)
        one = sides[side]

        def call(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            if what == "gradient" and x.requires_grad and torch.is_grad_enabled():
                x = x * 1
                x.register_hook(lambda dx: dx * factor)
            y, *last = one.call(module, x)
            return (y * factor if what == "output" else y), *last

        return sides | {side: Runner(one.module, call, one.x, one.dy)}

    return build


@pytest.mark.parametrize("op", RECURRENT_OPS)
def test_the_loop_is_the_maths_of_the_layer(op: str) -> None:
    sides = runners(Sequences(op, SHAPE))
    ours = sides["normkit"].in_float64().training()
    for side in ("usual", "loop"):
        for a, b in zip(sides[side].in_float64().training(), ours, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", RECURRENT_OPS)
def test_both_modes_are_timed_beside_the_plain_layer_and_the_loop(op: str) -> None:
    started: list[str] = []
    forward, both = measure_recurrent([Sequences(op, SHAPE)], SHORT, started.append)
    assert started == [f"{op} 6x12x4x8"]
    assert [str(forward), str(both)] == [f"{op} 6x12x4x8 fwd", f"{op} 6x12x4x8 fwd+bwd"]
    for result in (forward, both):
        assert result.status == "timed"
        assert set(result.times) == {"torch", "usual", "loop", "normkit"}
        assert all(0 < share <= 1 for share in result.error_shares.values())


@pytest.mark.parametrize("factor", [1 + 1e-4, float("nan")])
@pytest.mark.parametrize(
    ("what", "statuses"), [("output", ["red", "red"]), ("gradient", ["timed", "red"])], ids=["output", "gradient"]
)
def test_a_layer_that_is_wrong_is_red_and_not_timed(what: str, statuses: list[str], factor: float) -> None:
    build = with_a_wrong("normkit", factor, what)
    results = list(measure_recurrent([Sequences("gru", SHAPE)], SHORT, lambda _: None, build=build))  # type: ignore[arg-type]
    assert [r.status for r in results] == statuses
    assert results[1].message.startswith("normkit is off by ")
    assert results[1].times == {}


def test_a_loop_that_is_wrong_is_red_too() -> None:
    def build(case: Sequences) -> dict[str, Runner]:
        sides = runners(case)
        one = sides["loop"]
        in_float32 = Runner(
            one.module, lambda m, x: tuple(t + (t.dtype == torch.float32) for t in one.call(m, x)), one.x, one.dy
        )
        return sides | {"loop": in_float32}

    results = list(measure_recurrent([Sequences("rnn", SHAPE)], SHORT, lambda _: None, build=build))
    assert [r.status for r in results] == ["red", "red"]
    assert results[0].message.startswith("loop is off by ")
