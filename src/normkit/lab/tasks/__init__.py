"""The tasks that come with normkit: name -> a function whose keyword arguments are the task's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from normkit.lab.task import Task
from normkit.lab.tasks.digits_cnn import digits_cnn
from normkit.lab.tasks.digits_mlp import digits_mlp
from normkit.lab.tasks.digits_recurrent import digits_gru, digits_lstm
from normkit.lab.tasks.digits_transformer import digits_transformer
from normkit.lab.tasks.memory import adding, copy_memory

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {
        "digits-mlp": digits_mlp,
        "digits-cnn": digits_cnn,
        "digits-lstm": digits_lstm,
        "digits-transformer": digits_transformer,
        "digits-gru": digits_gru,
        "adding": adding,
        "copy-memory": copy_memory,
    }
)

# What is compared where nobody says otherwise: one task for each kind of network.
USUAL_TASKS = ("digits-mlp", "digits-cnn", "digits-lstm", "digits-transformer")
