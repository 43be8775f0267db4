"""Three convolutions on the image of a digit."""

from __future__ import annotations

from torch import nn

from normkit.lab.data import digits
from normkit.lab.norms import NormFactory
from normkit.lab.task import Task


def digits_cnn() -> Task:
    """Convolutions of 16, 32 (stride 2) and 32 channels, and a linear layer on the last map.

    On the map, not on its mean: after a mean the norms that look at one sample alone learn many times slower,
    and within so few steps nothing else would be seen of them.
    """

    def build(norm: NormFactory) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            norm.image(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            norm.image(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            norm.image(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )

    return Task(
        name="digits-cnn",
        description="A convolutional network of 16, 32 and 32 channels reads handwritten digits.",
        data=lambda seed: digits(seed).map(lambda image: (image.unsqueeze(1),)),
        build=build,
        steps=lambda batch_size: round(240 * batch_size**-0.3),  # 195 at batch size 2, 56 at 128
        norms=("none", "batch", "layer", "rms", "group", "instance"),
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    )
