"""Tasks read features where they lie: whatever they allocate is small beside the map."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from openjepa.evaluation.features import Pooled
from openjepa.evaluation.task import Row, Task
from openjepa.evaluation.tasks.few_shot import FewShot
from openjepa.evaluation.tasks.knn import KNN
from openjepa.evaluation.tasks.linear import Linear
from openjepa.measure.lars import LarsConfig
from openjepa.vision.vit import ViT

resource = pytest.importorskip("resource", reason="limits of a process are POSIX")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

NUM_IMAGES, WIDTH = 400_000, 64
ROOM = 60 << 20
"""Less than one layer of the map, which has two of 97.7 MiB."""
ONE_EPOCH = LarsConfig(lrs=(0.5,), weight_decays=(0.0,), trust=0.01, epochs=1)


@contextmanager
def memory(num_bytes: int) -> Iterator[None]:
    """Allocations that take this process more than so far beyond what it has now fail. What is on the disk is free."""
    # what tests before this one freed would serve an allocation and hide it
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text().split()
    taken = 1024 * int(status[status.index("VmData:") + 1])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """(N, 2, D): a map whose last layer tells three classes apart."""
    path = tmp_path_factory.mktemp("map") / "layers.npy"
    found = np.lib.format.open_memmap(path, "w+", np.float32, (NUM_IMAGES, 2, WIDTH))
    rng = np.random.default_rng(0)
    for start in range(0, NUM_IMAGES, 10_000):
        found[start : start + 10_000] = rng.standard_normal((10_000, 2, WIDTH), dtype=np.float32)
    found[np.arange(NUM_IMAGES), 1, np.arange(NUM_IMAGES) % 3] += 2
    found.flush()
    return cast(np.ndarray, np.load(path, mmap_mode="c"))


def made_row(layers: np.ndarray, encoder: ViT, bad: dict[int, tuple[str, str]]) -> Row:
    """All of the map to train on, its first images to test on."""
    answers = torch.arange(len(layers)) % 3
    train: Any = SimpleNamespace(answers={"class": answers}, role="data", spec="train")
    test: Any = SimpleNamespace(answers={"class": answers[:60].clone()}, role="test", spec="test")
    pooled = {id(train): Pooled(layers, bad), id(test): Pooled(layers[:60], {})}
    extractor: Any = SimpleNamespace(pooled=lambda encoder, images, name: pooled[id(images)])
    return Row("encoder", encoder, train, test, extractor, 0)


@pytest.mark.parametrize("bad", [{}, {3: ("3.png", "torn")}], ids=["all usable", "one bad"])
@pytest.mark.parametrize(
    "task",
    [Linear(solver="lars", layers=(1, 2), lars=ONE_EPOCH), KNN(k=(20,)), FewShot(shots="50", draws=1)],
    ids=lambda task: task.name,
)
def test_no_task_copies_the_features(
    task: Task, bad: dict[int, tuple[str, str]], layers: np.ndarray, encoder: ViT
) -> None:
    row = made_row(layers, encoder, bad)
    task.measure(made_row(layers[:3000], encoder, bad), "class")  # torch imports more of itself when first used
    with memory(ROOM):
        score = task.measure(row, "class")
    assert score.value > 0.6


def test_a_copy_would_be_seen(layers: np.ndarray) -> None:
    with memory(ROOM):
        seen = Pooled(layers, {}).concatenated(1)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            seen.contiguous()
        with pytest.raises(MemoryError):
            np.ascontiguousarray(layers[:, -1:])


def test_layers_are_a_view_of_the_map(tmp_path: Path) -> None:
    whole = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (6, 4, 3))
    whole[:] = np.arange(72).reshape(6, 4, 3)
    for count, width in ((1, 3), (2, 6), (4, 12), (7, 12)):
        found = Pooled(whole, {}).concatenated(count)
        assert found.numpy().tolist() == whole[:, -count:].reshape(6, width).tolist()
        assert np.shares_memory(found.numpy(), whole)


@pytest.mark.parametrize("bad", [{}, {2: ("2.png", "torn"), 5: ("5.png", "torn")}])
def test_rows_that_cannot_be_used_are_left_out(
    bad: dict[int, tuple[str, str]], layers: np.ndarray, encoder: ViT
) -> None:
    row = made_row(layers, encoder, bad)
    row.train.answers["class"][7] = -1
    row.test.answers["class"][4] = 9  # no image of train is one
    train_x, train_y, test_x, test_y = row.labelled("class", 2)
    keep = [index for index in range(NUM_IMAGES) if index != 7 and index not in bad]
    assert row.positions("class").tolist() == keep
    assert torch.equal(train_x[:], torch.from_numpy(layers.reshape(NUM_IMAGES, -1)[keep]))
    assert torch.equal(train_y, torch.tensor(keep) % 3)
    assert len(test_x) == len(test_y) == 59
    assert row.graded(torch.ones(59), "class").tolist() == [1.0] * 59 + [0.0]
