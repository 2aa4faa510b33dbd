"""The methods, by the name of their configuration: one line each."""

from __future__ import annotations

from openjepa.methods.base import Batch, MaskedBatch, Method, MethodConfig
from openjepa.methods.ijepa import IJEPA, IJEPAConfig

METHODS: dict[type[MethodConfig], type[Method]] = {IJEPAConfig: IJEPA}


def build(config: MethodConfig) -> Method:
    """The method that a configuration describes, freshly initialised from torch's global generator."""
    return METHODS[type(config)](config)


__all__ = ["IJEPA", "METHODS", "Batch", "IJEPAConfig", "MaskedBatch", "Method", "MethodConfig", "build"]
