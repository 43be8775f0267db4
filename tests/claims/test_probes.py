"""The probes: what they plan, that they measure what their rules speak of, and what each rests on."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy.stats import spearmanr, wasserstein_distance
from torch import nn

from normkit import nn as layers
from normkit.claims.experiments import (
    e04_noise,
    e07_discrepancy,
    e08_leak,
    e09_composition,
    e12_shift,
    e14_depth,
    e15_time,
    experiment,
)
from normkit.claims.experiments._deep import deep_mlp
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._shift import drift, gradient_shift, moments, parameters_of, wasserstein
from normkit.claims.experiments._stacked_data import stacked_data
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import cross_entropy
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS
from normkit.claims.rulebook import rulebook

NUMBERS = ("E04", "E07", "E08", "E09", "E12", "E13", "E14", "E15", "E22", "E25", "E28")
FULL_ONLY = {"E22", "E25"}
SEEDS = (0, 1)


def sides(rule):
    return [side for side in (rule.these, rule.those, rule.these_without, rule.those_without) if side]


def meets(job, side):
    return all(job.arm.get(name) == value for name, value in side.items())


def of(number):
    return [rule for rule in rulebook().values() if rule.experiment == number]


@pytest.mark.parametrize("number", NUMBERS)
def test_plan(number):
    found = experiment(number)
    assert found.id == number
    assert not found.jobs("instant")
    quick, full = found.jobs("quick"), found.jobs("full")
    assert bool(quick) == (number not in FULL_ONLY)
    assert set(quick) <= set(full), "the full tier goes on from the quick one"
    for jobs, expected in ((quick, EVALUATION_SEEDS["quick"]), (full, EVALUATION_SEEDS["full"])):
        of_arm = {}
        for job in jobs:
            of_arm.setdefault(job.conditions, []).extend(job.seeds)
        assert all(sorted(seeds) == list(expected) for seeds in of_arm.values())


@pytest.mark.parametrize("number", NUMBERS)
def test_each_side_of_a_rule_is_one_arm(number):
    arms = {job.conditions: job for job in experiment(number).jobs("full")}.values()
    for rule in of(number):
        for side in sides(rule):
            found = [job for job in arms if meets(job, side)]
            places = {job.arm.get(rule.along) for job in found}
            assert len(found) == (len(places) if rule.along else 1), (rule.id, side)
            assert not rule.along or len(found) >= 3, rule.id


@cache
def measured(number, job):
    return experiment(number).measure(job)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_rule_speaks_of_what_is_measured(number):
    jobs = experiment(number).jobs("full")
    for rule in of(number):
        for side in sides(rule):
            job = next(job for job in jobs if meets(job, side))
            small = replace(job, seeds=SEEDS, steps=min(job.steps, 21))
            for m in measured(number, small):
                assert m.status in ("done", "diverged"), m.message
                assert m.status == "diverged" or rule.metric.removeprefix("-") in m.metrics, rule.id
                assert all(math.isfinite(value) for value in m.metrics.values())
                assert all(math.isfinite(value) for line in m.series.values() for value in line)


def test_a_job_repeats_itself():
    for number in ("E08", "E15"):
        job = experiment(number).jobs("quick")[0]
        small = replace(job, seeds=SEEDS, steps=min(job.steps, 5))
        assert experiment(number).measure(small) == experiment(number).measure(small)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_stacked_deep_network_is_the_layers_one_by_one(norm, after):
    stack = deep_mlp(2, 6, norm, "tanh", norm_after_activation=after)(SEEDS)
    x = torch.randn(len(SEEDS), 9, 64, generator=torch.Generator().manual_seed(0))
    for replica in range(len(SEEDS)):
        plain = []
        linears = [stack[0], stack[3], stack[6]]
        for i, linear in enumerate(linears):
            own = nn.Linear(*linear.weight.shape[1:])
            with torch.no_grad():
                own.weight.copy_(linear.weight[replica].T)
                own.bias.copy_(linear.bias[replica])
            plain.append(own)
            if i < 2:
                tail = [layers.BatchNorm1d(6) if norm == "batch" else layers.LayerNorm(6), nn.Tanh()]
                plain += reversed(tail) if after else tail
        torch.testing.assert_close(stack(x)[replica], nn.Sequential(*plain)(x[replica]), rtol=1e-4, atol=1e-5)


def test_groups_change_no_gradient_but_that_of_batchnorm():
    data = stacked_data(flat_digits, SEEDS)
    rows = {share: next(e09_composition.grouped(share)(data)) for share in (0.0, 0.5, 1.0)}
    labels = data.train.targets[torch.arange(len(SEEDS))[:, None], rows[1.0]]
    assert (labels.view(len(SEEDS), 10, 10) == labels.view(len(SEEDS), 10, 10)[:, :, :1]).all()
    kept = (rows[0.5] == rows[1.0]).double().mean()
    assert 0.45 < kept < 0.6
    for norm in ("layer", "batch"):
        gradients = {}
        for share in (0.0, 1.0):
            assert (rows[share].sort().values == rows[1.0].sort().values).all(), "the same images"
            model = mlp((16,), norm, ghost=10 if norm == "batch" else None)(SEEDS).double()
            (x,), targets = data.train.rows(rows[share])
            loss = cross_entropy(model(x.double()), targets).mean(1).sum()
            gradients[share] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        error = (gradients[0.0] - gradients[1.0]).abs().max().item()
        assert error < 1e-12 if norm == "layer" else error > 1e-3


def test_a_function_of_one_case_is_right_half_the_time_exactly():
    replicas = [(0.01, seed) for seed in SEEDS]
    for norm, mode, chance in (("layer", True, True), ("batch", False, True), ("batch", True, False)):
        model = e08_leak._build(norm, SEEDS).train(mode)
        accuracy = e08_leak._accuracy(model, replicas)
        assert bool((accuracy == 50).all()) == chance


def test_gradient_shift_is_none_where_nothing_moved_and_some_where_it_did():
    model = deep_mlp(3, 8, "batch", "tanh")(SEEDS).double()
    x = torch.randn(len(SEEDS), 12, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = parameters_of(model)
    running = model[1].running_mean.clone()

    def loss(outputs):
        return outputs.square().mean((1, 2))

    cosines, distances = gradient_shift(model, before, before, x, loss, (3, 6))
    torch.testing.assert_close(cosines, torch.ones_like(cosines))
    assert (distances == 0).all()
    moved = {name: p + 0.1 for name, p in before.items()}
    assert (gradient_shift(model, before, moved, x, loss, (3, 6))[1] > 0).all()
    last_alone = {name: p + 0.1 * name.startswith("9.") for name, p in before.items()}
    assert (gradient_shift(model, before, last_alone, x, loss, (3, 6))[1] == 0).all(), "later layers do not count"
    assert (model[1].running_mean == running).all()


def test_drift_counts_means_in_spreads_and_spreads_as_ratios():
    mean, std = torch.zeros(1, 2, 3), torch.full((1, 2, 3), 2.0)
    assert drift((mean, std), (mean + 1, std)).tolist() == [0.5, 0.5]
    assert drift((mean, std), (mean, std * math.e)).tolist() == pytest.approx([1.0, 1.0])


def test_wasserstein_is_scipys_in_spreads():
    generator = torch.Generator().manual_seed(0)
    before, after = ([torch.randn(2, 30, 4, generator=generator) ** 3 for _ in range(3)] for _ in range(2))
    for replica, found in enumerate(wasserstein(before, after).tolist()):
        expected = [
            wasserstein_distance(a[replica, :, unit], b[replica, :, unit]) / a[replica, :, unit].numpy().std()
            for a, b in zip(before, after, strict=True)
            for unit in range(4)
        ]
        assert found == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_wasserstein_sees_a_shape_that_has_the_same_mean_and_spread():
    two, three = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]), torch.tensor([-(3**0.5), 0.0, 0.0, 0.0, 0.0, 3**0.5])
    one, other = [two[None, :, None]], [three[None, :, None]]
    assert drift(moments(one), moments(other)).item() == pytest.approx(0.0, abs=1e-6)
    assert wasserstein(one, other).item() == pytest.approx((2 * (3**0.5 - 1) + 4) / 6)


def test_noise_depends_on_the_seed_alone_and_stops_in_evaluation():
    a = torch.ones(3, 5, 4)
    noise = e12_shift.Noise((0, 1, 0))
    first, second = noise(a), noise(a)
    assert (first[0] == first[2]).all()
    assert not (first[0] == first[1]).any()
    assert not (first == second).any()
    assert noise.eval()(a) is a


def test_gradient_of_an_orthogonal_linear_network_keeps_its_size():
    logs = e14_depth._log10_norm(torch.full((2, 3, 4), 1e-30))
    assert logs.tolist() == pytest.approx([-30 + math.log10(math.sqrt(12))] * 2)


def test_cosine_of_equal_and_of_opposite_cases():
    same = torch.ones(1, 4, 3)
    assert e14_depth._mean_cosine(same).item() == pytest.approx(1.0)
    assert e14_depth._mean_cosine(torch.stack([same[0, 0], -same[0, 0]])[None]).item() == pytest.approx(-1.0)


def test_layernorm_without_input_does_not_see_the_recurrent_scale():
    networks = [e15_time.Recurrence(dict(e15_time._arm("layer", g, 0.0)), (0,)) for g in (1.0, 2.5)]
    gradients = [e15_time._log10_gradients(network, (0,)) for network in networks]
    decades = [(g[0] - g[-1]).item() for g in gradients]
    assert decades[0] == pytest.approx(decades[1], abs=0.1)  # eps inside the root is all that sees it


def test_noise_theory_on_two_values():
    """Of batches of 2 from {-1, 1} the variance is 0 or 1, half the time each: mean 1/2, variance 1/4."""
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).repeat(500, 1)[..., None]
    found = e04_noise._against_theory(x, torch.zeros(1), torch.ones(1), torch.ones(1))
    assert found["mean_of_variance"] == pytest.approx(0.5)
    assert found["variance_of_mean"] == pytest.approx(0.5)
    assert found["variance_of_variance"] == pytest.approx(0.25, rel=1e-3)
    assert found["variance_of_variance_to_theory"] == pytest.approx(1.0, rel=1e-3)


def test_rank_correlation_is_scipys():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 20, generator=generator)
    b = a + b
    expected = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert e07_discrepancy.rank_correlation(a, b).tolist() == pytest.approx(expected)


def test_distances_of_statistics_are_means_over_batches_and_norms():
    data = stacked_data(flat_digits, SEEDS)
    model = mlp((6, 5), "batch")(SEEDS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = e07_discrepancy._discrepancy(model, data.test, 64)
    (x,), _ = data.test.rows(torch.arange(e07_discrepancy.TEST_CASES).expand(len(SEEDS), -1))
    own = []
    for batch in torch.split(x, 64, 1):
        first = model[0](batch)
        second = model[3](model[2](model[1].train()(first)))
        own.append(sum((y.mean(1).abs() / (y.var(1, correction=0) + 1e-5).sqrt()).mean(1) for y in (first, second)) / 2)
    torch.testing.assert_close(found["tid_mean"], torch.stack(own).mean(0))
    model.load_state_dict(before)
    layer = e07_discrepancy._discrepancy(mlp((6,), "layer")(SEEDS), data.test, 64)
    assert layer["distance_and_gap"].tolist() == [0.0, 0.0]


def test_an_lstm_without_norm_is_torchs():
    network = e15_time.Recurrence(dict(e15_time._arm("none", 1.0, 1.0, cell="lstm")), SEEDS)
    xs = torch.randn(len(SEEDS), 5, 7, e15_time.HIDDEN, dtype=torch.float64)
    h, carried = network(xs, torch.zeros_like(xs[:, :, 0]))
    for replica in range(len(SEEDS)):
        own = nn.LSTM(e15_time.HIDDEN, e15_time.HIDDEN, batch_first=True, dtype=torch.float64)
        order = [0, 1, 3, 2]  # torch's gates: i, f, g, o
        with torch.no_grad():
            for theirs, mine in ((own.weight_ih_l0, network.w_x), (own.weight_hh_l0, network.w_h)):
                gates = mine[replica].T.chunk(4)
                theirs.copy_(torch.cat([gates[gate] for gate in order]))
            own.bias_ih_l0.zero_()
            own.bias_hh_l0.zero_()
            own.bias_hh_l0[e15_time.HIDDEN : 2 * e15_time.HIDDEN] = 1.0
        _, (last, cell) = own(xs[replica])
        torch.testing.assert_close(h[replica], last[0])
        torch.testing.assert_close(carried[-1][replica], cell[0])


def test_training_a_recurrence_explains_some_of_its_target():
    network = e15_time.Recurrence(dict(e15_time._arm("layer", 1.0, 1.0)), SEEDS)
    before = network.w_h.detach().clone()
    assert e15_time._train(network, SEEDS, 0) is None
    first = e15_time._train(network, SEEDS, 1)
    last = e15_time._train(network, SEEDS, 20)
    assert first is not None
    assert last is not None
    assert (last > first + 0.01).all()
    assert not (network.w_h == before).all()
