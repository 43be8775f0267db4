"""The built-in tasks: their data, their networks, and what padding may not do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from normkit.errors import ArgumentError
from normkit.lab.data import digits, split
from normkit.lab.loading import load_task
from normkit.lab.norms import norm_factory, norm_names
from normkit.lab.task import Data, Split, Task

TEXTS = (
    "digits-mlp",
    "digits-cnn",
    "digits-lstm",
    "digits-lstm:sequence=pixels",
    "digits-lstm:lengths=variable",
    "digits-gru",
    "digits-gru:lengths=variable",
    "adding",
    "copy-memory",
    "digits-transformer",
    "digits-transformer:placement=post",
)
INPUTS = {
    "digits-mlp": [(64,)],
    "digits-cnn": [(1, 8, 8)],
    "digits-lstm": [(8, 8)],
    "digits-lstm:sequence=pixels": [(64, 1)],
    "digits-lstm:lengths=variable": [(8, 8), ()],
    "digits-gru": [(8, 8)],
    "digits-gru:lengths=variable": [(8, 8), ()],
    "adding": [(20, 2)],
    "copy-memory": [(30, 10)],
    "digits-transformer": [(8, 8)],
    "digits-transformer:placement=post": [(8, 8)],
}

OUTPUTS = {"adding": 2, "copy-memory": 80}  # else a logit for each digit


def parts(data: Data) -> Iterator[Split]:
    yield from (data.train, data.validation, data.test)


# Data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1000])
def test_digits_are_split_into_three_without_overlap(seed: int) -> None:
    data = digits(seed)
    assert [len(part) for part in parts(data)] == [1000, 350, 447]
    images = torch.cat([part.inputs[0] for part in parts(data)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 1797  # no image twice, all there
    assert images.min() == 0
    assert images.max() == 1


def test_every_part_has_each_class_in_proportion() -> None:
    data = digits(3)
    whole = torch.bincount(torch.cat([part.targets for part in parts(data)])) / 1797
    for part in parts(data):
        expected = whole * len(part)
        assert (torch.bincount(part.targets) - expected).abs().max() <= 1.0


def test_the_seed_decides_the_split() -> None:
    assert torch.equal(digits(4).test.inputs[0], digits(4).test.inputs[0])
    assert not torch.equal(digits(4).test.inputs[0], digits(5).test.inputs[0])


def test_a_split_is_mixed_within_its_parts() -> None:
    targets = torch.arange(3).repeat_interleave(100)
    order = split((torch.arange(300),), targets, validation=60, test=60, seed=0).train.targets
    assert (order.diff() == 0).float().mean() < 0.6  # neither sorted (1.0) ...
    assert (order.diff() == 0).float().mean() > 0.1  # ... nor dealt out class by class (0.0)


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        split((torch.zeros(10, 2),), torch.zeros(10), validation=5, test=5, seed=0)
    assert str(caught.value) == "split: expected more samples than validation + test = 10, got 10; hold out fewer."


@pytest.mark.parametrize("text", TEXTS)
def test_every_split_of_a_task_has_its_inputs(text: str) -> None:
    for part in parts(load_task(text).data(0)):
        assert [tuple(x.shape[1:]) for x in part.inputs] == INPUTS[text]
        assert {x.shape[0] for x in part.inputs} == {len(part)}


def test_sequences_of_variable_length_are_padded_after_their_end() -> None:
    x, lengths = load_task("digits-lstm:lengths=variable").data(0).train.inputs
    assert set(lengths.tolist()) == {4, 5, 6, 7, 8}
    assert x[torch.arange(8) >= lengths[:, None]].abs().max() == 0
    (whole,) = load_task("digits-lstm").data(0).train.inputs
    kept = torch.arange(8) < lengths[:, None]
    assert torch.equal(x[kept], whole[kept])


def test_pixels_are_all_there_in_one_order_for_all_seeds() -> None:
    for seed in (0, 1):
        (pixels,) = load_task("digits-lstm:sequence=pixels").data(seed).train.inputs
        (rows,) = load_task("digits-lstm").data(seed).train.inputs
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(pixels[..., 0], rows.flatten(1)[:, order])


@pytest.mark.parametrize("length", [20, 50])
def test_adding_marks_one_number_in_each_half(length: int) -> None:
    for part in parts(load_task(f"adding:length={length}").data(0)):
        numbers, marks = part.inputs[0].unbind(2)
        half = length // 2
        assert torch.equal(marks[:, :half].sum(1), torch.ones(len(part)))
        assert torch.equal(marks[:, half:].sum(1), torch.ones(len(part)))
        torch.testing.assert_close(part.targets, (numbers * marks).sum(1))
        assert 0 <= numbers.min() < numbers.max() < 1


def test_adding_without_looking_scores_what_its_definition_says() -> None:
    task = load_task("adding")
    targets = task.data(0).test.targets
    blind = torch.tensor([1.0, -np.log(6)]).expand(len(targets), 2)
    assert task.loss(blind, targets).item() == pytest.approx(0.523, abs=0.05)
    known = torch.stack([targets, torch.full_like(targets, -6.0)], 1)
    assert task.loss(known, targets).item() == pytest.approx(0.5 * np.log(2 * np.pi) - 3, abs=1e-4)
    assert task.accuracy(known, targets) == 1
    assert task.accuracy(known + 0.2, targets) == 0


def test_copying_shows_the_symbols_once_and_asks_for_them_after_the_delay() -> None:
    for delay in ("10", "30"):
        part = load_task(f"copy-memory:delay={delay}").data(1).train
        tokens = part.inputs[0].argmax(2)
        assert tokens.shape == (len(part), 20 + int(delay))
        assert torch.equal(tokens[:, :10], part.targets)
        assert (tokens[:, 10:-10] == 8).all()
        assert (tokens[:, -10:] == 9).all()
        assert part.targets.unique().tolist() == list(range(8))


def test_copying_from_no_memory_scores_the_entropy_of_a_symbol() -> None:
    task = load_task("copy-memory")
    targets = task.data(0).test.targets
    assert task.loss(torch.zeros(len(targets), 80), targets).item() == pytest.approx(np.log(8))
    known = 50.0 * nn.functional.one_hot(targets, 8).flatten(1)
    assert task.loss(known, targets).item() == pytest.approx(0, abs=1e-6)
    assert task.accuracy(known, targets) == 1


@pytest.mark.parametrize("text", ["adding", "copy-memory"])
def test_generated_data_depend_on_the_seed_alone_and_share_nothing(text: str) -> None:
    one, again, other = (load_task(text).data(seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.inputs[0], again.train.inputs[0])
    assert not torch.equal(one.train.inputs[0], other.train.inputs[0])
    assert not torch.equal(one.train.inputs[0][:500], one.validation.inputs[0])


# Networks ---------------------------------------------------------------------------------------------------


def built(text: str, norm: str) -> nn.Module:
    torch.manual_seed(0)
    return load_task(text).build(norm_factory(norm))


@pytest.mark.parametrize("text", TEXTS)
def test_every_norm_of_a_task_builds_it_and_gives_outputs(text: str) -> None:
    task = load_task(text)
    inputs = tuple(x[:6] for x in task.data(0).train.inputs)
    for norm in task.norms:
        assert built(text, norm)(*inputs).shape == (6, OUTPUTS.get(text, 10))


@pytest.mark.parametrize("text", TEXTS)
def test_all_norms_start_from_the_same_weights(text: str) -> None:
    plain = dict(built(text, "none").named_parameters())
    for norm in load_task(text).norms:
        weights = dict(built(text, norm).named_parameters())
        assert plain.keys() <= weights.keys()
        assert all(torch.equal(plain[name], weights[name]) for name in plain)
        added = [weights[name] for name in weights.keys() - plain.keys()]
        assert bool(added) == (norm != "none")
        assert all(len(torch.unique(weight)) == 1 for weight in added)  # weights of 1 (or 0.1), biases of 0


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "rms"])
def test_padding_changes_neither_outputs_nor_statistics(norm: str) -> None:
    inputs = load_task("digits-lstm:lengths=variable").data(0).train.inputs
    x, lengths = (part[:16] for part in inputs)
    garbage = x.clone()
    garbage[torch.arange(8) >= lengths[:, None]] = 1e3
    clean_model, dirty_model = (built("digits-lstm:lengths=variable", norm) for _ in range(2))
    assert torch.equal(clean_model(x, lengths), dirty_model(garbage, lengths))
    for one, other in zip(clean_model.buffers(), dirty_model.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_a_sequence_is_read_as_if_it_were_alone_and_not_padded(norm: str) -> None:
    x, lengths = (part[:16] for part in load_task("digits-lstm:lengths=variable").data(0).train.inputs)
    model = built("digits-lstm:lengths=variable", norm)
    together = model(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1, :length]))


def test_placement_decides_where_a_transformer_normalizes() -> None:
    rows = load_task("digits-transformer").data(0).train.inputs[0][:8]
    for placement, normalized in [("pre", False), ("post", True)]:
        model = built(f"digits-transformer:placement={placement}", "layer")
        tokens = model.blocks(model.embed(rows) + model.position)
        unit = bool((tokens.var(dim=2, correction=0) - 1).abs().max() < 1e-2)
        assert unit == normalized
        tokens = model.last(tokens)
        assert (tokens.var(dim=2, correction=0) - 1).abs().max() < 1e-2


# A definition of one's own ----------------------------------------------------------------------------------


def definition(**changes: object) -> Task:
    fields: dict[str, object] = {
        "name": "mine",
        "description": "Mine.",
        "data": digits,
        "build": lambda norm: nn.Flatten(),
        "steps": lambda batch_size: 10,
    }
    return Task(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 300}, "Task: expected steps to be a function, got 300; a lambda will do."),
        ({"norms": "layer"}, "Task: expected a tuple of norms, got 'layer'; name at least one."),
        ({"batch_sizes": ()}, "Task: expected a tuple of batch_sizes, got (); name at least one."),
        ({"batch_sizes": (0, 2)}, "Task: expected batch sizes of 1 and more, got 0; leave it out."),
        ({"learning_rates": (0.0,)}, "Task: expected learning rates above 0, got 0.0; leave it out."),
        ({"optimizer": "adamw"}, "Task: expected optimizer sgd or adam, got 'adamw'; did you mean adam?"),
        ({"norms": ("layer", "bach")}, "got 'bach'; did you mean batch?"),
    ],
)
def test_a_task_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        definition(**changes)
    assert message in str(caught.value)


def test_a_tasks_norms_are_all_known() -> None:
    for text in TEXTS:
        assert set(load_task(text).norms) <= set(norm_names())


def test_importing_the_lab_imports_nothing_heavy() -> None:
    code = (
        "import sys, normkit.lab, normkit.lab.tasks\n"
        "heavy = {'sklearn', 'scipy', 'plotly', 'jinja2', 'typer', 'rich', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
