"""The methods, by the name of their configuration: one line each."""

from __future__ import annotations

from openjepa.methods.base import Batch, MaskedBatch, Method, MethodConfig
from openjepa.methods.finetune import FineTune, FineTuneConfig
from openjepa.methods.ibot import IBOT, IBOTConfig
from openjepa.methods.ijepa import IJEPA, IJEPAConfig
from openjepa.methods.mae import MAE, MAEConfig

METHODS: dict[type[MethodConfig], type[Method]] = {
    IJEPAConfig: IJEPA,
    MAEConfig: MAE,
    IBOTConfig: IBOT,
    FineTuneConfig: FineTune,
}


def build(config: MethodConfig) -> Method:
    """The method that a configuration describes, freshly initialised from torch's global generator."""
    return METHODS[type(config)](config)


__all__ = [
    "IBOT",
    "IJEPA",
    "MAE",
    "METHODS",
    "Batch",
    "FineTune",
    "FineTuneConfig",
    "IBOTConfig",
    "IJEPAConfig",
    "MAEConfig",
    "MaskedBatch",
    "Method",
    "MethodConfig",
    "build",
]
