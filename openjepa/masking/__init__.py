"""Which patches are context and which are targets: the paper's, the released ones, the rivals."""

from openjepa.masking.base import Grid, Masking, Masks
from openjepa.masking.blockwise import Blockwise
from openjepa.masking.multiblock import MultiBlock
from openjepa.masking.official import Official
from openjepa.masking.rivals import Random, Rasterized, SingleBlock

__all__ = [
    "Blockwise",
    "Grid",
    "Masking",
    "Masks",
    "MultiBlock",
    "Official",
    "Random",
    "Rasterized",
    "SingleBlock",
]
