"""The methods, by the name of their configuration: one line each."""

from __future__ import annotations

from openjepa.methods.base import Batch, Method
from openjepa.methods.ijepa import IJEPA, IJEPAConfig

METHODS: dict[type, type] = {IJEPAConfig: IJEPA}


def build(config: IJEPAConfig) -> Method:
    """The method that a configuration describes, freshly initialised from torch's global generator."""
    return METHODS[type(config)](config)


__all__ = ["IJEPA", "METHODS", "Batch", "IJEPAConfig", "Method", "build"]
