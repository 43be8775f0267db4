"""A task of your own for normkit. It runs as it is:

    normkit compare --task my_task.py

A task is data, a network and how long to train it. Change one after the other and run it again; runs that are
still valid are not repeated.
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from normkit.lab import Data, NormFactory, Task, split


# 1. The data. The seed decides who goes where, so draw every random number from it. Inputs are a tuple, because
#    a network may take several (a padded sequence and its lengths, say); every tensor has the samples first.
def data(seed: int) -> Data:
    bunch = load_breast_cancer()  # 569 tumours, 30 measurements each, benign or malignant
    x = torch.tensor(bunch.data, dtype=torch.float32)
    y = torch.tensor(bunch.target, dtype=torch.int64)
    parts = split((x,), y, validation=120, test=120, seed=seed)
    measured = parts.train.inputs[0]  # scale by what the training data show, and by nothing else
    return parts.map(lambda x: ((x - measured.mean(0)) / measured.std(0),))


# 2. The network. Ask the factory for a norm wherever the network should have one, and name no class:
#    norm.features(n) for [N, n], norm.image(c) for [N, c, H, W], norm.tokens(n) for [N, T, n].
#    It returns one score a class, [N, classes].
def build(norm: NormFactory) -> nn.Module:
    return nn.Sequential(
        nn.Linear(30, 64),
        norm.features(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        norm.features(64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )


# 3. How long, and what is compared. The learning rates are where the search starts: it is done for each norm and
#    batch size alone, on the validation data, and goes on where the best lies at an end.
task = Task(
    name="tumours",
    description="A multilayer perceptron tells benign tumours from malignant ones by 30 measurements.",
    data=data,
    build=build,
    steps=lambda batch_size: 150,
    norms=("none", "batch", "layer", "rms", "group"),  # "instance" needs images or tokens
    batch_sizes=(4, 32),
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    optimizer="adam",  # or "sgd", with momentum 0.9
)
