"""Turns, batches, slices and medians, on a clock that only moves when it is told to."""

from __future__ import annotations

import gc

import pytest

from normkit.bench.timing import MAX_CALLS, Plan, summary, take_turns


class World:
    """Contenders that cost what they say, on a clock of their own."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def clock(self) -> int:
        return self.now

    def call(self, name: str, *costs_ns: int):
        """Costs are used one after the other, the last for ever."""
        left = list(costs_ns)

        def run() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


LONG = 1_000_000_000


def test_contenders_take_turns() -> None:
    world = World()
    calls = {name: world.call(name, LONG) for name in "abc"}
    take_turns(calls, Plan(slice_s=0.0, min_rounds=4, warm_up_rounds=1), world.clock)
    assert world.log[-9:] == list("abcabcabc")  # long calls, which after the first round follow no call of their own


def test_a_sample_of_a_short_call_follows_some_of_its_own_that_are_not_timed() -> None:
    world = World()
    calls = {"a": world.call("a", 1_000_000), "b": world.call("b", 1_000_000)}
    times = take_turns(calls, Plan(slice_s=0.0, min_rounds=2, warm_up_rounds=0, settle_ns=2_000_000), world.clock)
    assert world.log[-12:] == list("aaabbbaaabbb")
    assert times["a"].n_samples == 2


def test_tiny_calls_are_batched_until_a_sample_is_long_enough() -> None:
    world = World()
    times = take_turns({"tiny": world.call("tiny", 1_000)}, Plan(slice_s=0.01, sample_ns=200_000), world.clock)
    assert times["tiny"].calls_per_sample == 256  # the first power of two above 200
    assert times["tiny"].median_ns == 1_000


def test_a_call_that_costs_nothing_ends_too() -> None:
    world = World()
    times = take_turns({"free": world.call("free", 0)}, Plan(slice_s=0.0, min_rounds=1), world.clock)
    assert times["free"].calls_per_sample == MAX_CALLS


def test_measuring_lasts_for_the_slice_and_at_least_the_rounds() -> None:
    world = World()
    calls = {"a": world.call("a", 1_000_000)}
    short = take_turns(calls, Plan(slice_s=0.0, min_rounds=7, warm_up_rounds=0), world.clock)
    started = world.now
    long = take_turns(calls, Plan(slice_s=1.0, min_rounds=1, warm_up_rounds=0, settle_ns=1_000_000), world.clock)
    assert short["a"].n_samples == 7
    assert long["a"].n_samples == 500  # one second, a call that is timed and one that is not
    assert 1e9 <= world.now - started <= 1.01e9


def test_warm_up_is_dropped() -> None:
    world = World()
    slow_at_first = world.call("a", *[LONG] * 3, 1_000_000)
    times = take_turns({"a": slow_at_first}, Plan(slice_s=0.0, min_rounds=5, warm_up_rounds=1), world.clock)
    assert times["a"].median_ns == 1_000_000
    assert times["a"].mad_ns == 0


def test_the_median_and_its_spread_are_not_moved_by_one_disturbance() -> None:
    timing = summary([10.0, 11.0, 12.0, 13.0, 1e9], 4)
    assert (timing.median_ns, timing.mad_ns, timing.n_samples, timing.calls_per_sample) == (12.0, 1.0, 5, 4)


def test_the_collector_is_off_while_timing_and_as_before_afterwards() -> None:
    seen: list[bool] = []
    take_turns({"a": lambda: seen.append(gc.isenabled())}, Plan(slice_s=0.0, min_rounds=1, sample_ns=0))
    assert set(seen) == {False}
    assert gc.isenabled()


def test_the_collector_comes_back_after_an_error() -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        take_turns({"a": broken}, Plan())
    assert gc.isenabled()
