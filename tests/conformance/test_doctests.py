"""The examples of the documentation run and print what they say."""

import doctest
from types import ModuleType

import pytest

import normkit
from normkit import functional
from normkit.nn import (
    add_norm,
    batch_norm,
    batch_norm_lstm,
    group_norm,
    gru,
    instance_norm,
    layer_norm,
    lstm,
    rms_norm,
    rnn,
)

MODULES = (
    functional,
    add_norm,
    batch_norm,
    batch_norm_lstm,
    group_norm,
    gru,
    instance_norm,
    layer_norm,
    lstm,
    rms_norm,
    rnn,
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


DOCUMENTED = [getattr(normkit.nn, name) for name in normkit.nn.__all__] + [
    getattr(functional, name) for name in functional.__all__
]


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda thing: thing.__name__)
def test_every_public_name_has_an_example(documented: object) -> None:
    assert doctest.DocTestFinder(recurse=False).find(documented)[0].examples
