"""Images with a mask of class numbers beside each: two folders, files of the same name below both.

No section of the paper; what linear segmentation probes are measured on.
"""

from __future__ import annotations

import io
import os
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from openjepa.data.folder import Folder, list_files
from openjepa.data.source import SUFFIXES, Item, Source
from openjepa.errors import DataError, nearest, sentence

KEYS = ("images", "masks")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Formats without loss: a JPEG would blend class numbers."""
_REMEDY = "Write it like 'masks?images=FOLDER&masks=FOLDER'."


class Pairs(Source):
    """Images below `images`; the mask of `a/b.jpg` is `a/b.png` below `masks`, numbers in one channel (or a palette's
    positions), 255 to be ignored. DataError when an image has no mask."""

    classes = None
    dense_names = ("mask",)

    def __init__(self, images: str, masks: str) -> None:
        found = {role: list_files(root, suffixes)[0] for role, root, suffixes in (
            ("images", images, tuple(s for s in SUFFIXES if s != ".npy")), ("masks", masks, MASK_SUFFIXES),
        )}  # fmt: skip
        if not found["images"]:
            raise DataError(sentence("images", images, "no image in this folder", _REMEDY))
        by_stem = {str(PurePath(file).with_suffix("")): file for file in found["masks"]}
        stems = [str(PurePath(file).with_suffix("")) for file in found["images"]]
        if missing := [file for file, stem in zip(found["images"], stems, strict=True) if stem not in by_stem]:
            rule = f"has no mask for {len(missing)} of {len(stems)} images: {', '.join(missing[:3])}"
            raise DataError(sentence("masks", masks, rule, f"A mask has the name of its image; {_REMEDY}"))
        self._images = Folder(images, found["images"])
        self._masks = [os.path.join(masks, by_stem[stem]) for stem in stems]
        self.identity = f"images {images} with masks {masks}: {len(stems)} images"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        item = self._images[index]
        return Item(item.image, item.name)

    def name(self, index: int) -> str:
        return self._images.name(index)

    def labels(self) -> None:
        """None: pixels have classes, images have not."""
        return None

    def dense(self, index: int) -> dict[str, np.ndarray]:
        """`mask`: (H, W) uint8 class numbers. DataError for a mask that cannot be read or has another size."""
        path = self._masks[index]
        try:
            with Image.open(path) as file:
                mask = np.asarray(file)
            with Image.open(io.BytesIO(_bytes(self._images[index]))) as image:
                size = ImageOps.exif_transpose(image).size[::-1]  # images are decoded upright: so must masks be
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(sentence("mask", path, f"cannot be read: {error}")) from None
        if mask.ndim != 2 or mask.shape != size:
            rule = f"must be one channel of the size of its image, {size}"
            raise DataError(sentence(f"shape of mask {path}", mask.shape, rule))
        if mask.max(initial=0) > 255 or mask.min(initial=0) < 0:
            rule = "class numbers are 0 to 254, and 255 is ignored"
            raise DataError(sentence(f"numbers of mask {path}", (int(mask.min()), int(mask.max())), rule))
        return {"mask": mask.astype(np.uint8)}


def _bytes(item: Item) -> bytes:
    assert isinstance(item.image, bytes)
    return item.image


def parse(spec: str) -> Pairs:
    """The pairs of 'masks?images=FOLDER&masks=FOLDER'. DataError naming what is missing or unknown."""
    given: dict[str, str] = {}
    for part in spec.partition("?")[2].split("&"):
        key, _, value = part.partition("=")
        if key not in KEYS:
            raise DataError(sentence("data", spec, f"unknown key {key!r}", f"{nearest(key, KEYS)} {_REMEDY}"))
        given[key] = os.path.expanduser(value)
    if missing := [key for key in KEYS if not given.get(key)]:
        raise DataError(sentence("data", spec, f"{' and '.join(missing)} not given", _REMEDY))
    for key, folder in given.items():
        if not os.path.isdir(folder):
            raise DataError(sentence(key, folder, "is no folder", _REMEDY))
    return Pairs(**given)
