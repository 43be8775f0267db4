"""The definition of right: every norm in NumPy and float64, forward and hand-derived backward.

Written to be read beside the formulas, one file a norm; docs/derivations/ derives each backward. It shares no
code with the torch side, so that the two can check each other.

A forward returns its outputs and then a cache; the backward takes the outputs' gradients and that cache, and
returns a gradient for each input and parameter, in the order of the forward's arguments. Arguments may be
anything NumPy turns into float64 (convert bfloat16 tensors first); they are never changed.
"""

from normkit.reference._add_norm import (
    add_layer_norm,
    add_layer_norm_backward,
    add_rms_norm,
    add_rms_norm_backward,
)
from normkit.reference._batch_norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
)
from normkit.reference._group_norm import group_norm, group_norm_backward
from normkit.reference._instance_norm import instance_norm, instance_norm_backward
from normkit.reference._layer_norm import layer_norm, layer_norm_backward
from normkit.reference._layer_norm2d import layer_norm2d, layer_norm2d_backward
from normkit.reference._layer_norm_gru import (
    GateNormCache,
    GRUStepCache,
    GRUStepGradients,
    layer_norm_gru_step,
    layer_norm_gru_step_backward,
)
from normkit.reference._layer_norm_lstm import (
    LSTMStepCache,
    LSTMStepGradients,
    layer_norm_lstm_step,
    layer_norm_lstm_step_backward,
)
from normkit.reference._layer_norm_rnn import (
    RNNStepCache,
    RNNStepGradients,
    layer_norm_rnn_step,
    layer_norm_rnn_step_backward,
)
from normkit.reference._rms_norm import RMSNormCache, rms_norm, rms_norm_backward
from normkit.reference._running_statistics import RunningStatistics, batch_norm_running_update
from normkit.reference._standardize import NormCache

__all__ = [
    "GRUStepCache",
    "GRUStepGradients",
    "GateNormCache",
    "LSTMStepCache",
    "LSTMStepGradients",
    "NormCache",
    "RMSNormCache",
    "RNNStepCache",
    "RNNStepGradients",
    "RunningStatistics",
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_running_update",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm2d",
    "layer_norm2d_backward",
    "layer_norm_backward",
    "layer_norm_gru_step",
    "layer_norm_gru_step_backward",
    "layer_norm_lstm_step",
    "layer_norm_lstm_step_backward",
    "layer_norm_rnn_step",
    "layer_norm_rnn_step_backward",
    "rms_norm",
    "rms_norm_backward",
]
