"""The part of the training images by which a probe chooses its settings, so that no test label has to.

No section of the paper, which does not say what its probes were chosen on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.randomness import generator

_FOLDS = 5  # one image in five is held out


def hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Labels (N,), from 0, to the rows that are held out and the rows that are kept, both int64 and drawn by `seed`.

    A fifth is held out, less where that would take the last image of a class: every class keeps one to train
    on, and none is held out when no class has an image to spare. Within that the draw is uniform, so the
    shares of the classes differ from those of all images by chance only.
    """
    order = torch.from_numpy(generator(seed, "probe-split").permutation(len(labels))).to(labels.device)
    classes = labels[order].long()
    place = torch.arange(len(order), device=order.device)
    first = place.new_full((int(labels.max()) + 1,), len(order))
    first = first.scatter_reduce(0, classes, place, "amin")
    is_first = first[classes] == place
    order = torch.cat([order[~is_first], order[is_first]])
    num_held_out = min(-(-len(order) // _FOLDS), int((~is_first).sum()))
    return order[:num_held_out], order[num_held_out:]
