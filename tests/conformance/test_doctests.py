"""The examples of the documentation run and print what they say."""

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import normkit
from normkit import functional
from normkit.nn import (
    _updates,
    add_norm,
    batch_norm,
    batch_norm_lstm,
    gradient_accumulation,
    group_norm,
    gru,
    instance_norm,
    layer_norm,
    lstm,
    rms_norm,
    rnn,
    sync_batch_norm,
)

# By their paths: the functions of normkit.surgery hide the modules that they are named like.
SURGERY = tuple(
    importlib.import_module(f"normkit.surgery.{name}") for name in ("freeze", "recalibrate", "synchronize", "upgrade")
)
MODULES = (
    functional,
    _updates,
    add_norm,
    batch_norm,
    batch_norm_lstm,
    gradient_accumulation,
    group_norm,
    gru,
    instance_norm,
    layer_norm,
    lstm,
    rms_norm,
    rnn,
    sync_batch_norm,
    *SURGERY,
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"normkit": normkit, "torch": torch})
    assert result.failed == 0
    assert result.attempted > 0


PAGES = [page for page in Path(__file__).parents[2].glob("docs/**/*.md") if ">>>" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, globs={"normkit": normkit, "torch": torch})
    assert result.failed == 0


DOCUMENTED = [getattr(normkit.nn, name) for name in normkit.nn.__all__] + [
    getattr(functional, name) for name in functional.__all__
]


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda thing: thing.__name__)
def test_every_public_name_has_an_example(documented: object) -> None:
    assert doctest.DocTestFinder(recurse=False).find(documented)[0].examples
