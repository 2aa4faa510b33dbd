"""Batches are a function of data, seed and step; bad images are replaced; errors arrive whole."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.data import loader
from openjepa.data.images import BadImage
from openjepa.data.loader import REPLACEMENTS, Loaded, Steps, batches, epoch_order, labelled_images
from openjepa.data.source import Item, Source, open_source
from openjepa.data.views import Crop, center_crop
from openjepa.errors import ConfigError, DataError
from openjepa.randomness import generator

# a fork of a process with threads: torch's loader does it on Linux, newer Pythons warn
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Numbered(Source):
    """Image i is i (mod 251) everywhere; some are bad, on reading or on decoding."""

    classes = None

    def __init__(self, count: int, unreadable: tuple[int, ...] = (), undecodable: tuple[int, ...] = ()) -> None:
        self.count, self.unreadable, self.undecodable = count, unreadable, undecodable
        self.identity = f"numbered: {count} images"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        assert 0 <= index < self.count
        if index in self.unreadable:
            raise BadImage("unreadable", f"name {index}")
        image = b"rubbish" if index in self.undecodable else np.full((8, 8, 3), index % 251, np.uint8)
        return Item(image, f"name {index}", index % 3)

    def labels(self) -> np.ndarray:
        return np.arange(self.count) % 3


class Stream(Numbered):
    """Refuses to go back further than a real stream does."""

    is_sequential = True
    last = -1

    def __len__(self) -> int:
        raise DataError("no length")

    def __getitem__(self, index: int) -> Item:
        assert index >= self.last - REPLACEMENTS
        self.last = max(self.last, index)
        return super().__getitem__(index)


@dataclass(frozen=True)
class Plain:
    """The image's number, and one number of chance."""

    channels: int = 3

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> tuple[int, float]:
        return int(image[0, 0, 0]), rng.random()

    def collate(self, samples: list[tuple[int, float]], seed: int, step: int, first: int) -> dict[str, torch.Tensor]:
        numbers, chances = zip(*samples, strict=True)
        rows = generator(seed, "collate", step).random(first + len(samples))[first:]
        return {
            "number": torch.tensor(numbers),
            "chance": torch.tensor(chances, dtype=torch.float64),
            "rows": torch.from_numpy(rows),
        }


def steps(source: Source, **changed) -> Steps:
    return Steps(source, Plain(), **{"seed": 1, "batch_size": 6, **changed})


def numbers(loaded) -> list[int]:
    return loaded.batch["number"].tolist()


# ------------------------------------------------------------------------------------------------ which images


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 1000))
def test_every_image_comes_once_an_epoch_whatever_the_batch(count, batch_size, seed):
    made = steps(Numbered(count), batch_size=batch_size, seed=seed)
    stream = [n for step in range(-(-3 * count // batch_size)) for n in numbers(made[step])]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ_in_order():
    orders = [epoch_order(seed, 50, epoch) for seed in range(3) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == 9
    assert not orders[0].flags.writeable


def test_the_first_place_is_uniform():
    firsts = np.bincount([epoch_order(seed, 5, 0)[0] for seed in range(2000)], minlength=5)
    assert (np.abs(firsts - 400) < 5 * 18).all()


def test_views_get_their_own_chance_by_place():
    loaded = steps(Numbered(50))[7]
    expected = [generator(1, "view", 7, i).random() for i in range(6)]
    assert loaded.batch["chance"].tolist() == expected
    assert loaded.names == [f"name {n}" for n in numbers(loaded)]
    assert (loaded.bad, loaded.num_read) == ([], 6)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    ("kind", "given"), [(Numbered, (20,)), (Numbered, (20, (3, 4), (5,))), (Stream, (500, (3, 4), (5,)))]
)
def test_ranks_share_what_one_process_would_have_had(kind, given, world_size):
    source = kind(*given)
    whole = steps(source)
    parts = [steps(source, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(8):
        loaded = [part[step] for part in parts]
        for name, values in whole[step].batch.items():
            assert torch.equal(torch.cat([each.batch[name] for each in loaded]), values)
        assert [name for each in loaded for name in each.names] == whole[step].names
        assert sum(each.num_read for each in loaded) == whole[step].num_read


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(ConfigError, match=r"batch_size = 7.*4 processes\. Try 8\."):
        steps(Numbered(5), batch_size=7, world_size=4)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["numbered", "bad", "folder", "stream"])
def test_workers_change_nothing(workers, kind, images):
    source = {
        "numbered": lambda: Numbered(20),
        "bad": lambda: Numbered(20, (1, 5), (7,)),
        "folder": lambda: open_source(str(images(*(f"{i}.png" for i in range(9))))),
        "stream": lambda: Stream(500, (20,)),
    }[kind]()
    expected = [steps(source)[step] for step in range(3, 8)]
    found = list(batches(steps(source), 3, 8, workers=workers))
    assert len(found) == 5
    for one, other in zip(found, expected, strict=True):
        for name, values in other.batch.items():
            assert one.batch[name].numpy().tobytes() == values.numpy().tobytes()
        assert (one.names, one.bad, one.num_read) == (other.names, other.bad, other.num_read)


def test_the_global_chance_is_left_alone():
    before = torch.get_rng_state()
    next(batches(steps(Numbered(20)), 0, 2, workers=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_endless_run_can_be_left(images):
    stream = batches(steps(Numbered(20)), 0, 1 << 40, workers=1)
    assert numbers(next(stream)) == numbers(steps(Numbered(20))[0])
    stream.close()


@dataclass(frozen=True)
class Threads(Plain):
    """Counts the threads of the process that collates, after giving torch something to share out."""

    def collate(self, samples, seed, step, first):
        torch.rand(500, 500) @ torch.rand(500, 500)
        return {"torch": torch.get_num_threads(), "all": len(os.listdir("/proc/self/task"))}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="Linux tells the threads of a process")
def test_a_worker_computes_in_one_thread(tmp_path, encode, picture):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [encode(picture)] * 40}), tmp_path / "x.parquet", row_group_size=5)
    torch.set_num_threads(2)
    try:
        views = Threads()
        made = Steps(open_source(str(tmp_path)), views, seed=0, batch_size=4)
        *_, last = batches(made, 0, 4, workers=1)
    finally:
        torch.set_num_threads(1)
    assert last.batch["torch"] == 1
    assert last.batch["all"] <= 2  # itself, and the one that feeds its queue


class Pinnable:
    """Stands for a tensor: without a GPU nothing can be pinned."""

    is_pinned = False

    def pin_memory(self) -> Pinnable:
        pinned = Pinnable()
        pinned.is_pinned = True
        return pinned


def test_what_is_in_a_batch_is_pinned():
    plain = Loaded({"a": Pinnable(), "b": [Pinnable()]}, ["x"], [("y", "z")], 2)
    pinned = plain.pin_memory()
    assert pinned.batch["a"].is_pinned
    assert pinned.batch["b"][0].is_pinned
    assert not plain.batch["a"].is_pinned
    assert (pinned.names, pinned.bad, pinned.num_read) == (["x"], [("y", "z")], 2)


# ------------------------------------------------------------------------------------------------- bad images


def test_a_bad_image_is_replaced_counted_and_named():
    source = Numbered(10, unreadable=(2,), undecodable=(6,))
    made = steps(source, batch_size=10)
    sound = set(range(10)) - {2, 6}
    for step in range(20):
        loaded = made[step]
        assert set(numbers(loaded)) <= sound
        assert len(loaded.names) == 10
        assert loaded.names == [f"name {n}" for n in numbers(loaded)]
        assert loaded.num_read == 10 + len(loaded.bad)
        assert {("name 2", "unreadable")} < set(loaded.bad)
        assert {name for name, _ in loaded.bad} == {"name 2", "name 6"}
        in_place = dict(zip(numbers(loaded), loaded.batch["chance"].tolist(), strict=True))
        assert len(in_place) >= 8
        assert loaded.batch["chance"].tolist() == made[step].batch["chance"].tolist()


def test_replacements_are_drawn_from_everything():
    source = Numbered(5, unreadable=(0,))
    made = steps(source, batch_size=5)
    replaced = []
    for step in range(200):
        place = epoch_order(1, 5, step).tolist().index(0)
        replaced.append(numbers(made[step])[place])
    counts = np.bincount(replaced, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 25).all()


def test_replacements_are_drawn_for_their_step_place_and_attempt():
    made = steps(Numbered(50, unreadable=tuple(range(40))))
    for step in range(5):
        for i, used in enumerate(numbers(made[step])):
            tried = [epoch_order(1, 50, (6 * step + i) // 50)[(6 * step + i) % 50]]
            tried += [generator(1, "replacement", step, i, attempt).integers(50) for attempt in range(1, 33)]
            assert used == next(number for number in tried if number >= 40)


def test_in_a_stream_the_next_image_takes_the_place():
    source = Stream(500, unreadable=(1, 2), undecodable=(9,))
    loaded = steps(source)[0]
    assert numbers(loaded) == [0, 3, 3, 3, 4, 5]
    assert [name for name, _ in loaded.bad] == ["name 1", "name 2", "name 2"]
    assert numbers(steps(source)[1]) == [6, 7, 8, 10, 10, 11]


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_can_be_read_the_error_arrives_whole(workers):
    made = steps(Numbered(10, unreadable=tuple(range(10))))
    with pytest.raises(DataError) as caught:
        list(batches(made, 0, 3, workers=workers))
    assert str(caught.value).startswith("data = 'numbered: 10 images': 33 images in a row cannot be used, among them")
    assert "(unreadable)" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@dataclass(frozen=True)
class Wrong(Plain):
    """Fails in `collate`, with a mistake of several sentences or with a bug."""

    error: type[Exception] = ConfigError

    def collate(self, samples, seed, step, first):
        raise self.error(["one thing", "another"])


@pytest.mark.parametrize("workers", [0, 1])
def test_our_own_errors_keep_their_class_and_words(workers):
    with pytest.raises(ConfigError) as caught:
        next(batches(Steps(Numbered(10), Wrong(), seed=0, batch_size=2), 0, 3, workers=workers))
    assert str(caught.value) == "one thing\nanother"


def test_a_bug_in_a_worker_shows_where_it_is(monkeypatch):
    made = Steps(Numbered(10), Wrong(error=ZeroDivisionError), seed=0, batch_size=2)
    with pytest.raises(ZeroDivisionError, match="in collate"):
        next(batches(made, 0, 3, workers=1))
    # torch's iterator dies with the exception, in the garbage collector, where it waits for the worker in vain
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    gc.collect()


# ------------------------------------------------------------------------------------- before and beside training


def test_labelled_images(images, picture):
    source = open_source(str(images("cat/0.png", "dog/1.png", "dog/2.png", "dog/3.png")))
    with open(source[2].name, "wb"):
        pass  # truncated to nothing
    found, labels = labelled_images(source, np.array([3, 0, 2, 1]), (12, 16), 3)
    assert (found.shape, found.dtype) == ((3, 3, 12, 16), np.uint8)
    assert (labels.tolist(), labels.dtype) == ([1, 0, 1], np.int64)
    for number, image in zip((3, 0, 1), found, strict=True):
        expected = picture.copy()
        expected[0, 0] = number
        assert np.array_equal(image, center_crop(expected, (12, 16)))
    torch.from_numpy(found)


def test_labelled_images_leaves_out_what_has_no_label(monkeypatch):
    monkeypatch.setattr(
        Numbered, "__getitem__", lambda self, i: Item(np.full((8, 8, 3), i, np.uint8), "", [0, -1, None][i])
    )
    found, labels = labelled_images(Numbered(3), range(3), (4, 4), 3)
    assert (found[:, 0, 0, 0].tolist(), labels.tolist()) == ([0], [0])


def test_labelled_images_takes_large_jpegs_by_the_fast_way(tmp_path, encode, monkeypatch):
    for name in ("a/0.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(np.zeros((400, 400, 3), np.uint8), "JPEG"))
    seen = []
    monkeypatch.setattr(loader, "center_crop", lambda image, size: seen.append(image.shape) or np.zeros((3, *size)))
    labelled_images(open_source(str(tmp_path)), [0, 1], (20, 50), 3)
    assert seen == [(100, 100, 3)] * 2


def test_labelled_images_without_any(images):
    found, labels = labelled_images(open_source(str(images("0.png", "1.png"))), [0, 1], (8, 8), 3)
    assert found.shape == (0, 3, 8, 8)
    assert labels.shape == (0,)


def test_the_hint_for_large_jpegs_reaches_the_decoder(tmp_path, encode, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encode(np.zeros((400, 400, 3), np.uint8), "JPEG"))
    seen = []

    @dataclass(frozen=True)
    class Shapes(Plain):
        def sample(self, image, rng, label):
            seen.append(image.shape)
            return super().sample(image, rng, label)

    source, crop = open_source(str(tmp_path)), Crop()
    for min_side in (None, crop.min_side((16, 16))):
        Steps(source, Shapes(), seed=0, batch_size=1, min_side=min_side)[0]
    assert seen == [(400, 400, 3), (100, 100, 3)]
    assert loader.REPLACEMENTS >= 1
