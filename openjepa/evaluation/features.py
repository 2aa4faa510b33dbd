"""Features of an encoder on a set of images: computed once, kept on disk by content, read by every task.

Paper appendix A.2: average-pooled patch tokens of the last layer, or of the last four.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from openjepa.data.loader import centre_cropped
from openjepa.errors import DataError, sentence
from openjepa.evaluation import room
from openjepa.evaluation.sets import ImageSet
from openjepa.vision.encoder import Encoder

MOST_LAYERS = 4
"""Of the end of the encoder, that are kept."""
VERSION = 2
"""To be raised when the same encoder and images would give other numbers, or these lie otherwise on the disk: it is
part of a cache's name."""
CHUNK = 128
_ROWS = 4096  # read at a time in search of NaN


@dataclass(frozen=True)
class Pooled:
    """Average-pooled features of a set."""

    layers: np.ndarray
    """(N, L, D) float32, a memory map: the last L layers, the last one at the end."""
    bad: dict[int, tuple[str, str]]
    """Position to (name, reason) of images that could not be read; their features are zero."""

    def concatenated(self, num_layers: int) -> Tensor:
        """(N, num_layers * D) float32 of the last layers, from 1; as many as there are, if there are fewer.

        The map itself, seen in another way: nothing is read yet.
        """
        return torch.from_numpy(self.layers)[:, -num_layers:].flatten(1)


class Extractor:
    """Encodes sets of images and remembers what it encoded, and what it could not."""

    def __init__(
        self, cache: Path | None, device: torch.device, workers: int, progress: Progress | None = None
    ) -> None:
        """`cache`: folder for what may be read again later; None keeps nothing."""
        self.cache, self.device, self.workers, self.progress = cache, device, workers, progress
        self.warnings: list[str] = []
        """What went wrong with the cache, and was gone around."""
        self._fingerprints: dict[Encoder, str] = {}
        self._pooled: dict[str, Pooled] = {}
        self._tokens: dict[str, Tensor] = {}
        self._failed: dict[str, str] = {}

    @contextmanager
    def aside(self) -> Iterator[bool]:
        """The bars give way to those of a run that shows its own; yields whether it is to be quiet."""
        is_shown = self.progress is not None and not self.progress.disable
        if self.progress is not None and is_shown:
            self.progress.stop()
        try:
            yield not is_shown
        finally:
            if self.progress is not None and is_shown:
                self.progress.start()

    def pooled(self, encoder: Encoder, images: ImageSet, name: str) -> Pooled:
        """Of every image. DataError, with `name` of the encoder, for features that are not finite."""
        key = self._key(encoder, images)
        if key in self._failed:
            raise DataError(self._failed[key])
        if key not in self._pooled:
            path = self.cache / f"features-{key}.npy" if self.cache is not None and encoder.is_known else None
            found = None if path is None else self._kept(path, (len(images), min(MOST_LAYERS, encoder.depth)))
            try:
                self._pooled[key] = self._compute(encoder, images, name, path) if found is None else found
            except DataError as error:
                self._failed[key] = str(error)
                raise
        return self._pooled[key]

    def tokens(self, encoder: Encoder, images: ImageSet, order: np.ndarray, name: str) -> Tensor:
        """(n, P, D) patch tokens of the last layer, of the images at (n,) positions, in a temporary file.

        A longer `order` is to begin with the shorter one: what is known is not computed again. DataError for images
        that cannot be read and tokens that are not finite.
        """
        key = f"tokens {self._key(encoder, images)}"
        if key in self._failed:
            raise DataError(self._failed[key])
        if key not in self._tokens or len(self._tokens[key]) < len(order):
            try:
                self._tokens[key] = self._more_tokens(encoder, images, order, name, self._tokens.get(key))
            except DataError as error:
                self._failed[key] = str(error)
                raise
        return self._tokens[key][: len(order)]

    def bad_images(self, encoder: Encoder, images: ImageSet) -> list[tuple[str, str]]:
        """(name, reason) of those that could not be read, as far as pooled features were asked for."""
        found = self._pooled.get(self._key(encoder, images))
        return [] if found is None else list(found.bad.values())

    def _key(self, encoder: Encoder, images: ImageSet) -> str:
        if encoder not in self._fingerprints:
            self._fingerprints[encoder] = encoder.fingerprint()
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{VERSION} {self._fingerprints[encoder]} {encoder.image_size}".encode())
        digest.update(images.fingerprints.tobytes())
        return digest.hexdigest()

    def _batches(
        self, encoder: Encoder, images: ImageSet, positions: Sequence[int], name: str
    ) -> Iterator[tuple[list[int], Tensor, dict[int, tuple[str, str]]]]:
        """Positions, pixels on the device, and those left out; with a bar."""
        source, task = images.source, None
        if self.progress is not None:
            task = self.progress.add_task(f"{name}: features of {images.spec}", total=len(positions))
        try:
            for indices, pixels, bad in centre_cropped(
                source, positions, encoder.image_size, encoder.channels, CHUNK, self.workers
            ):
                yield indices, pixels.to(self.device), bad
                if self.progress is not None and task is not None:
                    self.progress.advance(task, len(indices) + len(bad))
        finally:
            if self.progress is not None and task is not None:
                self.progress.remove_task(task)

    @torch.no_grad()
    def _compute(self, encoder: Encoder, images: ImageSet, name: str, path: Path | None) -> Pooled:
        num_layers = min(MOST_LAYERS, encoder.depth)
        layers: np.ndarray | None = None
        bad: dict[int, tuple[str, str]] = {}
        aside = None if path is None else path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            for indices, pixels, unread in self._batches(encoder, images, range(len(images)), name):
                bad |= unread
                if len(pixels):
                    found = encoder(pixels, num_layers).pooled.float().cpu()
                    if layers is None:
                        layers = self._room((len(images), num_layers, found.shape[1] // num_layers), aside)
                    layers[indices] = found.unflatten(1, (num_layers, -1)).numpy()
            if layers is None:
                raise DataError(sentence(images.role, images.spec, "none of its images can be read"))
            _check_finite(layers, name, images)
            if path is not None and aside is not None and aside.exists():
                self._keep(layers, bad, aside, path)
        finally:
            if aside is not None:
                aside.unlink(missing_ok=True)
        return Pooled(layers, bad)

    @torch.no_grad()
    def _more_tokens(
        self, encoder: Encoder, images: ImageSet, order: np.ndarray, name: str, known: Tensor | None
    ) -> Tensor:
        num_known = 0 if known is None else len(known)
        place = {int(position): num_known + i for i, position in enumerate(order[num_known:])}
        tokens: np.ndarray | None = None
        for indices, pixels, bad in self._batches(encoder, images, sorted(place), name):
            if bad:
                listed = "; ".join(f"{name} ({reason})" for name, reason in bad.values())
                rule = f"dense tasks need every image: {listed}"
                raise DataError(sentence(images.role, images.spec, rule, "Repair or remove them."))
            found = encoder(pixels).tokens.float().cpu().numpy()
            _check_finite(found, name, images)
            if tokens is None:
                tokens = room.nameless((len(order), *found.shape[1:]), [self.cache, None])
            tokens[[place[index] for index in indices]] = found
        assert tokens is not None  # every set has images
        if known is not None:
            for start in range(0, num_known, CHUNK):
                tokens[start : min(start + CHUNK, num_known)] = known[start : start + CHUNK].numpy()
        return torch.from_numpy(tokens)

    def _room(self, shape: tuple[int, ...], aside: Path | None) -> np.ndarray:
        if aside is not None:
            try:
                return room.named(aside, shape)
            except OSError as error:
                self._warn(f"features are not kept: {aside.parent}: {error.strerror}")
        return room.nameless(shape, [self.cache, None])

    def _keep(self, layers: np.ndarray, bad: dict[int, tuple[str, str]], aside: Path, path: Path) -> None:
        """Give features their name, with what else there is to know of them beside it."""
        try:
            if isinstance(layers, np.memmap):
                layers.flush()  # or after a power cut the name might stand on nothing
            path.with_suffix(".json").write_text(json.dumps({"shape": layers.shape, "bad": bad}))
            os.replace(aside, path)
        except OSError as error:
            self._warn(f"features are not kept: {path.parent}: {error.strerror}")

    def _kept(self, path: Path, shape: tuple[int, int]) -> Pooled | None:
        """What an earlier evaluation kept; None, with a warning, for a file that is torn or not ours."""
        try:
            layers = room.stored(path, shape)
            about = json.loads(path.with_suffix(".json").read_text())
            bad = {int(index): (str(name), str(reason)) for index, (name, reason) in about["bad"].items()}
            if tuple(about["shape"]) != layers.shape or not all(0 <= index < len(layers) for index in bad):
                raise ValueError(f"{path.with_suffix('.json').name} belongs to other features")
        except FileNotFoundError as error:
            if error.filename != str(path):
                self._warn(f"features in {path} are computed anew: {Path(error.filename).name} is missing")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._warn(f"features in {path} are computed anew: {error}")
        else:
            return Pooled(layers, bad)
        return None

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _check_finite(features: np.ndarray, name: str, images: ImageSet) -> None:
    """DataError unless all numbers of (N, ..., D) are."""
    parts = np.array_split(features, 1 + len(features) // _ROWS)
    count = sum(int((~np.isfinite(part)).any(axis=(1, 2)).sum()) for part in parts)
    if count:
        rule = f"features of {count} of {len(features)} images of {images.spec} hold NaN or infinity"
        raise DataError(sentence("encoder", name, rule, "It overflowed or diverged; look at its training."))
