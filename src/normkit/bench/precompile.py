"""Filling torch.compile's cache on disk before anything is timed, on all cores.

A graph takes some three seconds to compile, and the full grid has 256. The timing process then finds
every graph in the cache and loads it in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from normkit.bench.cases import Workload
from normkit.bench.contenders import contender
from normkit.bench.measure import first_line
from normkit.bench.problem import pose


def precompile(
    workloads: Sequence[Workload],
    *,
    n_workers: int,
    n_threads: int,
    limit_s: float,
    on_done: Callable[[int], None],
) -> dict[Workload, str]:
    """Compile both graphs of each workload in worker processes, until the time is up.

    Args:
        workloads: what to compile.
        n_workers: processes.
        n_threads: what torch will be told to use when timing; the code that it generates depends on it.
        limit_s: after so many seconds, what still compiles is ended.
        on_done: told how many are ready.

    Returns:
        the workloads that are not compiled, and why.
    """
    missing = dict.fromkeys(workloads, "not compiled within the time limit")
    end = time.monotonic() + limit_s
    context = multiprocessing.get_context("spawn")
    with (
        _no_helpers_of_their_own(),
        context.Pool(n_workers, _start, (n_threads,)) as pool,  # leaving it ends what still compiles
    ):
        results = pool.imap_unordered(_compile_named, workloads)
        for n_done in range(1, len(workloads) + 1):
            try:
                workload, problem = results.next(timeout=max(end - time.monotonic(), 0.0))
            except multiprocessing.TimeoutError:
                break
            if problem:
                missing[workload] = problem
            else:
                del missing[workload]
            on_done(n_done)
    return missing


def _start(n_threads: int) -> None:
    """Ready a worker: Ctrl-C is for the process that started it, which then ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(n_threads)


def _compile_named(workload: Workload) -> tuple[Workload, str]:
    return workload, compile_one(workload)


def compile_one(workload: Workload) -> str:
    """Run the compiled side once without and once with a backward; what went wrong, or nothing."""
    try:
        one = contender("compile", pose(workload))
        one.lay_out_dys()
        one.training()
    except Exception as error:
        return first_line(error)
    finally:
        torch.compiler.reset()
    return ""


@contextmanager
def _no_helpers_of_their_own() -> Iterator[None]:
    """Tell worker processes to compile in the process itself: there are as many of them as cores."""
    name = "TORCHINDUCTOR_COMPILE_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
