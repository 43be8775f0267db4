"""The layers: drop-ins for those of ``torch.nn``, and the ones torch does not have."""

from normkit.nn._updates import no_stat_update
from normkit.nn.add_norm import AddLayerNorm, AddRMSNorm
from normkit.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normkit.nn.group_norm import GroupNorm
from normkit.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from normkit.nn.layer_norm import LayerNorm, LayerNorm2d
from normkit.nn.rms_norm import RMSNorm

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
    "RMSNorm",
    "no_stat_update",
]
