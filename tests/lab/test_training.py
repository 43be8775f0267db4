"""One run: fair between norms, the same every time, and honest about what went wrong."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from normkit.lab.evaluation import batch_statistics, evaluate_model, recomputed_statistics, score
from normkit.lab.loading import load_task, task_hash
from normkit.lab.norms import norm_factory
from normkit.lab.records import RunSpec
from normkit.lab.task import Data, Split, cross_entropy
from normkit.lab.training import run


def spec(task: str = "digits-mlp", **changes: object) -> RunSpec:
    base = RunSpec(
        task=task,
        task_hash=task_hash(task),
        norm="layer",
        batch_size=16,
        learning_rate=0.01,
        seed=0,
        role="tune",
        steps=15,
    )
    return replace(base, **changes)


FILE = """
import json
from pathlib import Path

import torch
from torch import nn
from normkit.lab import Task
from normkit.lab.data import digits

SEEN = Path(__file__).with_name("seen.jsonl")


def data(seed):
    return digits(seed).map(lambda image: (image.flatten(1),))


class Model(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 16), norm.features(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
        )
        self.shared = [w.flatten().tolist() for w in self.parameters() if w.dim() == 2]

    def forward(self, x):
        with SEEN.open("a") as file:
            json.dump({"training": self.training, "rows": x.sum(1).tolist(), "weights": self.shared}, file)
            file.write("\\n")
        return self.layers(x)


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)


task = Task(
    name="mine",
    description="Mine.",
    data=data,
    build=Model,
    steps=lambda batch_size: 20,
    optimizer="sgd",
    loss=loss,
)
"""


def write(folder: Path, text: str = FILE) -> str:
    path = folder / "my_task.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


# Learning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "rms", "group"])
def test_a_network_learns_in_the_steps_of_its_task(norm: str) -> None:
    task = load_task("digits-mlp")
    record = run(spec(norm=norm, batch_size=128, learning_rate=0.02, steps=task.steps(128)))
    assert record.status == "done"
    assert record.metrics["val_accuracy"] > 0.9
    assert record.metrics["val_nll"] < 0.3


@pytest.mark.parametrize("text", ["digits-cnn", "digits-lstm", "digits-lstm:lengths=variable", "digits-transformer"])
def test_every_task_comes_down_from_chance(text: str) -> None:
    record = run(spec(text, steps=40, batch_size=64))
    assert record.status == "done"
    assert record.curve[0][1] == pytest.approx(math.log(10), abs=0.5)
    assert record.metrics["val_nll"] < math.log(10) - 0.3


def test_batch_norm_suffers_from_a_batch_of_two_and_layer_norm_does_not() -> None:
    batch, layer = (run(spec(norm=norm, batch_size=2, learning_rate=6e-3, steps=300)) for norm in ("batch", "layer"))
    assert batch.metrics["val_nll"] > 2 * layer.metrics["val_nll"]


def test_a_record_says_what_was_done() -> None:
    record = run(spec(steps=120))
    assert record.spec == spec(steps=120)
    assert record.steps_done == 120
    assert record.epochs == pytest.approx(120 * 16 / 1000)
    assert 0 < record.ms_per_step < 1e3 * record.wall_s
    assert 40 <= len(record.curve) <= 50
    assert record.curve[-1][0] == 120
    assert [step for step, _ in record.curve] == sorted({step for step, _ in record.curve})
    assert record.provenance["threads"] == 1
    assert record.provenance["versions"]["torch"] == torch.__version__
    json.dumps(record.provenance)


# Fair between norms, the same every time --------------------------------------------------------------------


def seen_by(text: str, **changes: object) -> list[dict[str, object]]:
    log = Path(text).with_name("seen.jsonl")
    log.unlink(missing_ok=True)
    assert run(spec(text, **changes)).status == "done"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_norm_gets_the_same_weights_split_and_order_of_batches(tmp_path: Path) -> None:
    text = write(tmp_path)
    plain = seen_by(text, norm="none")
    assert len(plain) == 15 + 1  # steps, and the validation data
    assert {len(entry["rows"]) for entry in plain[:-1]} == {16}
    for norm in ("batch", "layer", "rms", "group"):
        assert seen_by(text, norm=norm) == plain
    assert seen_by(text, norm="none", learning_rate=0.5) == plain


def test_another_seed_gives_other_weights_another_split_and_another_order(tmp_path: Path) -> None:
    text = write(tmp_path)
    one, other = seen_by(text, seed=0), seen_by(text, seed=1)
    assert one[0]["weights"] != other[0]["weights"]
    assert one[0]["rows"] != other[0]["rows"]
    assert sorted(one[-1]["rows"]) != sorted(other[-1]["rows"])


def test_an_epoch_sees_no_sample_twice_and_leaves_out_what_does_not_fill_a_batch(tmp_path: Path) -> None:
    entries = seen_by(write(tmp_path), batch_size=300, steps=6)
    first, second = ([value for entry in entries[i : i + 3] for value in entry["rows"]] for i in (0, 3))
    everything = load_task(str(tmp_path / "my_task.py")).data(0).train.inputs[0].sum(1).tolist()
    for epoch in (first, second):
        assert len(epoch) == 900
        assert not [value for value in set(epoch) if epoch.count(value) > everything.count(value)]
    assert first != second


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_the_same_spec_gives_the_same_bits(norm: str, tmp_path: Path) -> None:
    text = write(tmp_path)  # with dropout
    first = run(spec(text, norm=norm, role="evaluate"))
    torch.rand(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run(spec(text, norm="none", seed=3))
        again = run(spec(text, norm=norm, role="evaluate"))
    finally:
        torch.set_num_threads(threads)
    assert first.metrics == again.metrics
    assert first.curve == again.curve


def test_a_run_leaves_the_callers_random_numbers_and_threads_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(spec())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


# Outcomes that are not numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("learning_rate", "loss"), [(1e6, r"\d\.\de\+\d\d"), (1e20, "nan|inf")])
def test_a_run_that_diverges_is_recorded_as_such(learning_rate: float, loss: str) -> None:
    record = run(spec(norm="none", learning_rate=learning_rate))
    assert record.status == "diverged"
    assert re.fullmatch(rf"the training loss was ({loss}) nats at step {record.steps_done + 1}", record.message)
    assert record.steps_done < 15
    assert record.metrics == {}
    assert all(value < 1e4 for _, value in record.curve)


def test_a_run_whose_last_step_ruins_it_has_diverged_too(tmp_path: Path) -> None:
    text = write(tmp_path, FILE.replace("return self.layers(x)", "return self.layers(x) / self.training"))
    record = run(spec(text))
    assert (record.status, record.message) == ("diverged", "after the last step val_nll was not finite")
    assert record.metrics == {}
    assert record.steps_done == 15


def test_batch_norm_on_one_sample_is_impossible() -> None:
    record = run(spec(norm="batch", batch_size=1))
    assert record.status == "impossible"
    assert "more than 1 value per channel" in record.message
    assert record.steps_done == 0
    for text in ("digits-lstm", "digits-lstm:lengths=variable"):
        assert run(spec(text, norm="batch", batch_size=1)).status == "impossible"
    assert run(spec("digits-cnn", norm="batch", batch_size=1)).status == "done"  # an image has many positions


def test_instance_norm_on_features_is_impossible() -> None:
    record = run(spec(norm="instance"))
    assert record.status == "impossible"
    assert record.message.startswith("instance: expected several positions in each channel of a sample, got one in")


def test_a_batch_larger_than_the_training_data_is_impossible() -> None:
    record = run(spec(batch_size=1001))
    assert record.status == "impossible"
    assert record.message == (
        "batch size: expected at most the 1000 samples there are to train on, got 1001; use less."
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return digits(seed).map", "return digits(seed).mop", "my_task.py:14: AttributeError: 'Data' object has no"),
        (
            "return digits(seed).map",
            "return 3; digits(seed).map",
            "my_task.py:13: expected data to return a normkit.lab.Data, got int;",
        ),
        (
            "build=Model",
            "build=lambda norm: 3",
            "my_task.py:40: expected build to return a torch.nn.Module, got int; return",
        ),
        ("nn.Linear(64, 16)", "nn.Linear(63, 16)", "my_task.py:29: RuntimeError: mat1 and mat2 shapes"),
        ("norm.features(16)", "norm.feature(16)", "my_task.py:21: AttributeError: 'NormFactory' object has no"),
        (
            "return self.layers(x)",
            "return self.layers(x)[0]",
            "my_task.py:18, in the model that build returned: model: expected logits [16, classes], got [10];",
        ),
        (
            "return self.layers(x)",
            "return (self.layers(x),)",
            "my_task.py:18, in the model that build returned: model: expected logits as one tensor, got",
        ),
        ("cross_entropy(outputs, targets)", "cross_entropy(outputs)", "my_task.py:33: TypeError: cross_entropy()"),
    ],
)
def test_a_task_that_fails_says_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    record = run(spec(write(tmp_path, FILE.replace(old, new))))
    assert record.status == "failed"
    assert record.message.startswith(message)


def test_a_norm_on_the_wrong_number_of_features_says_where(tmp_path: Path) -> None:
    record = run(spec(write(tmp_path, FILE.replace("norm.features(16)", "norm.features(17)"))))
    assert record.status == "failed"
    assert record.message.startswith("my_task.py:29: ShapeError: LayerNorm: expected input")


# Evaluation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "rms", "group", "instance"])
def test_only_norms_with_running_statistics_are_evaluated_three_ways(norm: str) -> None:
    metrics = run(spec("digits-cnn", norm=norm, role="evaluate", steps=2)).metrics
    plain = {f"{data}_{what}" for data in ("val", "test") for what in ("nll", "accuracy")}
    more = {f"test_{what}_{how}" for what in ("nll", "accuracy") for how in ("batch", "recomputed")}
    assert metrics.keys() == (plain | more if norm == "batch" else plain)


def test_tuning_never_looks_at_the_test_data() -> None:
    metrics = run(spec(norm="batch", role="tune")).metrics
    assert metrics.keys() == {"val_nll", "val_accuracy"}
    assert metrics.items() <= run(spec(norm="batch", role="evaluate")).metrics.items()


class Recorder(nn.Module):
    """One BatchNorm1d, and the sizes of what passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = norm_factory("batch").features(4)
        self.drop = nn.Dropout(0.5)
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return self.drop(self.norm(x))


def made_up(n: int = 22) -> Data:
    generator = torch.Generator().manual_seed(2)
    split = Split((5 + 3 * torch.randn(n, 4, generator=generator),), torch.randint(4, (n,), generator=generator))
    other = Split((torch.randn(10, 4, generator=generator),), torch.randint(4, (10,), generator=generator))
    return Data(split, other, other)


def nll(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, targets: torch.Tensor) -> float:
    x, mean, var = x.double(), mean.double(), var.double()
    return cross_entropy((x - mean) / (var + 1e-5).sqrt(), targets).item()


def test_recomputed_statistics_are_those_of_all_training_data() -> None:
    data, model = made_up(), Recorder()
    metrics, how = evaluate_model(model, cross_entropy, data, spec(role="evaluate", batch_size=4))
    (x,), targets = data.train.inputs, data.test.targets
    expected = nll(data.test.inputs[0], x.double().mean(0), x.double().var(0), targets)
    assert metrics["test_nll_recomputed"] == pytest.approx(expected, abs=1e-5)
    running = nll(data.test.inputs[0], torch.zeros(4), torch.ones(4), targets)
    assert metrics["test_nll"] == pytest.approx(running, abs=1e-5)
    assert how == {"batch_statistics_over": 4, "recomputed_over": 22}


def test_batch_statistics_see_full_batches_and_count_each_sample_once() -> None:
    data, model = made_up(), Recorder().eval()
    with batch_statistics(model):
        metrics = score(model, cross_entropy, data.test, chunk=4)
    assert model.sizes == [4, 4, 4]
    (x,) = data.test.inputs
    rows = [slice(0, 4), slice(4, 8), slice(6, 10)]
    normalized = [(x[r] - x[r].mean(0)) / (x[r].var(0, correction=0) + 1e-5).sqrt() for r in rows]
    expected = cross_entropy(torch.cat([normalized[0], normalized[1], normalized[2][2:]]), data.test.targets).item()
    assert metrics[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", [batch_statistics, lambda model: recomputed_statistics(model, made_up().train)])
def test_other_statistics_are_put_back_even_after_an_error(how: object) -> None:
    model = Recorder().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def inside() -> None:
        with how(model):  # type: ignore[operator]
            model(torch.randn(6, 4))
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert not model.norm.training
    assert model.norm.momentum == 0.1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
def test_a_score_does_not_depend_on_how_many_are_scored_at_once(chunk: int) -> None:
    model, split = nn.Linear(4, 4).eval(), made_up().test
    expected = cross_entropy(model(*split.inputs), split.targets).item()
    loss, accuracy = score(model, cross_entropy, split, chunk=chunk)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert accuracy == (model(*split.inputs).argmax(1) == split.targets).double().mean().item()


def test_an_evaluation_beside_the_primary_one_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm by batch statistics may be infinite: the run is done, without that number."""
    metrics = {"val_nll": 0.5, "test_nll": 0.4, "test_nll_batch": math.inf}
    monkeypatch.setattr("normkit.lab.training.evaluate_model", lambda *_: (metrics, {}))
    record = run(spec(norm="batch", role="evaluate"))
    assert record.status == "done"
    assert record.metrics == {"val_nll": 0.5, "test_nll": 0.4}
