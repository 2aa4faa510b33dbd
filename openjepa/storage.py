"""A checkpoint is one directory, renamed into place once: safetensors for tensors, JSON for the rest.

It is written aside, every file flushed to the disk, then renamed, so a directory that carries a checkpoint's name is
whole whatever happened while writing. A manifest of SHA-256 sums tells when it is not whole any more. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openjepa.errors import CheckpointError

MANIFEST = "manifest.json"
TENSORS, DOCUMENT = ".safetensors", ".json"


def write(directory: Path, tensors: dict[str, dict[str, Tensor]], documents: dict[str, Any]) -> None:
    """Write `directory` whole or not at all; OSError (disk full, say) leaves nothing behind."""
    directory = Path(directory)
    aside = directory.with_name(f".{directory.name}.writing-{os.getpid()}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        for name, group in tensors.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            _save(plain, aside / (name + TENSORS))
        for name, document in documents.items():
            (aside / (name + DOCUMENT)).write_text(json.dumps(document, indent=1) + "\n")
        sums = {path.name: _sha256(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(sums, indent=1) + "\n")
        for path in (*aside.iterdir(), aside):
            _flush(path)
        _put_in_place(aside, directory)
        _flush(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, directory: Path) -> None:
    """Rename `aside`; what had the name keeps it until then, and is removed after."""
    if not directory.exists():
        aside.rename(directory)
        return
    old = _stand_aside(directory)  # a directory cannot be renamed over one with something in it
    try:
        aside.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _stand_aside(directory: Path) -> Path:
    old = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)  # of a killed process that had our id, as in containers
    return directory.rename(old)


def remove(directory: Path) -> None:
    """Remove a directory, its name first, so that the name never stands on half of it."""
    shutil.rmtree(_stand_aside(Path(directory)), ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed processes left half written or half removed in `parent`."""
    for pattern in (".*.writing-*", ".*.old-*"):
        for leftover in Path(parent).glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # it wraps the disk's refusals; callers look for OSError
        raise OSError(f"{path.name}: {error}") from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(directory: Path) -> None:
    """CheckpointError naming every file that is missing, altered, or does not belong there."""
    manifest = Path(directory) / MANIFEST
    try:
        sums = dict(json.loads(manifest.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a whole checkpoint: {MANIFEST}: {error}") from None
    found = {path.name for path in Path(directory).iterdir()} - {MANIFEST}
    wrong = [f"{name} is missing" for name in sorted(sums.keys() - found)]
    wrong += [f"{name} does not belong there" for name in sorted(found - sums.keys())]
    for name in sorted(sums.keys() & found):
        try:
            if _sha256(Path(directory) / name) != sums[name]:
                wrong.append(f"{name} is not what was written (its SHA-256 differs)")
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error.strerror})")
    if wrong:
        raise CheckpointError(f"{directory} is torn or was changed: {'; '.join(wrong)}.")


def read_tensors(directory: Path, name: str) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors`, on the CPU."""
    path = Path(directory) / (name + TENSORS)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def read_document(directory: Path, name: str) -> Any:
    """What `<name>.json` holds."""
    path = Path(directory) / (name + DOCUMENT)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def explain(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps `found` from being loaded where `expected` is wanted: missing, unexpected, shapes."""
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    parts = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": shapes,
    }
    return [f"{kind} ({len(names)}): {', '.join(names)}" for kind, names in parts.items() if names]


def load_into(module: nn.Module, tensors: dict[str, Tensor], origin: object) -> None:
    """Load every tensor of a module, or raise a CheckpointError that lists what does not fit."""
    if wrong := explain(module.state_dict(), tensors):
        listed = "\n  ".join(wrong)
        raise CheckpointError(f"{origin} does not fit this {type(module).__name__}:\n  {listed}")
    with torch.no_grad():
        module.load_state_dict(tensors)
