"""How good frozen features are, given a few labels: 20-NN and a linear probe, beside two controls.

The labels are used for nothing else. The controls are raw pixels and the encoder before its first step.
"""

from __future__ import annotations

import numpy as np
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

    def __init__(
        self,
        bank: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        identity: str,
        seed: int,
        bad: list[tuple[str, str]],
    ) -> None:
        """`bank` and `test`: images (N, C, H, W) uint8 and labels (N,). `bad`: (name, reason) of those left out."""
        self.bank, self.test = torch.from_numpy(bank[0]), torch.from_numpy(test[0])
        # numbered anew: labels of a file may be any numbers
        classes, numbers = np.unique(np.concatenate([bank[1], test[1]]), return_inverse=True)
        self.bank_labels, self.test_labels = torch.from_numpy(numbers).split([len(bank[1]), len(test[1])])
        self.num_classes, self.identity, self.seed, self.bad = len(classes), identity, seed, bad
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
        if probe_data is None and probe_test is None:
            return None
        rule = "has no labels (class sub-folders, or a label column)"
        named = probe_data or source.identity
        raise DataError(sentence("probe_data", named, rule, "Use --probe-data none to go without."))
    order = generator(seed, "probe").permutation(len(source))
    if probe_test is None:
        # a small set is shared out four to one
        num_test = min(num_test, max(1, len(order) // 5))
        chosen_test, order, test_source = order[:num_test], order[num_test:], source
    else:
        test_source = open_source(probe_test)
        check_test(source, test_source, probe_test, encoder)
        chosen_test = generator(seed, "probe-test").permutation(len(test_source))[:num_test]
    identity = f"{source.identity} | {test_source.identity} | {num_bank} | {num_test}"
    size, channels = encoder.image_size, encoder.channels
    bad: list[tuple[str, str]] = []
    bank = labelled_images(source, order[:num_bank], size, channels, bad)
    test = labelled_images(test_source, chosen_test, size, channels, bad)
    if len(np.unique(bank[1])) < 2 or not len(test[1]):
        if probe_data is None:
            return None
        rule = f"gives {len(np.unique(bank[1]))} classes in {len(bank[1])} images; 2 are needed"
        raise DataError(sentence("probe_data", probe_data, rule))
    return Probe(bank, test, identity, seed, bad)


def check_test(source: Source, test_source: Source, probe_test: str, encoder: Encoder) -> None:
    """DataError when the test images have no labels, or classes of other names."""
    if not has_labels(test_source, encoder):
        raise DataError(sentence("probe_test", probe_test, "has no labels"))
    if source.classes and test_source.classes and list(source.classes) != list(test_source.classes):
        rule = f"has other classes ({', '.join(test_source.classes[:5])}, ...) than the images that probes learn from"
        remedy = f"There: {', '.join(source.classes[:5])}, ..."
        raise DataError(sentence("probe_test", probe_test, rule, remedy))
