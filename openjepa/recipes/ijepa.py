"""I-JEPA: runs for a laptop, and the paper's (arXiv 2301.08243, appendix A.1)."""

from __future__ import annotations

from dataclasses import replace

from openjepa.data.views import Crop
from openjepa.masking.multiblock import MultiBlock
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.optim import OptimConfig
from openjepa.training.recipe import Length, Recipe
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import vit


def ijepa_cifar10_cpu() -> Recipe:
    """Small images (32 pixels) on a CPU."""
    return Recipe(
        name="ijepa_cifar10_cpu",
        method=IJEPAConfig(
            encoder=vit("nano", image_size=32, patch=4),
            predictor=PredictorConfig(width=96, depth=2, heads=3),
            masking=MultiBlock(),
            crop=Crop(scale=(0.4, 1.0)),
            momentum=(0.99, 1.0),
            regulariser="variance_covariance",
            regulariser_weight=(1.0, 0.0),
        ),
        optim=OptimConfig(lr=2e-3, warmup=0.05, weight_decay_end=0.04),
        length=Length(minutes=60),
        batch_size=256,
    )


def ijepa_scenes_demo() -> Recipe:
    """The demo: `scenes` on two CPU cores."""
    return replace(ijepa_cifar10_cpu(), name="ijepa_scenes_demo", length=Length(minutes=4))


def paper(name: str, size: str, patch: int, image_size: int, depth: int, epochs: int) -> Recipe:
    """What all of the paper's runs share; 15 epochs of warm-up."""
    encoder = vit(size, image_size=image_size, patch=patch)
    return Recipe(
        name=name,
        method=IJEPAConfig(
            encoder=encoder,
            predictor=PredictorConfig(width=384, depth=depth, heads=encoder.heads),
        ),
        optim=OptimConfig(warmup=15 / epochs),
        length=Length(epochs=epochs),
        batch_size=2048,
    )


def ijepa_in1k_vitb16() -> Recipe:
    """ViT-B/16"""
    return paper("ijepa_in1k_vitb16", "base", 16, 224, 6, 600)


def ijepa_in1k_vitl16() -> Recipe:
    """ViT-L/16"""
    return paper("ijepa_in1k_vitl16", "large", 16, 224, 12, 600)


def ijepa_in1k_vith14() -> Recipe:
    """ViT-H/14"""
    return paper("ijepa_in1k_vith14", "huge", 14, 224, 12, 300)


def ijepa_in1k_vith16_448() -> Recipe:
    """ViT-H/16 at 448 pixels"""
    return paper("ijepa_in1k_vith16_448", "huge", 16, 448, 12, 300)
