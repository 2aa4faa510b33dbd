"""Features of an encoder on a set of images: computed once, kept on disk by content, read by every task.

Paper appendix A.2: average-pooled patch tokens of the last layer, or of the last four.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from openjepa.data.loader import centre_cropped
from openjepa.errors import DataError, sentence
from openjepa.evaluation.sets import ImageSet
from openjepa.vision.encoder import Encoder

MOST_LAYERS = 4
"""Of the end of the encoder, that are kept."""
VERSION = 1
"""To be raised when the same encoder and images would give other numbers: it is part of a cache's name."""
CHUNK = 128


@dataclass(frozen=True)
class Pooled:
    """Average-pooled features of a set."""

    layers: np.ndarray
    """(N, L, D) float32, a memory map: the last L layers, the last one at the end."""
    bad: dict[int, tuple[str, str]]
    """Position to (name, reason) of images that could not be read; their features are zero."""

    def concatenated(self, num_layers: int) -> Tensor:
        """(N, num_layers * D) float32 of the last layers, from 1; as many as there are, if there are fewer."""
        chosen = np.ascontiguousarray(self.layers[:, -num_layers:])
        return torch.from_numpy(chosen).flatten(1)


class Extractor:
    """Encodes sets of images and remembers what it encoded."""

    def __init__(
        self, cache: Path | None, device: torch.device, workers: int, progress: Progress | None = None
    ) -> None:
        """`cache`: folder for what may be read again later; None keeps nothing."""
        self.cache, self.device, self.workers, self.progress = cache, device, workers, progress
        self._fingerprints: dict[Encoder, str] = {}
        self._pooled: dict[str, Pooled] = {}
        self._tokens: dict[str, Tensor] = {}

    def pooled(self, encoder: Encoder, images: ImageSet, name: str) -> Pooled:
        """Of every image. DataError, with `name` of the encoder, for features that are not finite."""
        key = self._key(encoder, images)
        if key not in self._pooled:
            path = self.cache / f"features-{key}.npy" if self.cache is not None and encoder.is_known else None
            if path is None or not path.exists():
                found = self._compute(encoder, images, name, path)
            else:
                bad = json.loads(path.with_suffix(".json").read_text())
                found = Pooled(np.load(path, mmap_mode="c"), {int(index): tuple(pair) for index, pair in bad.items()})
            self._pooled[key] = found
        return self._pooled[key]

    def tokens(self, encoder: Encoder, images: ImageSet, count: int) -> Tensor:
        """(count, P, D) patch tokens of the last layer, of the first images, in memory."""
        key = f"{self._key(encoder, images)}-{count}"
        if key not in self._tokens:
            parts = []
            for _, pixels, bad in self._batches(encoder, images, count):
                if bad:
                    listed = "; ".join(f"{name} ({reason})" for name, reason in bad.values())
                    rule = f"dense tasks need every image: {listed}"
                    raise DataError(sentence(images.role, images.spec, rule, "Repair or remove them."))
                parts.append(encoder(pixels.to(self.device)).tokens.float().cpu())
            self._tokens[key] = torch.cat(parts)
        return self._tokens[key]

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
        self, encoder: Encoder, images: ImageSet, count: int
    ) -> Iterator[tuple[list[int], Tensor, dict[int, tuple[str, str]]]]:
        source = images.source
        return centre_cropped(source, range(count), encoder.image_size, encoder.channels, CHUNK, self.workers)

    @torch.no_grad()
    def _compute(self, encoder: Encoder, images: ImageSet, name: str, path: Path | None) -> Pooled:
        num_layers = min(MOST_LAYERS, encoder.depth)
        task = None
        if self.progress is not None:
            task = self.progress.add_task(f"{name}: features of {images.spec}", total=len(images))
        layers: np.ndarray | None = None
        bad: dict[int, tuple[str, str]] = {}
        aside = None if path is None else path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            for indices, pixels, unread in self._batches(encoder, images, len(images)):
                bad |= unread
                if len(pixels):
                    found = encoder(pixels.to(self.device), num_layers).pooled.float().cpu()
                    if layers is None:
                        layers = _room((len(images), num_layers, found.shape[1] // num_layers), aside)
                    layers[indices] = found.unflatten(1, (num_layers, -1)).numpy()
                if self.progress is not None and task is not None:
                    self.progress.advance(task, len(indices) + len(unread))
            if layers is None:
                raise DataError(sentence(images.role, images.spec, "none of its images can be read"))
            _check_finite(layers, name, images)
            if path is not None and aside is not None:
                path.with_suffix(".json").write_text(json.dumps(bad))
                os.replace(aside, path)
        finally:
            if aside is not None:
                aside.unlink(missing_ok=True)
            if self.progress is not None and task is not None:
                self.progress.remove_task(task)
        return Pooled(layers, bad)


def _room(shape: tuple[int, ...], path: Path | None) -> np.ndarray:
    """Zeros of this shape, in a file where a path is given."""
    if path is None:
        return np.zeros(shape, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _check_finite(layers: np.ndarray, name: str, images: ImageSet) -> None:
    count = sum(
        int((~np.isfinite(part)).any(axis=(1, 2)).sum()) for part in np.array_split(layers, 1 + len(layers) // 4096)
    )
    if count:
        rule = f"features of {count} of {len(layers)} images of {images.spec} hold NaN or infinity"
        raise DataError(sentence("encoder", name, rule, "It overflowed or diverged; look at its training."))
