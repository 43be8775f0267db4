"""A workload's two cells: gate before clock, sides that are missing, bytes that are held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normkit.bench.cases import OPS, Workload
from normkit.bench.contenders import Contender, Side, contender
from normkit.bench.measure import measure
from normkit.bench.memory import saved_bytes
from normkit.bench.problem import Problem, pose
from normkit.bench.results import COPY, UNMASKED
from normkit.bench.timing import Plan
from normkit.bench.yardstick import copy_of

ROWS = Workload("layer_norm", (16, 24), "contiguous", "float32")
SHORT = Plan(slice_s=0.002, min_rounds=2, warm_up_rounds=0)
NO_COMPILE = {"compile": "not asked for"}


class Scaled(nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 1.5


def with_a_wrong(wrong: Side) -> Any:
    def build(side: Side, problem: Problem) -> Contender:
        one = contender(side, problem)
        if side == wrong:
            one.module.__class__ = Scaled
        return one

    return build


def test_both_cells_are_timed_with_the_copy_beside_them() -> None:
    forward, both = measure(ROWS, SHORT, absent=NO_COMPILE)
    assert (forward.status, both.status) == ("timed", "timed")
    assert set(forward.times) == {"torch", "normkit", COPY}
    assert forward.absent == NO_COMPILE
    assert set(both.saved_bytes) == {"torch", "normkit"}
    assert forward.saved_bytes == {}
    assert all(share <= 1 for share in both.error_shares.values())
    assert forward.floor_bytes == 8 * 16 * 24


@pytest.mark.parametrize("wrong", ["torch", "normkit"])
def test_nothing_is_timed_where_a_side_is_wrong(wrong: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_clock(*_: object) -> None:
        pytest.fail("a red cell was timed")

    monkeypatch.setattr("normkit.bench.measure.take_turns", no_clock)
    for result in measure(ROWS, SHORT, absent=NO_COMPILE, build=with_a_wrong(wrong)):
        assert result.status == "red"
        assert result.message.startswith(f"{wrong}: ")
        assert result.message.endswith("times what is allowed")
        assert result.times == {}
        assert result.ratio is None


def test_a_side_that_cannot_be_compiled_is_left_out_with_the_reason() -> None:
    def build(side: Side, problem: Problem) -> Contender:
        one = contender(side, problem)
        if side == "compile":

            def no_compiler(*_: object) -> None:
                raise RuntimeError("no C++ compiler here\nand a long explanation")

            one.call = no_compiler
        return one

    for result in measure(ROWS, SHORT, build=build):
        assert result.status == "timed"
        assert result.absent == {"compile": "RuntimeError: no C++ compiler here"}
        assert "compile" not in result.times
        assert result.best_torch == "torch"


def test_no_other_side_may_fail() -> None:
    def build(side: Side, problem: Problem) -> Contender:
        one = contender(side, problem)
        if side == "normkit":
            one.call = lambda *_: 1 / 0
        return one

    with pytest.raises(ZeroDivisionError):
        measure(ROWS, SHORT, absent=NO_COMPILE, build=build)


def test_a_compiled_side_is_timed_and_its_graphs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[str] = []
    reset = torch.compiler.reset
    monkeypatch.setattr(torch.compiler, "reset", lambda: (resets.append("reset"), reset()))

    def build(side: Side, problem: Problem) -> Contender:
        return contender(side, problem, backend="eager")

    for result in measure(ROWS, SHORT, build=build):
        assert result.status == "timed"
        assert {"torch", "compile", "normkit"} <= set(result.times)
        assert "compile" not in result.saved_bytes
    assert resets == ["reset"]


@pytest.mark.parametrize("op", [op.name for op in OPS.values() if op.unmasked is not None])
def test_what_has_a_mask_is_timed_beside_the_same_without(op: str) -> None:
    masked = Workload(op, (2, 3, 4, 4), "channels_last", "float32")
    for result in measure(masked, SHORT, absent=NO_COMPILE):
        assert set(result.times) == {"torch", "normkit", UNMASKED, COPY}


def test_saved_bytes_count_each_storage_once_and_no_parameter() -> None:
    one = contender("torch", pose(ROWS))
    assert saved_bytes(one) == 4 * 16 * 24 + 2 * 4 * 16  # the input, and mean and rstd of each row

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x * self.weight + x.view(24, 16).exp().view(16, 24)

    module = Squares()
    held = Contender("torch", module, module, one.inputs, one.dys)
    assert saved_bytes(held) == 3 * 4 * 16 * 24  # x once, its square, its exponential


def test_dys_have_the_memory_format_of_the_output() -> None:
    one = contender("torch", pose(Workload("layer_norm2d", (2, 32, 4, 4), "contiguous", "float32")))
    before = one.dys[0].clone()
    assert one.dys[0].is_contiguous()
    one.lay_out_dys()
    assert one.dys[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(one.dys[0], before, rtol=0, atol=0)


def test_the_yardstick_moves_the_bytes_asked_for() -> None:
    target = copy_of(1000)()
    assert isinstance(target, torch.Tensor)
    assert 2 * target.numel() * target.element_size() == 1000
    assert bool((target == 1).all())
