"""The experiments that train: what they plan, what their rules speak of, and what a small job gives."""

import json
import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import normkit.claims
from normkit.claims.experiment import UNDEFINED
from normkit.claims.experiments import e10_learning_rates, e11_speed, e20_architectures, e21_regularizer, e24_cost
from normkit.claims.experiments._digits import few, image_digits
from normkit.claims.experiments._stacked_training import cross_entropy
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS, Cell, half_decades
from normkit.lab.tuning import tune

ROOT = Path(normkit.claims.__file__).parent
NUMBERS = ("E05", "E06", "E10", "E11", "E16", "E17", "E18", "E19", "E20", "E21", "E23", "E24")
SIDES = ("these", "those", "these_without", "those_without")


def experiment(number):
    (file,) = (ROOT / "experiments").glob(f"{number.lower()}_*.py")
    return import_module(f"normkit.claims.experiments.{file.stem}").EXPERIMENT


def rules(number):
    return json.loads((ROOT / "rules" / f"{number}.json").read_text(encoding="utf-8"))


def meets(arm, side):
    return all(name in arm and arm[name] == value for name, value in side.items())


@pytest.mark.parametrize("number", NUMBERS)
def test_plan(number):
    found = experiment(number)
    assert found.id == number
    assert found.jobs("instant") == ()
    quick, full = found.jobs("quick"), found.jobs("full")
    for jobs, seeds in ((quick, EVALUATION_SEEDS["quick"]), (full, EVALUATION_SEEDS["full"])):
        assert len({job.conditions for job in jobs}) == len(jobs)
        assert all(job.experiment == number and job.seeds == seeds for job in jobs)
        assert all(found.seconds(job) > 0 for job in jobs)
    assert {job.conditions for job in quick} <= {job.conditions for job in full}
    assert max(found.seconds(job) for job in full) < 90


@pytest.mark.parametrize("number", NUMBERS)
def test_each_side_of_each_rule_is_one_arm(number):
    arms = [dict(job.conditions) for job in experiment(number).jobs("full")]
    for rule in rules(number):
        for side in SIDES:
            if side in rule:
                found = [arm for arm in arms if meets(arm, rule[side])]
                places = [arm.pop(rule["along"]) for arm in map(dict, found)] if "along" in rule else [None]
                assert found, (rule["id"], side)
                assert len(found) == len(set(places)) or len(found) == 1, (rule["id"], side, found)


@pytest.mark.parametrize("number", NUMBERS)
def test_quick_can_judge_some_rule(number):
    arms = [dict(job.conditions) for job in experiment(number).jobs("quick")]
    judged = [
        rule["id"]
        for rule in rules(number)
        if all(any(meets(arm, rule[side]) for arm in arms) for side in SIDES if side in rule)
    ]
    assert judged or not arms


def small(job):
    return replace(job, seeds=(0, 1), steps=min(job.steps, 3))


def first_jobs(number):
    """The first job of each kind that a rule may need, small."""
    found = {}
    for job in experiment(number).jobs("full"):
        arm = job.arm
        kind = tuple(
            arm.get(name)
            for name in ("design", "task", "norm", "network", "architecture", "placement", "learning_rate_of")
        )
        found.setdefault(kind, job)
    jobs = [small(job) for job in found.values()]
    return jobs if len(jobs) <= 4 else [jobs[0], jobs[1], jobs[len(jobs) // 2], jobs[-1]]


@pytest.mark.parametrize("number", [number for number in NUMBERS if number != "E24"])
def test_a_small_job_measures_what_the_rules_speak_of(number):
    for job in first_jobs(number):
        wanted = {
            rule["metric"].removeprefix("-")
            for rule in rules(number)
            if any(meets(job.arm, rule[side]) for side in SIDES if side in rule)
        }
        measured = experiment(number).measure(job)
        assert [m.seed for m in measured] == [0, 1]
        assert all(m.conditions == job.conditions and m.experiment == number for m in measured)
        for m in measured:
            assert m.status in ("done", "diverged")
            assert m.status == "diverged" or wanted <= set(m.metrics), job
            assert all(math.isfinite(value) for value in m.metrics.values())
            assert all(math.isfinite(value) for line in m.series.values() for value in line)
        assert any(m.status == "done" for m in measured), [m.message for m in measured]


@pytest.mark.parametrize("number", ["E05", "E16", "E20"])
def test_the_same_job_gives_the_same_numbers(number):
    job = small(experiment(number).jobs("full")[0])
    assert experiment(number).measure(job) == experiment(number).measure(job)


def test_a_cell_that_was_kept_says_the_same_again():
    job = small(next(job for job in e20_architectures.jobs("full") if job.arm["norm"] == "batch"))
    first, again = e20_architectures.measure(job), e20_architectures.measure(job)
    assert first == again, "statistics of the training set were put back"


def test_a_seed_gives_the_same_numbers_whoever_is_beside_it():
    found = experiment("E21")
    job = small(next(job for job in found.jobs("full") if job.arm.get("dropout") == 0.3))
    (alone,) = found.measure(replace(job, seeds=(1,)))
    _, beside = found.measure(job)
    assert alone.metrics == pytest.approx(beside.metrics, rel=1e-4)


def test_a_run_that_misses_the_target_counts_as_twice_its_steps(monkeypatch):
    job = small(next(job for job in e11_speed.jobs("full") if job.arm["norm"] == "none"))
    monkeypatch.setattr(e11_speed, "validations", lambda stack: [{1: 2.0, 2: 1.0}, {1: 3.0, 2: math.inf}])
    hit, miss = e11_speed.measure(job)
    assert (hit.metrics["target_nll"], hit.metrics["steps_to_target"], hit.metrics["reached"]) == (2.0, 1.0, 1.0)
    assert (miss.metrics["steps_to_target"], miss.metrics["reached"]) == (6.0, 0.0)
    assert miss.series == {"steps": (1.0,), "val_nll": (3.0,)}


def test_a_convolutional_network_without_norm_sets_the_target_of_the_others():
    jobs = {job.conditions: replace(job, seeds=(0, 1), steps=20) for job in e20_architectures.jobs("full")}
    none, batch, shapes = (
        e20_architectures.measure(next(job for job in jobs.values() if job.arm == {"architecture": a, "norm": n}))
        for a, n in (("residual", "none"), ("residual", "batch"), ("residual-shapes", "batch"))
    )
    assert any(m.metrics["reached"] for m in none), "the median is reached by a half"
    assert none[0].metrics["target_nll"] == batch[0].metrics["target_nll"]
    assert all(m.metrics["steps_to_target"] in (10, 20, 40) for m in (*none, *batch))
    assert all("steps_to_target" not in m.metrics for m in shapes), "no network without norm there"


def test_no_pixel_is_constant_in_e20():
    plain, noisy = few(image_digits(3), 500), e20_architectures.noisy_digits(3)
    for name in ("train", "validation", "test"):
        before, after = getattr(plain, name), getattr(noisy, name)
        assert (before.targets == after.targets).all()
        noise = after.inputs[0] - before.inputs[0]
        assert noise.std().item() == pytest.approx(0.1, rel=0.02)
    assert (before.inputs[0] == 0).double().mean() > 0.4
    moved = e20_architectures.shifted(torch.stack([after.inputs[0][:32]] * 2), step=0)
    assert moved.shape == (2, 32, 1, 8, 8)
    assert (moved != 0).all(), "nor where the image was moved away from"


def test_a_shift_moves_by_a_pixel():
    image = torch.arange(16.0).view(1, 1, 1, 4, 4)
    shifts = {e20_architectures.shifted(image, step)[0, 0, 0, 1, 1].item() for step in range(60)}
    assert shifts == {4 * row + column for row in range(3) for column in range(3)}


def test_where_no_learning_rate_trains_the_largest_is_undefined():
    assert e10_learning_rates.usable_range([], 30.0) == {
        "log10_max_lr": UNDEFINED,
        "usable_decades": 0.0,
        "grid_too_short": 0.0,
    }
    found = e10_learning_rates.usable_range([0.1, 1.0], 1.0)
    assert found == pytest.approx({"log10_max_lr": 0.0, "usable_decades": 1.0, "grid_too_short": 1.0})


@pytest.mark.parametrize(("number", "steps", "expected"), [("E06", 1, 1.0), ("E05", 60, 0.0), ("E11", 3, 1.0)])
def test_what_did_not_learn_is_told(number, steps, expected):
    job = next(job for job in experiment(number).jobs("full") if job.arm.get("batch", 100) >= 16)
    for m in experiment(number).measure(replace(job, seeds=(0, 1), steps=steps)):
        assert m.metrics["not_learned"] == expected


def test_each_tuning_run_is_kept_and_that_it_diverged(monkeypatch):
    tried = {0.1: [0.5, 0.25], 0.01: [1.0, math.inf], 1.0: [0.75, 0.5]}
    monkeypatch.setattr(Cell, "_tune", lambda cell: cell.tuning_losses.update(tried) or tune(tuple(tried), tried, 2))
    job = experiment("E05").jobs("quick")[0]
    for m in experiment("E05").measure(replace(job, seeds=(0, 1), steps=2)):
        assert m.series["learning_rates"] == (0.01, 0.1, 1.0)
        assert m.series["val_nll_of_1000"] == (1.0, 0.5, 0.75)
        assert m.series["val_nll_of_1001"] == (UNDEFINED, 0.25, 0.5)
        assert m.metrics["share_of_rates_diverged"] == pytest.approx(1 / 3)


def test_twelve_blocks_are_looked_at_and_not_trained():
    pre, post = (
        next(job for job in experiment("E19").jobs("full") if job.arm["blocks"] == 12 and job.arm["placement"] == where)
        for where in ("pre", "post")
    )
    assert pre.steps == post.steps == 0
    found = [m.metrics for job in (pre, post) for m in experiment("E19").measure(replace(job, seeds=(0,)))]
    assert [set(metrics) for metrics in found] == [{"gradient_last_to_first"}] * 2
    assert found[0]["gradient_last_to_first"] < found[1]["gradient_last_to_first"]


def test_the_best_dropout_is_among_those_tried():
    job = small(next(job for job in e21_regularizer.jobs("full") if job.arm["design"] == "best"))
    tried = {}
    for other in e21_regularizer.jobs("full"):
        if other.arm["design"] == "dropout" and other.arm["norm"] == job.arm["norm"]:
            tried[other.arm["dropout"]] = e21_regularizer.measure(small(other))
    for i, m in enumerate(e21_regularizer.measure(job)):
        best = min(tried, key=lambda p: tried[p][i].metrics["val_nll"])
        own = {name: tried[best][i].metrics[name] for name in ("test_nll", "not_learned")}
        edge = max(measured[i].metrics["tuning_incomplete"] for measured in tried.values())
        assert m.metrics == {"best_dropout": best, "tuning_incomplete": edge, **own}


def test_with_statistics_of_all_images_the_loss_is_of_the_first_64():
    logits, targets = torch.randn(2, 200, 10, requires_grad=True), torch.randint(10, (2, 200))
    loss = e21_regularizer._of_the_first(logits, targets)
    expected = cross_entropy(logits, targets)
    torch.testing.assert_close(loss.mean(1), expected[:, :64].mean(1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient[:, 64:] == 0).all()
    assert (e21_regularizer._of_the_first(logits.detach(), targets) == expected).all(), "all of them in evaluation"


def test_random_labels_are_drawn_and_fitted():
    data, plain = e21_regularizer._with_random_labels(0), e21_regularizer._images(0)
    assert data.validation is data.train
    assert (data.train.inputs[0] == plain.train.inputs[0]).all()
    assert (data.train.targets == plain.train.targets).double().mean() < 0.25
    assert (data.train.targets == e21_regularizer._with_random_labels(0).train.targets).all()


def test_squared_errors_are_compared_with_those_of_who_guesses_the_mean():
    job = next(job for job in experiment("E16").jobs("full") if job.arm["task"] == "adding")
    for m in experiment("E16").measure(small(job)):
        assert m.metrics["not_learned"] == (m.metrics["val_nll"] > 0.9 / 6) == 1  # the sum of two has a variance of 1/6


@pytest.mark.parametrize("network", sorted(e24_cost.NETWORKS))
def test_cost_is_measured_of_every_network(network, monkeypatch):
    monkeypatch.setattr(e24_cost, "REPETITIONS", 2)
    monkeypatch.setattr(e24_cost, "BUSY", math.inf)
    monkeypatch.setattr(e24_cost, "_load", lambda: 0.0)
    wanted = {rule["metric"] for rule in rules("E24")}
    norms = {job.arm["norm"]: job for job in e24_cost.jobs("full") if job.arm["network"] == network}
    for norm, job in norms.items():
        for m in e24_cost.measure(small(job)):
            assert m.status == "done"
            assert wanted <= set(m.metrics)
            assert all(value > 0 for name, value in m.metrics.items() if name != "state_numbers")
            assert (m.metrics["state_numbers"] > 0) == (norm != "none")


def test_a_folded_network_is_the_same_function():
    model, x = e24_cost.NETWORKS["mlp"][0]("batch", 64), torch.randn(32, 64)
    for layer in model.modules():
        if hasattr(layer, "running_mean"):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 2.0)
    folded = e24_cost.fold(model.eval(), x)
    assert not any(hasattr(layer, "running_mean") for layer in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_fold_is_checked_past_the_rounding_of_a_batch_of_two():
    build, shape = e24_cost.NETWORKS["mlp"]
    torch.manual_seed(0)
    model, x = build("batch", 512), torch.randn(2, *shape(512))
    for _ in range(70):
        model(x)
    assert min(float(b.min()) for name, b in model.named_buffers() if name.endswith("running_var")) < 2e-3
    e24_cost.fold(model.eval(), x)


def test_nothing_is_timed_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(e24_cost, "REPETITIONS", 2)
    monkeypatch.setattr(e24_cost, "_load", lambda: 9.0)
    for m in e24_cost.measure(small(e24_cost.jobs("quick")[0])):
        assert m.status == "failed"
        assert m.message.startswith("machine busy")
        assert not m.metrics


def test_learning_rates_go_by_half_decades():
    assert half_decades(0.001, 5) == (0.001, 0.003, 0.01, 0.03, 0.1)
    assert half_decades(0.3, 4) == (0.3, 1.0, 3.0, 10.0)
