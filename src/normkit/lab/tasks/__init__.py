"""The tasks that come with normkit: name -> a function whose keyword arguments are the task's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from normkit.lab.task import Task
from normkit.lab.tasks.digits_cnn import digits_cnn
from normkit.lab.tasks.digits_lstm import digits_lstm
from normkit.lab.tasks.digits_mlp import digits_mlp
from normkit.lab.tasks.digits_transformer import digits_transformer

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {
        "digits-mlp": digits_mlp,
        "digits-cnn": digits_cnn,
        "digits-lstm": digits_lstm,
        "digits-transformer": digits_transformer,
    }
)
