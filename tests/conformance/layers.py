"""Every layer, once. A new layer joins the whole suite with one more entry of ``CASES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance import norms
from normkit import nn

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LayerCase:
    """One layer in one mode: how to build it, what it takes, and what it is to compute.

    ``sized`` gives, for n values to normalize over, the constructor's arguments and a usual input's shape; the
    suite calls it with odd, long and short n. ``shapes`` are all the inputs that the layer for n = 6 takes, the
    unbatched ones (no sample axis, which the norm's definition needs) under ``unbatched``.
    """

    name: str
    layer: Callable[..., torch.nn.Module]
    torch_layer: Callable[..., torch.nn.Module] | None
    sized: Callable[[int], tuple[tuple[Any, ...], Shape]]
    norm: norms.Norm
    shapes: Sequence[Shape]
    unbatched: Sequence[Shape] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    variants: Sequence[Mapping[str, Any]] = ({},)
    training: bool = True
    adds_residual: bool = False

    def build(
        self, n: int = 6, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", **options: Any
    ) -> torch.nn.Module:
        """The layer with random parameters and running statistics, in the case's mode."""
        layer = self.layer(*self.sized(n)[0], **{**self.options, **options}).to(device, dtype)
        randomize(layer)
        return layer.train(self.training)

    def build_torch(self, ours: torch.nn.Module, n: int = 6, **options: Any) -> torch.nn.Module:
        """torch's layer with the parameters, statistics, dtype and mode of ours."""
        assert self.torch_layer is not None
        theirs = self.torch_layer(*self.sized(n)[0], **{**self.options, **options})
        for name, parameter in ours.named_parameters():
            getattr(theirs, name).data = getattr(theirs, name).data.to(parameter)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        return theirs.to(next(iter(ours.state_dict().values()), torch.empty(0)).device).train(ours.training)

    def inputs(
        self,
        n: int = 6,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        offset: float = 0.0,
        scale: float = 1.0,
        shape: Shape | None = None,
    ) -> tuple[Tensor, ...]:
        """Normal random input, around an offset; with a residual, the two add up to that."""
        shape = self.sized(n)[1] if shape is None else shape
        x = torch.randn(shape, dtype=torch.float64) * scale + offset
        if not self.adds_residual:
            return (x.to(device, dtype),)
        part = torch.randn(shape, dtype=torch.float64) * scale
        return (x - part).to(device, dtype), part.to(device, dtype)

    def __str__(self) -> str:
        return self.name


def randomize(layer: torch.nn.Module) -> None:
    """Parameters, running means and variances that no default hides."""
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if name == "running_var":
                value.copy_(torch.rand(value.shape, dtype=torch.float64) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, dtype=torch.float64))


def outputs(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


BATCH_NORM = (
    {},
    {"affine": False},
    {"bias": False},
    {"momentum": None},
    {"momentum": 0.7, "eps": 0.5},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
)
INSTANCE_NORM = (
    {},
    {"affine": True},
    {"affine": True, "bias": False},
    {"track_running_stats": True},
    {"affine": True, "track_running_stats": True, "momentum": 0.7, "eps": 0.5},
    {"affine": True, "track_running_stats": True, "momentum": None},
)
LAYER_NORM = ({}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.5})
RMS_NORM = ({}, {"elementwise_affine": False}, {"eps": 0.5})
GROUP_NORM = ({}, {"affine": False}, {"bias": False}, {"eps": 0.5})
AFFINE_INSTANCE = MappingProxyType({"affine": True})
TRACKING_INSTANCE = MappingProxyType({"affine": True, "track_running_stats": True})

SEQUENCES = ((4, 6), (2, 6, 5), (3, 6, 1))
MAPS, UNBATCHED_MAPS = ((2, 6, 3, 4), (1, 6, 4, 4), (3, 6, 1, 2)), ((6, 3, 4),)
VOLUMES, UNBATCHED_VOLUMES = ((2, 6, 2, 3, 2), (1, 6, 1, 1, 5)), ((6, 2, 3, 2),)
ROWS = ((4, 6), (6,), (2, 3, 6), (1, 2, 3, 6), (1, 1, 2, 2, 6))

CASES: tuple[LayerCase, ...] = (
    LayerCase(
        "LayerNorm", nn.LayerNorm, torch.nn.LayerNorm, lambda n: ((n,), (5, n)), norms.LayerNorm(1), ROWS,
        variants=LAYER_NORM,
    ),
    LayerCase(
        "LayerNorm over 2 axes", nn.LayerNorm, torch.nn.LayerNorm, lambda n: (((2, n),), (3, 2, n)),
        norms.LayerNorm(2), ((3, 2, 6), (2, 6), (2, 2, 2, 6)), variants=LAYER_NORM,
    ),
    LayerCase(
        "RMSNorm", nn.RMSNorm, torch.nn.RMSNorm, lambda n: ((n,), (5, n)), norms.RMSNorm(1), ROWS, variants=RMS_NORM
    ),
    LayerCase(
        "GroupNorm", nn.GroupNorm, torch.nn.GroupNorm, lambda n: ((2, 6), (2, 6, n, 2)), norms.GroupNorm(2),
        (*SEQUENCES[:2], *MAPS, *VOLUMES), variants=GROUP_NORM,
    ),
    LayerCase(
        "BatchNorm1d", nn.BatchNorm1d, torch.nn.BatchNorm1d, lambda n: ((6,), (n + 1, 6)), norms.BatchNorm(),
        SEQUENCES, variants=BATCH_NORM,
    ),
    LayerCase(
        "BatchNorm2d", nn.BatchNorm2d, torch.nn.BatchNorm2d, lambda n: ((6,), (2, 6, n, 2)), norms.BatchNorm(),
        MAPS, variants=BATCH_NORM,
    ),
    LayerCase(
        "BatchNorm3d", nn.BatchNorm3d, torch.nn.BatchNorm3d, lambda n: ((6,), (2, 6, 2, n, 1)), norms.BatchNorm(),
        VOLUMES, variants=BATCH_NORM,
    ),
    LayerCase(
        "SyncBatchNorm alone", nn.SyncBatchNorm, None, lambda n: ((6,), (2, 6, n, 2)), norms.BatchNorm(),
        (*SEQUENCES, *MAPS, *VOLUMES), variants=BATCH_NORM,
    ),
    LayerCase(
        "BatchNorm2d in evaluation", nn.BatchNorm2d, torch.nn.BatchNorm2d, lambda n: ((6,), (2, 6, n, 2)),
        norms.GivenStatistics(), MAPS, variants=BATCH_NORM[:5], training=False,
    ),
    LayerCase(
        "InstanceNorm1d", nn.InstanceNorm1d, torch.nn.InstanceNorm1d, lambda n: ((6,), (2, 6, n + 1)),
        norms.InstanceNorm(), ((2, 6, 5), (1, 6, 2)), ((6, 5),), AFFINE_INSTANCE, INSTANCE_NORM,
    ),
    LayerCase(
        "InstanceNorm2d", nn.InstanceNorm2d, torch.nn.InstanceNorm2d, lambda n: ((6,), (2, 6, n, 2)),
        norms.InstanceNorm(), MAPS, UNBATCHED_MAPS, AFFINE_INSTANCE, INSTANCE_NORM,
    ),
    LayerCase(
        "InstanceNorm3d", nn.InstanceNorm3d, torch.nn.InstanceNorm3d, lambda n: ((6,), (2, 6, 2, n, 1)),
        norms.InstanceNorm(), VOLUMES, UNBATCHED_VOLUMES, AFFINE_INSTANCE, INSTANCE_NORM,
    ),
    LayerCase(
        "InstanceNorm2d in evaluation", nn.InstanceNorm2d, torch.nn.InstanceNorm2d, lambda n: ((6,), (2, 6, n, 2)),
        norms.GivenStatistics(), MAPS, UNBATCHED_MAPS, TRACKING_INSTANCE, INSTANCE_NORM[3:], training=False,
    ),
    LayerCase(
        "LayerNorm2d", nn.LayerNorm2d, None, lambda n: ((n,), (2, n, 3, 2)), norms.LayerNorm2d(),
        MAPS, UNBATCHED_MAPS, variants=LAYER_NORM,
    ),
    LayerCase(
        "AddLayerNorm", nn.AddLayerNorm, None, lambda n: ((n,), (5, n)), norms.LayerNorm(1), ROWS,
        variants=LAYER_NORM, adds_residual=True,
    ),
    LayerCase(
        "AddRMSNorm", nn.AddRMSNorm, None, lambda n: ((n,), (5, n)), norms.RMSNorm(1), ROWS,
        variants=RMS_NORM, adds_residual=True,
    ),
)  # fmt: skip

PARITY_CASES = tuple(case for case in CASES if case.torch_layer is not None)
# One case a layer class, in training.
CLASSES = tuple({case.layer: case for case in reversed(CASES) if case.training}.values())[::-1]

every_layer = pytest.mark.parametrize("case", CASES, ids=str)
every_class = pytest.mark.parametrize("case", CLASSES, ids=lambda case: case.layer.__name__)
every_parity_layer = pytest.mark.parametrize("case", PARITY_CASES, ids=str)
