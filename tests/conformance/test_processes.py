"""Layers in several Python threads at once, and in a process forked after they were used."""

from __future__ import annotations

import copy
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from conformance.layers import CLASSES, LayerCase, outputs

N, SAMPLES = 65, 301  # more elements than are computed on one thread


def step(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs, gradients and running statistics of one training step."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    ys = outputs(layer(*leaves))
    gradients = torch.autograd.grad(ys, [*leaves, *layer.parameters()], [y.detach() for y in ys])
    return [*(y.detach() for y in ys), *gradients, *(b.clone() for b in layer.buffers())]


def example(case: LayerCase) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
    usual = case.sized(N)[1]
    return case.build(N), case.inputs(N, shape=(SAMPLES, *usual[1:]))


STATELESS = [case for case in CLASSES if next(case.build().buffers(), None) is None]


@pytest.mark.parametrize("case", STATELESS, ids=str)
def test_several_threads_share_a_layer_without_state_of_its_own(case: LayerCase) -> None:
    layer, inputs = example(case)
    expected = step(layer, inputs)
    n = 6
    start = Barrier(n)

    def work(_: int) -> list[list[Tensor]]:
        start.wait()
        return [step(layer, inputs) for _ in range(4)]

    with ThreadPoolExecutor(n) as pool:
        for results in pool.map(work, range(n)):
            for found in results:
                assert all(map(torch.equal, found, expected))


def test_every_layer_at_the_same_time() -> None:
    cases = [example(case) for case in CLASSES]
    expected = [step(copy.deepcopy(layer), inputs) for layer, inputs in cases]
    start = Barrier(len(cases))

    def work(i: int) -> list[list[Tensor]]:
        layer, inputs = cases[i]
        start.wait()
        return [step(copy.deepcopy(layer), inputs) for _ in range(4)]

    with ThreadPoolExecutor(len(cases)) as pool:
        for i, results in enumerate(pool.map(work, range(len(cases)))):
            for found in results:
                assert all(map(torch.equal, found, expected[i])), CLASSES[i].name


def in_child(cases: list[tuple[torch.nn.Module, tuple[Tensor, ...]]], expected: list[list[Tensor]]) -> None:
    torch.set_num_threads(1)  # as in the workers of a DataLoader: OpenMP's threads do not survive a fork
    for (layer, inputs), right in zip(cases, expected, strict=True):
        if not all(map(torch.equal, step(layer, inputs), right)):
            sys.exit(3)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_was_forked_after_use_computes_the_same() -> None:
    cases = [example(case) for case in CLASSES]
    expected = [step(copy.deepcopy(layer), inputs) for layer, inputs in cases]
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(cases, expected))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
