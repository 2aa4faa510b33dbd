"""The speed of the loader is counted over real batches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openjepa.benchmark import loader
from openjepa.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_read(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(loader, "BATCH_SIZE", 4)
    for number in range(3):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(tmp_path / f"{number}.jpg")
    assert loader.images_per_second(str(tmp_path), (8, 12), workers, seconds=0.01) > 0


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match="empty file"):
        loader.images_per_second(str(tmp_path), (8, 8), 0, seconds=0.01)
