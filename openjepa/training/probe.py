"""How good frozen features are, given a few labels: 20-NN and a linear probe, beside two controls.

The labels are used for nothing else. The controls are raw pixels and the encoder before its first step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.data.loader import labelled_images
from openjepa.data.source import Source, open_source
from openjepa.errors import DataError, sentence
from openjepa.measure.knn import knn_accuracy
from openjepa.measure.logistic import probe_accuracy
from openjepa.randomness import generator
from openjepa.vision.controls import pixels, pooled
from openjepa.vision.encoder import Encoder

NEIGHBOURS = 20
STRENGTHS = (1000.0, 100.0, 10.0)  # of the linear probe; a few, since it is paid for out of training time
LOOKED_AT = 16  # images that tell whether a source is labelled


class Probe:
    """A labelled bank and test set, as images in memory."""

    def __init__(self, bank: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int, seed: int) -> None:
        self.bank, self.bank_labels = bank
        self.test, self.test_labels = test
        self.num_classes, self.seed = num_classes, seed
        self.neighbours = min(NEIGHBOURS, len(self.bank))

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """`knn` and `linear` accuracy (0..1) of the encoder's average-pooled last layer."""
        return self._score(pooled(encoder, self.bank), pooled(encoder, self.test))

    def measure_pixels(self) -> dict[str, float]:
        """The same two for raw pixels."""
        return self._score(pixels(self.bank), pixels(self.test))

    def _score(self, bank: Tensor, test: Tensor) -> dict[str, float]:
        if not (torch.isfinite(bank).all() and torch.isfinite(test).all()):
            return {"knn": float("nan"), "linear": float("nan")}
        knn = knn_accuracy(bank, self.bank_labels, test, self.test_labels, self.num_classes, self.neighbours)
        linear = probe_accuracy(bank, self.bank_labels, test, self.test_labels, self.num_classes, STRENGTHS, self.seed)
        return {"knn": knn, "linear": linear.accuracy}


def has_labels(source: Source, encoder: Encoder) -> bool:
    """True when some of the first images have one; `labels()` would know for all, and may take a minute."""
    if source.is_sequential:
        return False
    some = range(min(LOOKED_AT, len(source)))
    return len(labelled_images(source, some, encoder.image_size, encoder.channels)[1]) > 0


def open_probe(
    data: Source,
    probe_data: str | None,
    probe_test: str | None,
    encoder: Encoder,
    num_bank: int,
    num_test: int,
    seed: int,
) -> Probe | None:
    """The probe of a run: from `probe_data`, or from the labels that the training data has, or None.

    With `probe_test` the bank is drawn from `probe_data` and the test images from `probe_test`; without,
    both are drawn from one set and never share an image. DataError where labels are named but not there.
    """
    if probe_data == "none":
        return None
    source = data if probe_data is None else open_source(probe_data)
    if not has_labels(source, encoder):
        if probe_data is None:
            return None
        rule = "has no labels (class sub-folders, or a label column)"
        raise DataError(sentence("probe_data", probe_data, rule, "Use --probe-data none to go without."))
    order = generator(seed, "probe").permutation(len(source))
    if probe_test is None:
        # a small set is shared out four to one
        num_test = min(num_test, max(1, len(order) // 5))
        chosen_test, order, test_source = order[:num_test], order[num_test:], source
    else:
        test_source = open_source(probe_test)
        if not has_labels(test_source, encoder):
            raise DataError(sentence("probe_test", probe_test, "has no labels"))
        chosen_test = generator(seed, "probe-test").permutation(len(test_source))[:num_test]
    size, channels = encoder.image_size, encoder.channels
    bank = labelled_images(source, order[:num_bank], size, channels)
    test = labelled_images(test_source, chosen_test, size, channels)
    bank_y, test_y = torch.from_numpy(bank[1]), torch.from_numpy(test[1])
    if len(torch.unique(bank_y)) < 2 or not len(test_y):
        if probe_data is None:
            return None
        rule = f"gives {len(torch.unique(bank_y))} classes in {len(bank_y)} images; 2 are needed"
        raise DataError(sentence("probe_data", probe_data, rule))
    num_classes = int(max(bank_y.max(), test_y.max())) + 1
    return Probe((torch.from_numpy(bank[0]), bank_y), (torch.from_numpy(test[0]), test_y), num_classes, seed)
