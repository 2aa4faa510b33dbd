"""Fine-tuning: the paper's runs (arXiv 2301.08243, appendices A.2 and D), and one for small sets."""

from __future__ import annotations

from openjepa.data.views import Crop
from openjepa.methods.finetune import FineTuneConfig
from openjepa.optim import OptimConfig
from openjepa.training.recipe import Length, Recipe, Watch

UNJUDGED = Watch(probes=0, health_images=0)  # labels tell how it goes
WARMUP = 5 / 50  # MAE's five epochs; the paper gives none


def finetune_in1k_vith16_448() -> Recipe:
    """All labels of ImageNet-1k, for a ViT-H/16 at 448 pixels.

    Command: openjepa evaluate ijepa_in1k_vith16_448.pth.tar --data imagenet/train --test imagenet/val \\
        --tasks finetune --finetune.recipe finetune_in1k_vith16_448
    Hardware: not published. Not run by us; --finetune.change micro_batch=16 where memory is short.
    Time: 50 epochs; not published.
    To reach: 87.1 % top-1 (paper, appendix D). The published base rate of 1e-4 is read as MAE's, an image in 256.
    """
    method = FineTuneConfig(mixup=0.8, cutmix=1.0, drop_path=0.25)
    optim = OptimConfig(lr=1e-4 * 528 / 256, lr_start=0.0, warmup=WARMUP, weight_decay=0.04, weight_decay_end=0.04)
    return Recipe("finetune_in1k_vith16_448", method, optim, Length(epochs=50), batch_size=528, watch=UNJUDGED)


def finetune_in1k_1percent() -> Recipe:
    """One label in a hundred of ImageNet-1k, for a ViT-L/16; for H/14 and H/16 the weight decay is 0.4.

    Command: openjepa evaluate runs/ijepa_in1k_vitl16 --data imagenet/train --test imagenet/val --tasks finetune \\
        --finetune.recipe finetune_in1k_1percent --finetune.list-file 1percent.txt
    Hardware: not published. Not run by us.
    Time: 50 epochs of 13,000 images; not published.
    To reach: 69.4 % top-1 for L/16 (paper, table 2, the better of fine-tuning and a linear probe).
    """
    optim = OptimConfig(lr=3e-5, lr_start=0.0, warmup=WARMUP, weight_decay=0.05, weight_decay_end=0.05)
    return Recipe("finetune_in1k_1percent", FineTuneConfig(), optim, Length(epochs=50), batch_size=512, watch=UNJUDGED)


def finetune_small() -> Recipe:
    """Sets of thousands of small images, or a few labels of them, on a CPU: a first guess.

    Command: openjepa evaluate runs/ijepa --data train.parquet --test test.parquet --tasks finetune \\
        --finetune.recipe finetune_small
    Hardware: two CPU cores.
    Time: about five minutes for 500 images and 20 epochs on one busy core (nano, 32 pixels).
    To reach: 31.2 % on CIFAR-10 with 1 % of the labels in 20 epochs, after ten minutes of pretraining; 23.4 % from
        scratch (results/evaluate).
    """
    method = FineTuneConfig(crop=Crop(scale=(0.4, 1.0), flip=True), rand_magnitude=5.0)
    optim = OptimConfig(lr=1e-3, lr_start=0.0, warmup=0.1, weight_decay=0.05, weight_decay_end=0.05)
    return Recipe("finetune_small", method, optim, Length(epochs=30), batch_size=64, watch=UNJUDGED)
