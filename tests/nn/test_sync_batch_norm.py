"""SyncBatchNorm: several gloo processes compute what one does with the whole batch, and none waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from normkit import nn
from ranks import scenarios
from ranks.launch import run

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, through a few layers, in another order of summation


Found = dict[str, list[Any]]
ON_TWO = (
    "twenty_steps",
    "derivatives",
    "a_rank_is_at_another_layer",
    "ranks_with_different_models",
    "a_rank_fails_to_recalibrate",
    "frozen_in_parallel",
    "micro_batches_of_several_ranks",
    "recalibrated_in_parallel",
)
ON_FOUR = (
    "twenty_steps",
    "derivatives",
    "a_rank_skips_a_layer",
    "a_rank_is_killed_in_its_backward",
    "a_rank_is_killed_while_it_recalibrates",
)


@pytest.fixture(scope="module")
def two() -> Found:
    return run(ON_TWO, 2)


@pytest.fixture(scope="module")
def four() -> Found:
    return run(ON_FOUR, 4)


@pytest.fixture(params=["two", "four"])
def ranks(request: pytest.FixtureRequest) -> Found:
    return request.getfixturevalue(request.param)


@pytest.fixture
def found(ranks: Found) -> list[Any]:
    return ranks["derivatives"]


def test_twenty_steps_are_those_of_one_process_with_the_whole_batch(ranks: Found) -> None:
    steps = ranks["twenty_steps"]
    losses, state = scenarios.alone(len(steps), torch.float64)
    together, theirs = one_result(steps, torch.float64)
    torch.testing.assert_close(together, torch.stack(losses), **EXACT)
    torch.testing.assert_close(theirs, state, **EXACT)


def test_twenty_steps_in_float32(ranks: Found) -> None:
    """No further from the exact result than 4 times as far as one process is; weights on 4 ranks within 1e-6 of its.

    A sum over the ranks rounds in another order than one over the batch. One process is as far from itself when its
    samples come in another order, and its losses are up to 2.8e-6 of themselves from those of float64 (measured): that
    the losses agree to 1e-6 is not for float32 to promise. In float64 they agree to 1e-10 (above).
    """
    steps = ranks["twenty_steps"]
    exact_losses, exact = scenarios.alone(len(steps), torch.float64)
    losses, state = scenarios.alone(len(steps), torch.float32)
    together, theirs = one_result(steps, torch.float32)
    pairs = {"losses": (together, torch.stack(losses), torch.stack(exact_losses))}
    pairs |= {name: (theirs[name], state[name], exact[name]) for name in state if state[name].is_floating_point()}
    for name, (ours, usual, right) in pairs.items():
        far = (usual.double() - right).abs().max().item()
        torch.testing.assert_close(ours.double(), right, rtol=1e-6, atol=1e-6 + 4 * far)
        if len(steps) == 4 and name != "losses":
            torch.testing.assert_close(ours, usual, rtol=1e-6, atol=1e-6)


def one_result(steps: list[Any], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of all ranks together, and the state that each of them has to the bit."""
    results = [rank[str(dtype)] for rank in steps]
    for _, theirs in results:
        for name, value in results[0][1].items():
            assert torch.equal(theirs[name], value), name
    return torch.stack([torch.stack(losses) for losses, _ in results]).sum(0), results[0][1]


def parts(found: list[Any], what: str, which: int) -> list[Tensor]:
    return [rank[what][which] for rank in found]


def whole_batch(found: list[Any]) -> Tensor:
    return torch.cat(scenarios.batch(1, len(found), torch.float64))


def test_second_derivatives(found: list[Any]) -> None:
    dx, dw = scenarios.gradient_penalty(nn.BatchNorm2d(2, dtype=torch.float64), whole_batch(found))
    torch.testing.assert_close(torch.cat(parts(found, "penalty", 0)), dx, **EXACT)
    torch.testing.assert_close(sum(parts(found, "penalty", 1)), dw, **EXACT)


def test_a_checkpoint_counts_once(found: list[Any]) -> None:
    x = whole_batch(found).requires_grad_()
    layer = nn.BatchNorm2d(2, dtype=torch.float64)
    y = layer(x)
    y.pow(3).sum().backward()
    torch.testing.assert_close(torch.cat(parts(found, "checkpoint", 0)), y.detach(), **EXACT)
    torch.testing.assert_close(torch.cat(parts(found, "checkpoint", 1)), x.grad, **EXACT)
    for rank in found:
        torch.testing.assert_close(rank["checkpoint"][2:], list(layer.buffers()), **EXACT)


def test_far_from_zero_and_in_16_bits(found: list[Any]) -> None:
    for dtype, offset, tolerance in ((torch.float32, 1e4, 2e-6), (torch.bfloat16, 0.0, 2e-2)):
        x = (whole_batch(found) + offset).to(dtype)
        wide = x.double()
        mean, var = wide.mean((0, 2, 3), keepdim=True), wide.var((0, 2, 3), correction=0, keepdim=True)
        expected = (wide - mean) / torch.sqrt(var + 1e-5)
        y = torch.cat(parts(found, str(dtype), 0))
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
        for rank in found:
            assert rank[str(dtype)][1].dtype == torch.float32
            torch.testing.assert_close(rank[str(dtype)][1].double(), mean.flatten() / 10, rtol=2e-7, atol=0)


def test_groups(found: list[Any]) -> None:
    shards = scenarios.batch(1, len(found), torch.float64)
    for first in range(0, len(found), 2):
        expected = nn.BatchNorm2d(2, dtype=torch.float64)(torch.cat(shards[first : first + 2]))
        torch.testing.assert_close(torch.cat(parts(found, "group", 0)[first : first + 2]), expected.detach(), **EXACT)


def test_statistics_held_still(found: list[Any]) -> None:
    expected = nn.BatchNorm2d(2, dtype=torch.float64)(whole_batch(found)).detach()
    torch.testing.assert_close(torch.cat(parts(found, "observe", 0)), expected, **EXACT)
    assert parts(found, "observe", 1) == [0] * len(found)
    torch.testing.assert_close(torch.cat(parts(found, "frozen", 0)), whole_batch(found) / (1 + 1e-5) ** 0.5, **EXACT)


def test_in_a_compiled_model(found: list[Any]) -> None:
    expected = nn.BatchNorm2d(2, dtype=torch.float64)(whole_batch(found)).detach()
    torch.testing.assert_close(torch.cat(parts(found, "compiled", 0)), expected, **EXACT)
    assert parts(found, "compiled", 1) == [1] * len(found)


def test_with_an_activation_and_a_residual(found: list[Any]) -> None:
    x = whole_batch(found)
    expected = nn.BatchNorm2d(2, dtype=torch.float64, activation="relu")(x, x.flip(1)).detach()
    torch.testing.assert_close(torch.cat(parts(found, "activation", 0)), expected, **EXACT)


def test_padding_counts_on_no_rank(found: list[Any]) -> None:
    shards = [scenarios.padded(len(found), rank) for rank in range(len(found))]
    x, mask = (torch.cat(shard) for shard in zip(*shards, strict=True))
    layer = nn.BatchNorm2d(2, dtype=torch.float64)
    y = layer(x.requires_grad_(), mask=mask)
    y.pow(3).sum().backward()
    torch.testing.assert_close(torch.cat(parts(found, "masked", 0)), y.detach(), **EXACT)
    torch.testing.assert_close(torch.cat(parts(found, "masked", 1)), x.grad, **EXACT)
    for rank in found:
        torch.testing.assert_close(rank["masked"][2:], [layer.running_mean, layer.running_var], **EXACT)


def test_nothing_but_padding_on_every_rank_is_an_error_and_changes_nothing(found: list[Any]) -> None:
    for rank in found:
        assert rank["all padding"][0] == "ArgumentError"
        assert str(rank["all padding"][1]).startswith(
            "SyncBatchNorm(2): expected a position that is not padding on some rank, got none on any"
        )
        assert rank["wrong mask"][0] == "ShapeError"
        assert "expected weights of 0 or more, got nan, one of 2 that are" in str(rank["wrong weights"][1])
        assert rank["nothing"][1] == 1  # one batch was counted before those, and none since


def test_recalibration_pools_what_is_not_padding(found: list[Any]) -> None:
    shards = [scenarios.some_padded(len(found), rank) for rank in range(len(found))]
    values = torch.cat([x.movedim(1, -1)[mask] for x, mask in shards])
    for rank in found:
        torch.testing.assert_close(rank["recalibrated, masked"], [values.mean(0), values.var(0)], **EXACT)


def test_many_channels(found: list[Any]) -> None:
    x = torch.arange(1400.0, dtype=torch.float64).view(2, 700)
    expected = nn.BatchNorm1d(700, dtype=torch.float64)(torch.cat([x * (rank + 1) for rank in range(len(found))]))
    torch.testing.assert_close(torch.cat(parts(found, "many", 0)), expected.detach(), **EXACT)


def test_few_values(found: list[Any]) -> None:
    """One a rank is enough, one on all together an error on all, and none leaves the statistics as they were."""
    n = len(found)
    x = torch.cat([torch.tensor([[1.0, 2.0 * rank]], dtype=torch.float64) * rank for rank in range(n)])
    expected = nn.BatchNorm1d(2, dtype=torch.float64)(x).detach()
    torch.testing.assert_close(torch.cat(parts(found, "one value a rank", 0)), expected, **EXACT)
    for rank in found:
        assert rank["one value"][0] == "SingleValueError"
        assert "expected more than 1 value per channel on all ranks together" in str(rank["one value"][1])
        assert rank["nothing"][0].shape == (0, 2)
        assert rank["nothing"][1] == 1


def test_one_value_on_all_ranks_by_policy(found: list[Any]) -> None:
    running = (5.0 - 3.0) / (1 + 1e-5) ** 0.5
    for choice, value, slope in (("running", running, 1 / (1 + 1e-5) ** 0.5), ("skip", 0.0, 0.0)):
        for i, rank in enumerate(found):
            y, grad, mean, var, tracked = rank[f"single value, {choice}"]
            assert y.shape == (1 if i == 1 else 0, 2)
            torch.testing.assert_close(y, torch.full_like(y, value), **EXACT)
            torch.testing.assert_close(
                torch.zeros_like(y) if grad is None else grad, torch.full_like(y, slope), **EXACT
            )
            assert (mean == 3).all()
            assert (var == 1).all()
            assert tracked == 0


def test_values_that_are_no_numbers_by_policy(found: list[Any]) -> None:
    x = whole_batch(found)
    for rank in found:
        mean, var, tracked = rank["nonfinite, skip"]
        assert (mean[0], var[0], tracked) == (0, 1, 1)
        torch.testing.assert_close(mean[1], 0.1 * x[:, 1].mean(), **EXACT)
        assert rank["nonfinite"][0] == "StatisticsError"
        assert "SyncBatchNorm(2): expected finite input with nonfinite='raise'" in str(rank["nonfinite"][1])
        mean, var, tracked = rank["nonfinite, raise"]
        assert (mean == 0).all()
        assert (var == 1).all()
        assert tracked == 0


def test_the_biased_variance_of_all_ranks(found: list[Any]) -> None:
    x = whole_batch(found)
    for rank in found:
        torch.testing.assert_close(rank["biased"][1], x.movedim(1, -1).flatten(0, -2).var(0, correction=0), **EXACT)


def test_recalibration_pools_the_ranks(found: list[Any]) -> None:
    if len(found) == 4:  # the second rank has no data there
        x = whole_batch(found)
        for rank in found:
            torch.testing.assert_close(rank["recalibrated"][0], x.mean((0, 2, 3)), **EXACT)
            torch.testing.assert_close(rank["recalibrated"][1], x.var((0, 2, 3)), **EXACT)


def test_a_rank_that_skips_a_layer_is_named_with_it(four: Found) -> None:
    results = four["a_rank_skips_a_layer"]
    for rank in (0, 2, 3):
        kind, message, seconds = results[rank]
        assert kind == "RankError"
        assert message.startswith(
            "SyncBatchNorm '1': expected all 4 ranks in the forward pass, got: rank 1 did not take"
        )
        assert seconds < 5 + 3 + 3  # the timeout, the ranks' word, and a loaded machine


def test_a_rank_at_another_layer_is_named_with_both(two: Found) -> None:
    results = two["a_rank_is_at_another_layer"]
    assert "SyncBatchNorm '0': " in results[0][1]
    assert "rank 1 was at the forward pass of SyncBatchNorm '1'" in results[0][1]
    assert "SyncBatchNorm '1': " in results[1][1]
    assert "rank 0 was at the forward pass of SyncBatchNorm '0'" in results[1][1]


def test_a_rank_killed_in_mid_step_ends_the_others(four: Found) -> None:
    results = four["a_rank_is_killed_in_its_backward"]
    assert results[1] is None
    for rank in (0, 2, 3):
        kind, message, seconds = results[rank]
        assert kind == "RankError"
        assert "in the backward pass, got: rank 1 did not take part" in message
        assert seconds < 5 + 3 + 3


def test_ranks_with_different_numbers_of_channels(two: Found) -> None:
    for kind, message, _ in two["ranks_with_different_models"]:
        assert kind == "RankError"
        assert message.startswith("SyncBatchNorm 'a.b': expected the same number of channels on every rank, got")


def test_recalibration_that_fails_on_one_rank_fails_on_all(two: Found) -> None:
    results = two["a_rank_fails_to_recalibrate"]
    assert results[0][0] == "RankError"
    assert "expected every rank to collect its data, got on rank 1 ShapeError: BatchNorm1d: expected 3" in results[0][1]
    assert results[1][0] == "ShapeError"
    assert [same for *_, same in results] == [True, True]


def test_recalibration_in_parallel_waits_for_no_rank(two: Found) -> None:
    x = torch.arange(36.0).view(12, 3)
    results = two["recalibrated_in_parallel"]
    assert [failed[0] for failed, *_ in results] == ["ArgumentError", "RankError"]
    assert "got on rank 0 ArgumentError: recalibrate: expected a loader of at least one batch" in results[1][0][1]
    for _, names, mean, var in results:
        assert names == ["module"]
        torch.testing.assert_close((mean, var), (x.mean(0), x.var(0)))


def test_a_rank_killed_while_it_recalibrates_is_named(four: Found) -> None:
    results = four["a_rank_is_killed_while_it_recalibrates"]
    assert results[1] is None
    for rank in (0, 2, 3):
        kind, message, _, same = results[rank]
        assert kind == "RankError"
        # A rank that is not its neighbour learns of it late, and may have given no word either by then.
        assert message.startswith("recalibrate: expected all 4 ranks to take part, got no word from ")
        assert "rank 1" in message.split("(")[0]
        assert same


def test_micro_batches_of_several_ranks_are_refused(two: Found) -> None:
    for (kind, message, _), n_outputs, counted in two["micro_batches_of_several_ranks"]:
        assert kind == "ArgumentError"
        assert "got normkit.nn.SyncBatchNorm at '0', which meets other processes; accumulate on one" in message
        assert (n_outputs, counted) == (3, 1)


def test_frozen_norms_stay_so_on_every_rank(two: Found) -> None:
    results = two["frozen_in_parallel"]
    for before, after, counted in results:
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert counted == 3
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_the_layer_loads_no_compiler() -> None:
    """torch.compiler.disable as a decorator would: two seconds for everyone who imports the layers."""
    code = "import normkit.nn, sys; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), "long"], ids=str)
def test_a_wrong_timeout(timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"SyncBatchNorm: expected timeout in seconds, more than 0, got"):
        nn.SyncBatchNorm(3, timeout=timeout)


def test_under_torchrun(tmp_path: Path) -> None:
    """The process group comes from the environment that torchrun sets; the ranks get what one process gets."""
    script = Path(scenarios.__file__).with_name("under_torchrun.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[1]), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)], capture_output=True, text=True, timeout=200, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    losses, state = scenarios.alone(2, torch.float64)
    results = [torch.load(tmp_path / str(rank), weights_only=False) for rank in range(2)]
    together, theirs = one_result(results, torch.float64)
    torch.testing.assert_close(together, torch.stack(losses), **EXACT)
    torch.testing.assert_close(theirs, state, **EXACT)
