"""Timing by turns: every contender once, then all again, so that whatever disturbs the machine disturbs them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

Call = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds

# A call this long brings its own cache contents; one that is shorter starts from what the one before it left.
SETTLING_NS = 20_000_000
MAX_SETTLING_CALLS = 8
MAX_CALLS = 2**16  # a sample


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    slice_s: float = 0.8  # of a cell, all contenders together
    min_rounds: int = 5  # even where they take longer
    warm_up_rounds: int = 1  # run and dropped
    settle_ns: int = 10_000_000  # of untimed calls before a sample: one at least, MAX_SETTLING_CALLS at most
    sample_ns: int = 200_000  # calls are batched until a sample takes this long; the clock's own cost is 0.1 µs


@dataclass(frozen=True)
class Timing:
    """Nanoseconds a call: the median of the samples, and the median distance from it."""

    median_ns: float
    mad_ns: float
    n_samples: int
    calls_per_sample: int


def take_turns(calls: Mapping[str, Call], plan: Plan, clock: Clock = time.perf_counter_ns) -> dict[str, Timing]:
    """Time all calls in rounds of one sample each, for the plan's slice of time.

    Each sample follows calls of the same contender that are not timed, so that every contender finds the caches and the
    allocator as it leaves them itself, and not as its neighbour in the round does. One call is not enough for that: a
    cache that takes in what others drop fills over several. After a neighbour that moves much memory, three calls of
    0.7 ms left a contender at 1.25 times the time that it has after eight and after sixty.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with _no_collection():
        n_calls = {name: _calls_per_sample(call, plan.sample_ns, clock) for name, call in calls.items()}
        for _ in range(plan.warm_up_rounds):
            for name, call in calls.items():
                _sample(call, n_calls[name], clock)
        end = clock() + round(plan.slice_s * 1e9)
        n_rounds = 0
        settles = dict.fromkeys(calls, True)
        while n_rounds < plan.min_rounds or clock() < end:
            for name, call in calls.items():
                if settles[name]:
                    _settle(call, plan.settle_ns, clock)
                samples[name].append(_sample(call, n_calls[name], clock))
                settles[name] = samples[name][-1] * n_calls[name] < SETTLING_NS
            n_rounds += 1
    return {name: summary(samples[name], n_calls[name]) for name in calls}


def summary(samples: list[float], calls_per_sample: int) -> Timing:
    """Median and median absolute deviation."""
    middle = median(samples)
    return Timing(middle, median(abs(s - middle) for s in samples), len(samples), calls_per_sample)


def _settle(call: Call, settle_ns: int, clock: Clock) -> None:
    end = clock() + settle_ns
    for _ in range(MAX_SETTLING_CALLS):
        call()
        if clock() >= end:
            return


def _sample(call: Call, n: int, clock: Clock) -> float:
    """Nanoseconds a call, over n calls."""
    turns = range(n)
    start = clock()
    for _ in turns:
        call()
    return (clock() - start) / n


def _calls_per_sample(call: Call, sample_ns: int, clock: Clock) -> int:
    """The smallest power of two of calls that takes at least ``sample_ns``."""
    call()
    n = 1
    while n < MAX_CALLS and _sample(call, n, clock) * n < sample_ns:
        n *= 2
    return n


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector kept from running in the middle of a sample."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
