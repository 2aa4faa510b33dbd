"""Room on the disk for features of many images: arrays in files, so that no set is too large for memory.

No section of the paper. The room is reserved when a file is made: a disk that fills up later would end the process,
without a word, where a memory map is written to.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np


def named(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, in a .npy file of this name. OSError where there is no room for it; then there is no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with open(path, "r+b") as file:
            _reserve(file.fileno(), path.stat().st_size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return found


def nameless(shape: tuple[int, ...], folders: list[Path | None]) -> np.ndarray:
    """Zeros, float32, in a file that is gone when they are, whatever becomes of the process.

    In the first of the folders that has room (None: where the system keeps temporary files), else in memory.
    """
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.truncate(4 * int(np.prod(shape)))
                _reserve(file.fileno(), 4 * int(np.prod(shape)))
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError:
            continue
    return np.zeros(shape, np.float32)


def stored(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """What `named` made and others filled; of its shape the first entries are known.

    Nothing of it is read yet. ValueError or OSError for any other file.
    """
    found = np.lib.format.open_memmap(path, mode="c")
    is_ours = found.dtype == np.float32 and found.ndim == 3 and found.flags.c_contiguous
    if not is_ours or found.shape[: len(shape)] != shape:
        raise ValueError(f"it holds {found.dtype} of shape {found.shape}")
    return found


def _reserve(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(handle, 0, size)
