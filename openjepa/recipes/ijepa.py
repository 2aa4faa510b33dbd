"""I-JEPA: runs for a laptop, and the paper's (arXiv 2301.08243, appendix A.1)."""

from __future__ import annotations

from dataclasses import replace

from openjepa.data.views import Crop
from openjepa.masking.rivals import Random
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.optim import OptimConfig
from openjepa.training.recipe import Length, Recipe
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import vit


def small_images(image_size: int, patch: int, momentum: tuple[float, float]) -> IJEPAConfig:
    """What the runs for a laptop share. Departs from the paper (docs/decisions/010-small-images.md) in scattered
    targets, less the mean of their image's patches, an anti-collapse term on what context patches have of their own
    and Xavier's initialisation, besides the momentum that is given."""
    return IJEPAConfig(
        encoder=replace(vit("pico", image_size=image_size, patch=patch), init="xavier"),
        predictor=PredictorConfig(width=64, depth=2, heads=2),
        masking=Random(scale=0.75),
        crop=Crop(scale=(0.4, 1.0)),
        target_centre=True,
        momentum=momentum,
        regulariser="variance_covariance",
        regulariser_on="deviations",
        regulariser_weight=(0.1, 0.0),
    )


def ijepa_cifar10_cpu() -> Recipe:
    """CIFAR-10, or other images of about 32 pixels, on a CPU.

    Departs from the paper in five settings of the method, besides size and rates (docs/decisions/010-small-images.md).

    Command: openjepa pretrain --data cifar10/train.parquet --probe-test cifar10/test.parquet \\
        --recipe ijepa_cifar10_cpu
    Hardware: two CPU cores.
    Time: 60 minutes; --minutes 10 for a look.
    To reach: 20-NN 55.6 %, linear 64.1 % on the last four layers and 56.8 % on the last (untrained 33.4, 52.9, 44.6;
        raw pixels 40.3, 41.9), in 60 minutes on one of the two (results/recipes/hour_batch32).
    """
    return Recipe(
        name="ijepa_cifar10_cpu",
        method=small_images(32, 4, (0.998, 1.0)),
        optim=OptimConfig(lr=2e-3, warmup=0.05, weight_decay_end=0.04),
        length=Length(minutes=60),
        batch_size=32,
    )


def ijepa_scenes_demo() -> Recipe:
    """`scenes` of 64 pixels, up to three objects at scale 1.5, on a laptop CPU: what the demo trains.

    Departs from the paper in five settings of the method, besides size and rates (docs/decisions/010-small-images.md).

    Command: openjepa demo
    Hardware: two CPU cores.
    Time: 3 minutes.
    To reach: shape of the largest 43.9 %, number of objects 69.7 %, distance of the closest 42.1 % (untrained
        42.3, 59.2, 39.5; raw pixels 39.9, 51.9, 38.6; results/demo.json).
    """
    return Recipe(
        name="ijepa_scenes_demo",
        method=small_images(64, 8, (0.995, 0.999)),
        optim=OptimConfig(lr=2e-3, warmup=0.05, weight_decay_end=0.04),
        length=Length(minutes=3),
        batch_size=64,
    )


def paper(name: str, size: str, patch: int, image_size: int, depth: int, epochs: int) -> Recipe:
    """What all of the paper's runs share; 15 epochs of warm-up. Add --masking official --method.encoder.init official
    for the released sampler and initialisation."""
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
    """ViT-B/16 on ImageNet-1k, with the paper's settings and our masks and initialisation.

    Command: torchrun --nproc-per-node 8 -m openjepa pretrain --data imagenet/train --recipe ijepa_in1k_vitb16
    Hardware: not published for this size. Not run by us; --micro-batch where memory is short.
    Time: 600 epochs; not published.
    To reach: 72.9 % linear on ImageNet-1k (paper, table 1).
    """
    return paper("ijepa_in1k_vitb16", "base", 16, 224, 6, 600)


def ijepa_in1k_vitl16() -> Recipe:
    """ViT-L/16 on ImageNet-1k, with the paper's settings and our masks and initialisation.

    Command: torchrun --nproc-per-node 8 -m openjepa pretrain --data imagenet/train --recipe ijepa_in1k_vitl16
    Hardware: not published for this size. Not run by us; --micro-batch where memory is short.
    Time: 600 epochs; not published.
    To reach: 77.5 % linear on ImageNet-1k, 69.4 % with 1 % of the labels (paper, tables 1 and 2).
    """
    return paper("ijepa_in1k_vitl16", "large", 16, 224, 12, 600)


def ijepa_in1k_vith14() -> Recipe:
    """ViT-H/14 on ImageNet-1k, with the paper's settings and our masks and initialisation.

    Command: torchrun --nnodes 2 --nproc-per-node 8 -m openjepa pretrain --data imagenet/train \\
        --recipe ijepa_in1k_vith14
    Hardware: sixteen A100 of 80 GiB (paper). Not run by us.
    Time: 300 epochs in under 72 hours (paper).
    To reach: 79.3 % linear on ImageNet-1k, 73.3 % with 1 % of the labels (paper, tables 1 and 2).
    """
    return paper("ijepa_in1k_vith14", "huge", 14, 224, 12, 300)


def ijepa_in1k_vith16_448() -> Recipe:
    """ViT-H/16 at 448 pixels on ImageNet-1k, with the paper's settings and our masks and initialisation.

    Command: torchrun --nnodes 16 --nproc-per-node 8 -m openjepa pretrain --data imagenet/train \\
        --recipe ijepa_in1k_vith16_448
    Hardware: 128 GPUs with 16 images each (released configuration). Not run by us.
    Time: 300 epochs; not published.
    To reach: 81.1 % linear on ImageNet-1k, 77.3 % with 1 % of the labels (paper, tables 1 and 2).
    """
    return paper("ijepa_in1k_vith16_448", "huge", 16, 448, 12, 300)
