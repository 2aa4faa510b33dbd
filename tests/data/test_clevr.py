"""CLEVR: labels by hand, at the edges of the bins too, and what is said of folders and files that are not CLEVR's."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openjepa.data.clevr import Clevr, class_names, parse
from openjepa.data.images import BadImage, decode
from openjepa.data.source import open_source
from openjepa.errors import ConfigError, DataError

Write = Callable[..., Path]

SCENES = [[9.1, 7.5, 12.0], [8.75] * 10, [11.0, 10.5, 13.0, 10.25], [30.0, 9.75, 10.0, 20.0, 9.875]]
"""Distances of the objects of four scenes; the first is of image 2, the second of 0, then 1 and 3."""
NUMBERS = [2, 0, 1, 3]
COUNTS = [0, 7, 1, 2]
BINS = [0, 2, 5, 4]


def file_name(number: int, split: str = "train") -> str:
    return f"CLEVR_{split}_{number:06d}.png"


def scene(distances: list[Any], number: int, split: str = "train") -> dict[str, Any]:
    """As CLEVR_v1.0 writes them."""
    thing = {"shape": "cube", "color": "red", "rotation": 42.2, "3d_coords": [1.0, -2.0, 0.7]}
    objects = [{**thing, "pixel_coords": [337, 195, distance]} for distance in distances]
    return {
        "split": split,
        "image_index": number,
        "image_filename": file_name(number, split),
        "objects": objects,
        "relationships": {"behind": [[] for _ in objects]},
        "directions": {"above": [0.0, 0.0, 1.0]},
    }


@pytest.fixture
def clevr(tmp_path: Path, encode: Callable[..., bytes]) -> Write:
    """Writes the scenes of a split; the picture of image n is n all over."""

    def write(scenes: list[Any], split: str = "train", root: Path = tmp_path / "CLEVR_v1.0") -> Path:
        images = root / "images" / split
        images.mkdir(parents=True)
        (root / "scenes").mkdir(exist_ok=True)
        whole = {"info": {"version": "1.0", "split": split}, "scenes": scenes}
        (root / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps(whole))
        for number in range(len(scenes)):
            path = images / file_name(number, split)
            path.write_bytes(encode(np.full((4, 6, 3), number, np.uint8)))
        return root

    return write


@pytest.fixture
def root(clevr: Write) -> Path:
    """SCENES as both splits, val backwards."""
    pairs = list(zip(SCENES, NUMBERS, strict=True))
    clevr([scene(distances, number) for distances, number in pairs])
    return clevr([scene(distances, number, "val") for distances, number in pairs[::-1]], "val")


def scene_file(root: Path, split: str = "train") -> Path:
    return root / "scenes" / f"CLEVR_{split}_scenes.json"


@pytest.mark.parametrize(("task", "labels"), [("count", COUNTS), ("distance", BINS)])
def test_labels_by_hand(root: Path, task: str, labels: list[int]) -> None:
    source = Clevr(str(root), "train", task)
    assert source.labels().dtype == np.int64
    assert source.labels().tolist() == labels
    assert [source[i].label for i in range(len(source))] == labels
    assert Clevr(str(root), "val", task).labels().tolist() == labels[::-1]
    assert {name: answers.tolist() for name, answers in source.questions().items()} == {
        "count": COUNTS,
        "distance": BINS,
    }


def test_the_order_is_that_of_the_scenes_and_images_are_found_by_name(root: Path) -> None:
    for split, numbers in (("train", NUMBERS), ("val", NUMBERS[::-1])):
        source = Clevr(str(root), split)
        items = [source[i] for i in range(len(source))]
        assert [item.name for item in items] == [str(root / "images" / split / file_name(n, split)) for n in numbers]
        assert [source.name(i) for i in range(len(source))] == [item.name for item in items]
        assert [decode(item.image, 3)[0, 0, 0] for item in items] == numbers
        assert items[0].image == (root / "images" / split / file_name(numbers[0], split)).read_bytes()


@pytest.mark.parametrize("count", range(3, 11))
def test_every_count_has_the_class_of_its_name(clevr: Write, count: int) -> None:
    source = Clevr(str(clevr([scene([9.0] * count, 0)])))
    assert source.classes[source.labels()[0]] == str(count)
    assert source.num_objects.tolist() == [count]


def test_edges_belong_to_the_bin_below(clevr: Write) -> None:
    """The benchmark takes the last threshold that is strictly below the distance, in float32."""
    bins = {
        0: [1e-6, 1, 7.999, 8, 8.0, 8.0000000001],
        1: [8.000001, 8.25, 8.5],
        2: [8.500001, 9.0],
        3: [9.000001, 9.161211967468262, 9.5],
        4: [9.500001, 10.0],
        5: [10.000001, 12.699371337890625, 100.0],
    }
    pairs = [(distance, number) for number, distances in bins.items() for distance in distances]
    root = clevr([scene([distance, 100.0, 100.0], i) for i, (distance, _) in enumerate(pairs)])
    source = Clevr(str(root), task="distance")
    assert source.labels().tolist() == [number for _, number in pairs]
    assert source.closest.tolist() == np.array([distance for distance, _ in pairs], np.float32).tolist()


def test_names_of_the_classes(root: Path) -> None:
    counts = ["3", "4", "5", "6", "7", "8", "9", "10"]
    bins = ["< 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "> 10"]
    assert Clevr(str(root)).classes == class_names("count") == counts
    assert Clevr(str(root), task="distance").classes == class_names("distance") == bins
    assert Clevr(str(root)).class_names("distance") == bins


def test_only_the_farther_objects_may_be_anywhere(clevr: Write) -> None:
    assert Clevr(str(clevr([scene([1e9, 9.2, float("inf")], 0)])), task="distance").labels().tolist() == [3]


def test_labels_need_no_image(root: Path) -> None:
    for image in (root / "images" / "train").iterdir():
        image.write_bytes(b"")
    assert Clevr(str(root)).labels().tolist() == COUNTS


def test_labels_that_someone_changes_are_a_copy(root: Path) -> None:
    source = Clevr(str(root))
    source.labels()[:] = 0
    assert source.labels().tolist() == COUNTS


def test_specs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(f"clevr?root={root}&split=val&task=distance")
    assert isinstance(source, Clevr)
    assert (source.split, source.task, source.labels().tolist()) == ("val", "distance", BINS[::-1])
    short = open_source(f"clevr?root={root}")
    assert isinstance(short, Clevr)
    assert (short.split, short.task) == ("train", "count")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("clevr?task=count&root=~/CLEVR_v1.0")) == 4


def test_folders_called_clevr_stay_folders(
    images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clevr", "clevr2"):
        images("a.png", root=tmp_path / name)
        assert type(open_source(name)).__name__ == "Folder"


def test_identities(root: Path, clevr: Write, tmp_path: Path) -> None:
    source = Clevr(str(root), "val", "distance")
    assert source.identity == "clevr-v1.0?split=val&task=distance: 4 images"
    elsewhere = clevr([scene(d, i, "val") for i, d in enumerate(SCENES)], "val", tmp_path / "moved")
    assert Clevr(str(elsewhere), "val", "distance").identity == source.identity
    assert len({Clevr(str(root), s, t).identity for s in ("train", "val") for t in ("count", "distance")}) == 4


def test_a_copy_in_another_process_is_the_same_and_carries_no_scenes(root: Path) -> None:
    source = Clevr(str(root), task="distance")
    scene_file(root).unlink()  # a worker reads it no more
    pickled = pickle.dumps(source)
    copy = pickle.loads(pickled)
    assert [copy[i] for i in range(4)] == [source[i] for i in range(4)]
    assert (copy.identity, copy.classes) == (source.identity, source.classes)
    assert copy.labels().tolist() == BINS
    assert b"pixel_coords" not in pickled


def test_images_that_are_not_there_are_bad_ones(root: Path) -> None:
    path = root / "images" / "train" / file_name(0)
    path.unlink()
    source = Clevr(str(root))
    assert len(source) == 4
    with pytest.raises(BadImage, match="cannot be read: No such file") as caught:
        source[1]
    assert caught.value.name == str(path)
    assert source[0].label == COUNTS[0]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clevr", "has no root. Write it like 'clevr\\?root="),
        ("clevr?root=", "has no root"),
        ("clevr?", "Known: root, split, task"),
        ("clevr?rot=/x", "'rot=/x': unknown key. Did you mean 'root'"),
        ("clevr?root=/x&tasks=count", "Did you mean 'task'"),
        ("clevr?root=/x&root=/y", "root is given twice"),
        ("clevr?root=/x&split=vla", "'vla': unknown split. Did you mean 'val'"),
        ("clevr?root=/x&split=test", "'test': has no scene file, so no labels. Take 'val'"),
        ("clevr?root=/x&task=distances", "unknown task. Did you mean 'distance'"),
        ("clevr:root=/x", "is not 'clevr'"),
    ],
)
def test_bad_specs_say_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(spec)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("clevr?splits=val&split=v&task=number")
    assert len(caught.value.mistakes) == 4
    with pytest.raises(ConfigError) as caught:
        Clevr("/x", "test", "size")
    assert len(caught.value.mistakes) == 2


def message(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        Clevr(str(root), split)
    return str(caught.value)


def test_what_is_not_a_folder(root: Path) -> None:
    remedy = "Give the unpacked folder CLEVR_v1.0, with images/ and scenes/ in it."
    assert message(root / "no") == f"clevr root = '{root}/no': does not exist. {remedy}"
    assert message(scene_file(root)) == f"clevr root = '{scene_file(root)}': is not a folder. {remedy}"


def test_folders_that_lack_something_say_what_they_hold(root: Path, tmp_path: Path) -> None:
    assert f"Did you mean '{root}'?" in message(tmp_path)
    scene_file(root).unlink()
    lacks = f"there is no 'CLEVR_train_scenes.json' in {root}/scenes; found CLEVR_val_scenes.json. Give"
    assert lacks in message(root)
    scene_file(root, "val").unlink()
    assert f"there is no 'CLEVR_val_scenes.json' in {root}/scenes; it is empty" in message(root, "val")
    (root / "scenes").rmdir()
    assert f"there is no 'scenes' in {root}; found images. Give" in message(root)
    shutil.rmtree(root / "images" / "train")
    (root / "scenes").mkdir()
    assert f"there is no 'train' in {root}/images; found val. Give" in message(root)
    shutil.rmtree(root / "images")
    for number in range(9):
        (root / f"a{number}.txt").touch()
    assert f"there is no 'images' in {root}; found a0.txt, a1.txt, " in message(root)
    assert "a7.txt and 2 more" in message(root)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is broken: Expecting value"),
        (b'{"scenes": [{"image_fi', "is broken: Unterminated string"),
        (b'{"scenes": "\xff"}', "is broken: 'utf-8' codec"),
        (b"[" * 200_000, "is broken: "),
        (b"[1, 2]", "has no list 'scenes'"),
        (b'{"info": {}}', "has no list 'scenes'"),
        (b'{"scenes": {"0": 1}}', "has no list 'scenes'"),
        (b'{"scenes": []}', "its list 'scenes' is empty"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_files_that_are_no_scenes(root: Path, content: bytes, rule: str) -> None:
    scene_file(root).write_bytes(content)
    said = message(root)
    assert said.startswith(f"clevr scenes = '{scene_file(root)}': {rule}")
    assert said.endswith("Unpack CLEVR_v1.0 anew.")


def test_files_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root, whom nothing is refused, may run this test
    said = message(root)
    monkeypatch.undo()
    assert f"'{scene_file(root)}': cannot be read: Permission denied" in said


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (7, "clevr scene = 1: its 'image_filename' is None"),
        ({"objects": []}, "clevr scene = 1: its 'image_filename' is None"),
        ({"image_filename": "../a.png", "objects": []}, "clevr scene = 1: its 'image_filename' is '../a.png'"),
        ({"image_filename": "a\0.png", "objects": []}, "clevr scene = 1: its 'image_filename' is 'a\\x00.png'"),
        ({"image_filename": "", "objects": []}, "clevr scene = 1: its 'image_filename' is '', not the name"),
        ({"image_filename": "a.png"}, "clevr scene = 'a.png': has no list 'objects'"),
        ({"image_filename": "a.png", "objects": {}}, "clevr scene = 'a.png': has no list 'objects'"),
        (scene([9.0] * 2, 1), "'CLEVR_train_000001.png': has 2 objects; CLEVR has 3 to 10"),
        (scene([9.0] * 11, 1), "'CLEVR_train_000001.png': has 11 objects; CLEVR has 3 to 10"),
        (scene([], 1), "'CLEVR_train_000001.png': has 0 objects"),
        ({"image_filename": "a.png", "objects": [{"shape": "cube"}] * 3}, "'a.png': object 0 has no 'pixel_coords'"),
        ({"image_filename": "a.png", "objects": [1, 2, 3]}, "'a.png': object 0 has no 'pixel_coords'"),
        (
            {"image_filename": "a.png", "objects": [{"pixel_coords": [1, 2]}] * 3},
            "'a.png': object 0 has pixel_coords [1, 2]; needs [x, y, distance], the distance above 0",
        ),
        ({"image_filename": "a.png", "objects": [{"pixel_coords": "abc"}] * 3}, "has pixel_coords 'abc'; needs"),
        (scene([9.0, 8.0, "8"], 1), "object 2 has pixel_coords [337, 195, '8']; needs"),
        (scene([9.0, None, 8.0], 1), "object 1 has pixel_coords [337, 195, None]; needs"),
        (scene([9.0, True, 8.0], 1), "object 1 has pixel_coords [337, 195, True]; needs"),
        (scene([9.0, 0.0, 8.0], 1), "object 1 has pixel_coords [337, 195, 0.0]; needs"),
        (scene([9.0, -1.5, 8.0], 1), "object 1 has pixel_coords [337, 195, -1.5]; needs"),
        (scene([9.0, float("nan"), 8.0], 1), "object 1 has pixel_coords [337, 195, nan]; needs"),
        (scene([100.5, 101, 102], 1), "the closest object is 100.5 away; at most 100 has a class"),
        (scene([float("inf")] * 3, 1), "the closest object is inf away"),
        (scene([10**400] * 3, 1), "the closest object is 1000"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_scenes_that_are_not_clevrs_are_named(clevr: Write, broken: Any, said: str) -> None:
    root = clevr([scene(SCENES[0], 0), broken])
    for task in ("count", "distance"):
        with pytest.raises(DataError) as caught:
            Clevr(str(root), task=task)
        assert said in str(caught.value)
        assert str(caught.value).startswith("clevr scene = ")
        assert f"{scene_file(root)} is damaged, or is not that of CLEVR_v1.0." in str(caught.value)
