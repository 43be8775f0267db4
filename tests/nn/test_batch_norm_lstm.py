"""What is special to recurrent BatchNorm: statistics of every step, the bound, where they come from in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nn.recurrent import BATCH_LSTM, flat, weighted_sum
from normkit import nn, recurrence
from normkit.errors import ArgumentError
from normkit.kernels import batch_lstm

T, N, I, H = 6, 5, 3, 4  # noqa: E741


def written_out(layer: torch.nn.Module, x: Tensor, sizes: list[int], running: Any = None) -> tuple[Tensor, Any]:
    """Cooijmans et al., equations 6 to 8, step by step on the rows of [T, N, I]; and the batch's statistics."""
    p = dict(layer.named_parameters())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"ih": [], "hh": [], "c": []}

    def norm(place: str, v: Tensor, t: int) -> Tensor:
        mean, var = v.mean(0), v.var(0, correction=0)
        if running is not None or v.shape[0] == 1:
            mean = dict(layer.named_buffers())[f"statistics_{place}_l0.running_mean"][t]
            var = dict(layer.named_buffers())[f"statistics_{place}_l0.running_var"][t]
        else:
            found[place].append((mean, v.var(0)))
        bias = p.get(f"norm_bias_{place}_l0", torch.zeros(()))
        return p[f"norm_weight_{place}_l0"] * (v - mean) / torch.sqrt(var + 1e-5) + bias

    h = c = torch.zeros(N, H, dtype=x.dtype)
    outputs = []
    for t, n in enumerate(sizes):
        h, c = h[:n], c[:n]
        a = norm("ih", x[t, :n] @ p["weight_ih_l0"].T, t) + norm("hh", h @ p["weight_hh_l0"].T, t)
        i, f, g, o = (a + p["bias_ih_l0"] + p["bias_hh_l0"]).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm("c", c, t).tanh()
        outputs.append(torch.cat([h, h.new_zeros(N - n, H)]))
    return torch.stack(outputs), found


@pytest.mark.parametrize("lengths", [[6] * 5, [6, 6, 4, 2, 1]], ids=["equal", "variable"])
def test_training_is_the_paper(lengths: list[int]) -> None:
    layer = BATCH_LSTM.build(I, H, dtype=torch.float64, max_steps=10)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = torch.randn(T, N, I, dtype=torch.float64)
    sizes = [sum(length > t for length in lengths) for t in range(T)]
    want, found = written_out(layer, x, sizes)
    got = layer(x, lengths=lengths)[0]
    torch.testing.assert_close(got, want)
    loss = [weighted_sum([y]) for y in (got, want)]
    for a, b in zip(*(torch.autograd.grad(one, list(layer.parameters())) for one in loss), strict=True):
        torch.testing.assert_close(a, b)
    for place, statistics in found.items():
        for kind, number in (("mean", 0), ("var", 1)):
            name = f"statistics_{place}_l0.running_{kind}"
            expected = before[name]
            for t, batch in enumerate(statistics):
                expected[t] = 0.9 * expected[t] + 0.1 * batch[number]
            torch.testing.assert_close(dict(layer.named_buffers())[name], expected)


def test_evaluation_takes_each_steps_own_statistics_and_leaves_them_alone() -> None:
    layer = BATCH_LSTM.build(I, H, dtype=torch.float64, max_steps=T).eval()
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = torch.randn(T, N, I, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], written_out(layer, x, [N] * T, running=True)[0])
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name])


def test_the_last_sequence_left_takes_the_running_statistics() -> None:
    """In training as in evaluation, and adds nothing to them."""
    layer = BATCH_LSTM.build(I, H, dtype=torch.float64, max_steps=T)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = torch.randn(T, N, I, dtype=torch.float64)
    want, _ = written_out(layer, x, [5, 5, 2, 1, 1, 1])
    torch.testing.assert_close(layer(x, lengths=[6, 3, 2, 2, 2])[0], want)
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer[3:], before[name][3:])
        assert not torch.equal(buffer[:3], before[name][:3])


def test_steps_from_the_bound_on_share_their_statistics() -> None:
    """What a batch adds there is the mean and the unbiased variance of all its values at those steps."""
    layer = BATCH_LSTM.build(I, H, dtype=torch.float64, max_steps=3, norm="input")
    x = torch.randn(T, N, I, dtype=torch.float64)
    lengths = [6, 6, 5, 4, 2]
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer(x, lengths=lengths)
    p = x @ layer.weight_ih_l0.detach().T
    shared = torch.cat([p[t, : sum(length > t for length in lengths)] for t in range(2, T)])
    for name, value in (("mean", shared.mean(0)), ("var", shared.var(0))):
        key = f"statistics_ih_l0.running_{name}"
        buffer = dict(layer.named_buffers())[key]
        torch.testing.assert_close(buffer[2], 0.9 * before[key][2] + 0.1 * value)
        assert not torch.equal(buffer[0], buffer[1])
    layer.eval()
    a, b = layer.statistics_ih_l0(p[0], 2)[0], layer.statistics_ih_l0(p[0], 5)[0]
    assert torch.equal(a, b)
    assert not torch.equal(a, layer.statistics_ih_l0(p[0], 1)[0])


def test_the_reverse_direction_counts_steps_from_its_own_start() -> None:
    """So that a step's statistics are of states that have read equally much."""
    layer = BATCH_LSTM.build(I, H, dtype=torch.float64, bidirectional=True, norm="input")
    x = torch.randn(T, N, I, dtype=torch.float64)
    lengths = [6, 5, 4, 3, 2]
    layer(x, lengths=lengths)
    before = BATCH_LSTM.build(I, H, dtype=torch.float64, bidirectional=True, norm="input")
    last = torch.stack([x[length - 1, i] for i, length in enumerate(lengths)])
    want = (last @ layer.weight_ih_l0_reverse.detach().T).mean(0)
    old = before.statistics_ih_l0_reverse.running_mean
    torch.testing.assert_close(layer.statistics_ih_l0_reverse.running_mean[0], 0.9 * old[0] + 0.1 * want)


def test_momentum_is_the_weight_of_the_newest_batch() -> None:
    layer = nn.BatchNormLSTM(I, H, momentum=1.0, norm="input", dtype=torch.float64)
    x = torch.randn(T, N, I, dtype=torch.float64)
    layer(x)
    p = x @ layer.weight_ih_l0.detach().T
    torch.testing.assert_close(layer.statistics_ih_l0.running_mean[:T], p.mean(1))
    torch.testing.assert_close(layer.statistics_ih_l0.running_var[:T], p.var(1))


def test_norms_start_small_and_where_they_are_redundant_have_no_bias() -> None:
    layer = nn.BatchNormLSTM(I, H)
    norms = {name: p for name, p in layer.named_parameters() if name.startswith("norm_")}
    assert {name: tuple(p.shape) for name, p in norms.items()} == {
        "norm_weight_ih_l0": (4 * H,),
        "norm_weight_hh_l0": (4 * H,),
        "norm_weight_c_l0": (H,),
        "norm_bias_c_l0": (H,),
    }
    assert norms["norm_weight_hh_l0"].tolist() == pytest.approx([0.1] * 4 * H)
    assert norms["norm_bias_c_l0"].tolist() == [0] * H


def test_a_call_that_raises_leaves_the_statistics() -> None:
    layer = nn.BatchNormLSTM(I, H)

    class Failing(recurrence.LSTM):
        def step(self, p: Tensor, state: Any, step: int) -> Any:
            if step == 2:
                raise KeyboardInterrupt
            return super().step(p, state, step)

    cell = layer._cell
    layer._cell = lambda suffix: Failing(*(getattr(cell(suffix), name) for name in ("w", "norms")))
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with pytest.raises(KeyboardInterrupt):
        layer(torch.randn(T, N, I))
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name])


def test_in_training_a_sequence_depends_on_its_batch_and_in_evaluation_it_does_not() -> None:
    layer = BATCH_LSTM.build(I, H)
    x = torch.randn(T, N, I)
    assert (flat(layer(x))[0][:, :2] - flat(layer(x[:, :2]))[0]).abs().max() > 1e-3
    layer.eval()
    torch.testing.assert_close(flat(layer(x))[0][:, :2], flat(layer(x[:, :2]))[0])


@pytest.mark.parametrize(
    "wrong",
    [torch.ones(2, 4 * H), torch.ones(20, 4 * H, dtype=torch.int64), torch.ones(1).expand(20, 4 * H)],
    ids=["shape", "dtype", "expanded"],
)
def test_statistics_that_cannot_be_written_leave_the_others_as_they_were(wrong: Tensor) -> None:
    layer = nn.BatchNormLSTM(I, H, max_steps=20)
    layer.statistics_hh_l0.running_var = wrong
    before = [b.clone() for b in layer.buffers()]
    with pytest.raises(ArgumentError, match=r"running_var of floats \[20, 16\] that can be written"):
        layer(torch.randn(T, N, I))
    for a, b in zip(layer.buffers(), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("max_steps", [1, 3, T, 20])
def test_statistics_of_a_compiled_call_are_remembered_as_others_are(
    max_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, or in torch operations where a kernel cannot write: of steps alone and of those that share."""
    found = []
    seen: list[bool] = []
    original = batch_lstm.update
    for by_kernel in (True, False):
        torch.manual_seed(0)
        layer = nn.BatchNormLSTM(I, H, max_steps=max_steps, momentum=0.3)

        def update(*args: Any, wanted: bool = by_kernel) -> bool:
            seen.append(wanted and original(*args))
            return seen[-1]

        monkeypatch.setattr(batch_lstm, "update", update)
        x = 3 + 2 * torch.randn(T, N, I)
        version = layer.statistics_ih_l0.running_mean._version
        layer(x, lengths=[T, *range(1, N)])
        assert layer.statistics_ih_l0.running_mean._version > version
        found.append(list(layer.buffers()))
    assert seen == [True] * 3 + [False] * 3
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("place", ["ih", "c"])
def test_statistics_made_in_inference_mode_leave_all_as_they_were(place: str, dtype: torch.dtype) -> None:
    layer = nn.BatchNormLSTM(I, H, dtype=dtype)
    statistics = getattr(layer, f"statistics_{place}_l0")
    with torch.inference_mode():
        statistics.running_mean = torch.zeros_like(statistics.running_mean)
    before = [b.clone() for b in layer.buffers()]
    with pytest.raises(ArgumentError, match="inference mode"):
        layer(torch.randn(T, N, I, dtype=dtype))
    for a, b in zip(layer.buffers(), before, strict=True):
        assert torch.equal(a, b)


def test_an_ensemble_trains_in_one_vmap() -> None:
    """Each member by its own statistics, which are given back; without a warning of what vmap does one by one."""
    torch.manual_seed(0)
    layers = [nn.BatchNormLSTM(I, H, max_steps=T - 1) for _ in range(3)]
    x = torch.randn(T, N, I)
    parameters, buffers = torch.func.stack_module_state(layers)  # type: ignore[arg-type]
    base = nn.BatchNormLSTM(I, H, max_steps=T - 1, device="meta")

    def member(p: dict[str, Tensor], s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y, _ = torch.func.functional_call(base, (p, s), (x,))
        return y, s

    y, _ = torch.func.vmap(member)(parameters, buffers)
    for found, layer in zip(y, layers, strict=True):
        torch.testing.assert_close(found, layer(x)[0])
