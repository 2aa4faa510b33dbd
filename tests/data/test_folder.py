"""Folders: what is listed, in which order, with which labels."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from openjepa.data.folder import Folder, list_files
from openjepa.data.images import BadImage, decode
from openjepa.data.source import SUFFIXES, open_source


def names(source: Folder, root: Path) -> list[str]:
    return [os.path.relpath(source[i].name, root) for i in range(len(source))]


def test_every_suffix_in_any_case(images):
    listed = [f"{i}{suffix}" for i, suffix in enumerate(SUFFIXES)]
    root = images(*listed, "UPPER.JPG", "mixed.PnG", "notes.txt", "archive.zip", "png")
    assert names(open_source(str(root)), root) == sorted([*listed, "UPPER.JPG", "mixed.PnG"])


def test_the_order_is_that_of_the_names_at_any_depth(images):
    given = ["b/2.png", "b/10.png", "a/z/1.png", "a/1.png", "c.png", "b.png", "a/z.png"]
    root = images(*given)
    assert names(open_source(str(root)), root) == sorted(given)


def test_an_item_is_the_file(images, picture):
    root = images("a.png", "b.png")
    item = open_source(str(root))[1]
    assert item.image == (root / "b.png").read_bytes()
    assert item.name == str(root / "b.png")
    assert decode(item.image, 3)[0, 0].tolist() == [1, 1, 1]


def test_arrays(tmp_path, encode):
    array = np.random.default_rng(0).integers(0, 256, (8, 9, 5), dtype=np.uint8)
    (tmp_path / "a.npy").write_bytes(encode(array, "NPY"))
    assert np.array_equal(decode(open_source(str(tmp_path))[0].image, 5), array)


@pytest.mark.parametrize(
    ("files", "classes", "labels"),
    [
        (["dog/1.png", "cat/1.png", "cat/deep/2.png"], ["cat", "dog"], [0, 0, 1]),
        (["dog/1.png", "cat/1.png", "loose.png"], None, None),
        (["only/1.png", "only/2.png"], None, None),
        (["1.png", "2.png"], None, None),
        (["10/a.png", "9/a.png"], ["10", "9"], [0, 1]),
    ],
)
def test_labels(images, files, classes, labels):
    source = open_source(str(images(*files)))
    assert source.classes == classes
    if labels is None:
        assert source.labels() is None
        assert source[0].label is None
    else:
        assert source.labels().tolist() == labels
        assert [source[i].label for i in range(len(source))] == labels


def test_folders_without_images_are_no_classes(images):
    root = images("cat/1.png", "dog/1.png", "notes/readme.txt")
    (root / "empty").mkdir()
    assert open_source(str(root)).classes == ["cat", "dog"]


def test_hidden_things_are_skipped(images):
    root = images("a.png", "._a.png", ".hidden.png", ".cache/b.png", "sub/.c/d.png")
    assert names(open_source(str(root)), root) == ["a.png"]


def test_links_to_files_and_folders_are_followed(images, tmp_path):
    elsewhere = images("x.png", "y.png", root=tmp_path / "elsewhere")
    root = images("own/a.png")
    (root / "own" / "link.png").symlink_to(elsewhere / "x.png")
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    source = open_source(str(root))
    assert names(source, root) == ["linked/x.png", "linked/y.png", "own/a.png", "own/link.png"]
    assert source.classes == ["linked", "own"]
    assert source[3].image == (elsewhere / "x.png").read_bytes()


def test_links_in_a_circle_end(images):
    root = images("a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "over").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "back").symlink_to(root / "a", target_is_directory=True)
    found = [os.path.realpath(root / name) for name in list_files(str(root), SUFFIXES)[0]]
    assert sorted(found) == [str(root / "a/1.png"), str(root / "b/2.png")]


def test_links_that_lead_nowhere_are_bad_images_not_lost_ones(images):
    root = images("a.png")
    (root / "b.png").symlink_to(root / "gone.png")
    source = open_source(str(root))
    assert len(source) == 2
    with pytest.raises(BadImage, match="cannot be read: No such file") as caught:
        source[1]
    assert caught.value.name == str(root / "b.png")


def test_files_that_vanish_or_are_folders_in_disguise(images):
    root = images("a.png", "b.png", "c.png/d.png")
    source = open_source(str(root))
    (root / "a.png").unlink()
    with pytest.raises(BadImage):
        source[0]
    assert len(source) == 3


def test_names_that_are_not_utf8(images):
    root = images("a.png")
    odd = os.fsencode(root) + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write((root / "a.png").read_bytes())
    source = open_source(str(root))
    assert [os.fsencode(source[i].name) for i in range(2)] == [os.fsencode(root) + b"/a.png", odd]
    assert source[1].image == source[0].image


def test_counts_of_what_is_not_listed(images):
    root = images("a.png", "b.txt", "c/d.txt", "c/e")
    files, others = list_files(str(root), (".png",))
    assert files == ["a.png"]
    assert dict(others) == {".txt": 2, "": 1}


def test_a_copy_in_another_process_is_the_same(images):
    source = open_source(str(images("cat/1.png", "dog/2.png")))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(2)] == [source[i] for i in range(2)]
    assert copy.identity == source.identity
    assert "2 images" in source.identity
