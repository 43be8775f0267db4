"""Norms of other libraries by their qualified names, and what of ours may compute each.

A name only proposes: ``probe`` decides. Nothing here is imported from those libraries.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

import normkit.nn as nk
from normkit.surgery import forwards
from normkit.surgery.adoption import Bases


class _Family(NamedTuple):
    packages: tuple[str, ...]  # the first component of the module's name
    names: str  # a pattern of the whole class name
    candidates: tuple[Bases, ...]


_ROWS: tuple[Bases, ...] = ((forwards.LayerNormOverRows,),)
_CHANNELS: tuple[Bases, ...] = (
    (forwards.LayerNormOverMovedChannels,),
    (forwards.LayerNormOverChannels,),
    (forwards.LayerNormOverChannelsPromoted,),
)
_FROZEN: tuple[Bases, ...] = ((forwards.FrozenBatchNorm,),)
_RMS_ONCE: tuple[Bases, ...] = ((forwards.RMSNormRoundedOnce,),)
_RMS_CHANNELS: tuple[Bases, ...] = ((forwards.RMSNormOverChannels,),)
# They agree where everything is float32, and part where dtypes are mixed or the weight is small.
_RMS: tuple[Bases, ...] = (
    *_RMS_ONCE,
    (forwards.RMSNormTimesWeight,),
    (forwards.RMSNormInWeightDtype,),
    (forwards.RMSNormOnePlusWeight,),
)
_TRANSFORMERS = ("transformers", "transformers_modules")  # the second holds code that came with a checkpoint


def _then_activation(candidates: tuple[Bases, ...]) -> tuple[Bases, ...]:
    return tuple((forwards.ThenActivation, *bases) for bases in candidates)


# As of timm 1.0, transformers 5.0 and torchvision 0.25. The first match counts.
_FAMILIES = (
    _Family(("timm",), r"LayerNorm(Fp32|NoBias)?", _ROWS),
    _Family(("timm",), r"LayerNorm2d(Fp32|NoBias)?|LayerNormExp2d", _CHANNELS),
    _Family(("timm",), r"GroupNorm1?(NoBias)?", ((nk.GroupNorm,),)),
    _Family(("timm",), r"RmsNorm(Fp32)?", _RMS_ONCE),
    _Family(("timm",), r"RmsNorm2d(Fp32)?", _RMS_CHANNELS),
    _Family(("timm",), r"BatchNormAct2d", _then_activation(((nk.BatchNorm2d,),))),
    _Family(("timm",), r"FrozenBatchNormAct2d", _then_activation(_FROZEN)),
    _Family(("timm",), r"GroupNorm1?Act", _then_activation(((nk.GroupNorm,),))),
    _Family(("timm",), r"LayerNormAct(Fp32)?", _then_activation(_ROWS)),
    _Family(("timm",), r"LayerNormAct2d(Fp32)?", _then_activation(_CHANNELS)),
    _Family(("timm",), r"RmsNormAct(Fp32)?", _then_activation(_RMS_ONCE)),
    _Family(("timm",), r"RmsNormAct2d(Fp32)?", _then_activation(_RMS_CHANNELS)),
    _Family((*_TRANSFORMERS, "torchvision", "timm"), r"\w*FrozenBatchNorm2d", _FROZEN),
    _Family(("torchvision",), r"LayerNorm2d", _CHANNELS),
    _Family(_TRANSFORMERS, r"\w*RMSNorm", _RMS),
    _Family(_TRANSFORMERS, r"\w*LayerNorm", (*_ROWS, *_RMS)),  # T5LayerNorm and its kin have no mean
)


def candidates_for(module: torch.nn.Module) -> tuple[Bases, ...]:
    """What may take the place of the module's forward; nothing where the class is not known."""
    cls = type(module)
    package = cls.__module__.partition(".")[0]
    # The LayerNorm of ConvNeXt's authors, which many repositories carry a copy of, says its axes itself.
    data_format = getattr(module, "data_format", None)
    if data_format in ("channels_first", "channels_last") and cls.__name__.endswith("LayerNorm"):
        return _CHANNELS if data_format == "channels_first" else _ROWS
    for family in _FAMILIES:
        if package in family.packages and re.fullmatch(family.names, cls.__name__):
            return family.candidates
    return ()


def takes_maps(bases: Bases) -> bool:
    """Whether input is a feature map [N, C, H, W]; else the last axis is normalized over."""
    over_channels = (
        forwards.LayerNormOverMovedChannels,
        forwards.LayerNormOverChannels,
        forwards.LayerNormOverChannelsPromoted,
        forwards.RMSNormOverChannels,
        forwards.FrozenBatchNorm,
        nk.BatchNorm2d,
        nk.GroupNorm,
    )
    return any(base in over_channels for base in bases)
