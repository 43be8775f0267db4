"""The layers: drop-ins for those of ``torch.nn``, and the ones torch does not have."""

from normkit.nn.add_norm import AddLayerNorm, AddRMSNorm
from normkit.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normkit.nn.batch_norm_lstm import BatchNormLSTM, BatchNormLSTMCell
from normkit.nn.gradient_accumulation import accumulate
from normkit.nn.group_norm import GroupNorm
from normkit.nn.gru import LayerNormGRU, LayerNormGRUCell
from normkit.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from normkit.nn.layer_norm import LayerNorm, LayerNorm2d
from normkit.nn.lstm import LayerNormLSTM, LayerNormLSTMCell
from normkit.nn.rms_norm import RMSNorm
from normkit.nn.rnn import LayerNormRNN, LayerNormRNNCell
from normkit.nn.sync_batch_norm import SyncBatchNorm

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormLSTM",
    "BatchNormLSTMCell",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LayerNormRNN",
    "LayerNormRNNCell",
    "RMSNorm",
    "SyncBatchNorm",
    "accumulate",
]
