"""From a text to a task: names, options, files, and what is said when one of them is wrong."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from types import ModuleType

import pytest

from normkit.errors import ArgumentError, TaskError
from normkit.lab.loading import load_task, task_hash
from normkit.lab.norms import norm_factory
from normkit.lab.records import RunSpec
from normkit.lab.template import write_template
from normkit.lab.training import run

MINIMAL = """
from torch import nn
from normkit.lab import Task
from normkit.lab.data import digits

task = Task(
    name="mine",
    description="Mine.",
    data=lambda seed: digits(seed).map(lambda image: (image.flatten(1),)),
    build=lambda norm: nn.Sequential(nn.Linear(64, 16), norm.features(16), nn.ReLU(), nn.Linear(16, 10)),
    steps=lambda batch_size: 20,
)
"""


def write(folder: Path, text: str, name: str = "my_task.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# Names and options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits-mlp", "digits-mlp"),
        ("digits-lstm:lengths=variable,sequence=pixels", "digits-lstm:lengths=variable,sequence=pixels"),
        ("digits-lstm:sequence=pixels, lengths=variable", "digits-lstm:lengths=variable,sequence=pixels"),
        ("digits-lstm:sequence=rows,lengths=fixed", "digits-lstm"),
        ("digits-transformer:placement=post", "digits-transformer:placement=post"),
    ],
)
def test_a_task_is_named_by_what_differs_from_its_defaults(text: str, name: str) -> None:
    assert load_task(text).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "digits-lstn",
            "task: expected digits-mlp, digits-cnn, digits-lstm, digits-transformer, digits-gru, adding or "
            "copy-memory, or the path of a file my_task.py, got 'digits-lstn'; did you mean digits-lstm?",
        ),
        (
            "digits-lstm:length=variable",
            "digits-lstm: expected option sequence=rows|pixels or lengths=fixed|variable, got 'length=variable'; "
            "did you mean lengths?",
        ),
        (
            "digits-lstm:lengths=varying",
            "digits-lstm: expected lengths to be fixed or variable, got 'varying'; did you mean variable?",
        ),
        (
            "digits-lstm:variable",
            "digits-lstm: expected option sequence=rows|pixels or lengths=fixed|variable, got 'variable'; "
            "use one of these.",
        ),
        ("digits-mlp:depth=3", "digits-mlp: expected no options, got 'depth=3'; write digits-mlp."),
        ("digits-lstm:", "digits-lstm: expected option sequence=rows|pixels or lengths=fixed|variable, got ''; use"),
    ],
)
def test_a_text_that_names_no_task_is_told_the_known_ones(text: str, message: str) -> None:
    for call in (load_task, task_hash):
        with pytest.raises(ArgumentError) as caught:
            call(text)
        assert str(caught.value).startswith(message)


# Files ------------------------------------------------------------------------------------------------------


def test_a_file_defines_a_task_and_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "NAME = 'from the neighbour'\n", name="neighbour_of_my_task.py")
    text = write(
        tmp_path,
        MINIMAL.replace('name="mine"', "name=NAME").replace("\n", "\nfrom neighbour_of_my_task import NAME\n", 1),
    )
    assert load_task(text).name == "from the neighbour"


def test_a_relative_path_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_task("my_task.py").name == "mine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nassert x == 2, 'not two'\n", "my_task.py:2: AssertionError: not two"),
        ("def f():\n    return 1 / 0\n\nf()\n", "my_task.py:2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')\n", "my_task.py:2: JSONDecodeError: Expecting property name"),
        ("x = (1,\n\ny = 2\n", "my_task.py:1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit('bye')\n", "my_task.py:2: SystemExit: bye"),
        ("import not_there\n", "my_task.py:1: ModuleNotFoundError: No module named 'not_there'"),
        (MINIMAL.replace("20", "20,\n    optimizer='adamw'"), "my_task.py:6: ArgumentError: Task: expected optimizer"),
        ("x = 1\n", "my_task.py: expected task = normkit.lab.Task(...), got no such name; define it in the file."),
        ("task = 3\n", "my_task.py: expected task = normkit.lab.Task(...), got int; define it in the file."),
    ],
    ids=["top", "function", "library", "syntax", "exit", "import", "definition", "no task", "not a task"],
)
def test_a_file_that_fails_says_where(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(write(tmp_path, source))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_start_one(tmp_path: Path) -> None:
    text = str(tmp_path / "nowhere.py")
    for call in (load_task, task_hash):
        with pytest.raises(TaskError) as caught:
            call(text)
        assert str(caught.value) == (
            f"task: expected a Python file, got {text!r}, which cannot be read (No such file or directory); "
            "normkit compare --init nowhere.py writes one to start from."
        )


def with_helper(folder: Path, word: str, *, late: bool = False) -> str:
    """A task file in a folder of its own whose helper says this word, at once or when the network is built."""
    folder.mkdir(exist_ok=True)
    write(folder, f"WORD = {word!r}\n", name="my_helper.py")
    first = "\nfrom my_helper import WORD\n" if not late else "\n"
    build = "lambda norm: __import__('my_helper').WORD" if late else "lambda norm: WORD"
    return write(folder, first + MINIMAL[: MINIMAL.index("    build=")] + f"    build={build},\n    steps=len,\n)\n")


@pytest.mark.parametrize("late", [False, True])
def test_helpers_of_one_name_in_two_folders_are_two(tmp_path: Path, late: bool) -> None:
    tasks = [load_task(with_helper(tmp_path / word, word, late=late)) for word in ("red", "blue")]
    words = [task.build(norm_factory("none")) for task in (*tasks, *tasks)]
    assert words == ["red", "blue", "red", "blue"]
    assert "my_helper" not in sys.modules
    assert not {str(tmp_path / word) for word in ("red", "blue")} & set(sys.path)


def test_a_module_of_the_callers_own_stays_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("my_helper")
    monkeypatch.setitem(sys.modules, "my_helper", mine)
    assert load_task(with_helper(tmp_path / "red", "red")).build(norm_factory("none")) == "red"
    assert sys.modules["my_helper"] is mine


def test_an_edited_helper_is_loaded_again(tmp_path: Path) -> None:
    for word in ("red", "green"):
        assert load_task(with_helper(tmp_path / "task", word)).build(norm_factory("none")) == word


# The hash ---------------------------------------------------------------------------------------------------


def test_an_edited_file_is_another_task(tmp_path: Path) -> None:
    text = write(tmp_path, MINIMAL)
    before = task_hash(text)
    assert task_hash(text) == before
    assert load_task(text).name == "mine"
    write(tmp_path, MINIMAL.replace('"mine"', '"mine, edited"'))
    assert task_hash(text) != before
    assert load_task(text).name == "mine, edited"


def test_an_edited_helper_makes_another_task(tmp_path: Path) -> None:
    """Also one that a helper imports, in a package, and inside a function."""
    files = {"one.py": "import two\n", "two.py": "def f():\n    from three.part import x\n", "three/part.py": "x = 1\n"}
    (tmp_path / "three").mkdir()
    for name, source in {**files, "three/__init__.py": "", "unused.py": ""}.items():
        write(tmp_path, source, name=name)
    text = write(tmp_path, "import one\n" + MINIMAL)
    hashes = [task_hash(text)]
    for name in files:
        write(tmp_path, files[name] + "# a word\n", name=name)
        hashes.append(task_hash(text))
    assert len(set(hashes)) == 4
    write(tmp_path, "# a word", name="unused.py")
    assert task_hash(text) == hashes[-1]


def test_options_are_part_of_the_task_and_spelling_is_not() -> None:
    assert task_hash("digits-lstm") == task_hash("digits-lstm:lengths=fixed")
    hashes = {
        task_hash(f"digits-lstm:lengths={n},sequence={s}") for n in ("fixed", "variable") for s in ("rows", "pixels")
    }
    assert len(hashes | {task_hash("digits-mlp")}) == 5


def test_a_run_planned_for_another_version_of_the_file_does_not_happen(tmp_path: Path) -> None:
    text = write(tmp_path, MINIMAL)
    spec = RunSpec(text, task_hash(text), "layer", 16, 0.01, 0, "tune", 20)
    write(tmp_path, MINIMAL + "\n# a word\n")
    record = run(spec)
    assert record.status == "failed"
    assert record.message == (
        f"{text}: expected the task, the normkit and the torch that this run was planned for, got others, "
        "edited since or on another machine; make them the same and start again."
    )


# The template -----------------------------------------------------------------------------------------------


def test_the_template_runs_as_it_is_in_a_process_that_has_only_its_path(tmp_path: Path) -> None:
    text = str(write_template(tmp_path / "other_name.py"))
    assert "normkit compare --task other_name.py" in Path(text).read_text(encoding="utf-8")
    task = load_task(text)
    spec = RunSpec(text, task_hash(text), "layer", 32, 0.003, 0, "evaluate", task.steps(32))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(run, (spec,))
    here = run(spec)
    assert there.status == here.status == "done"
    assert there.metrics == here.metrics
    assert here.metrics["test_accuracy"] > 0.9


def test_the_template_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my_task.py"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(ArgumentError) as caught:
        write_template(path)
    expected = f"write_template: expected a path where nothing is, got {str(path)!r}; choose another name."
    assert str(caught.value) == expected
    assert path.read_text(encoding="utf-8") == "precious"


def test_the_template_needs_a_place_and_a_python_name(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"expected a name that ends in \.py, got '.*my_task'; add it\."):
        write_template(tmp_path / "my_task")
    with pytest.raises(ArgumentError, match=r"expected a place to write to, got .*No such file or directory"):
        write_template(tmp_path / "nowhere" / "my_task.py")
