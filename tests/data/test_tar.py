"""WebDataset tars: samples, labels, names, and archives that are damaged."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest

from openjepa.data.images import BadImage, decode
from openjepa.data.source import open_source
from openjepa.errors import DataError


@pytest.fixture
def pack(tmp_path):
    """Writes a tar of (name, bytes) members."""

    def write(name: str, *members: tuple[str, bytes], kind: int = tarfile.PAX_FORMAT):
        path = tmp_path / name
        with tarfile.open(path, "w", format=kind) as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def dot(encode):
    """An image of one colour."""
    return lambda number: encode(np.full((8, 8, 3), number, np.uint8))


def numbers(source):
    return [int(decode(source[i].image, 3)[0, 0, 0]) for i in range(len(source))]


def test_samples_with_labels(pack, dot):
    members = [
        (f"{i:03}.{kind}", dot(i) if kind == "png" else str(i % 3).encode())
        for i in range(5)
        for kind in ("png", "cls")
    ]
    path = pack("x.tar", *members)
    source = open_source(str(path))
    assert numbers(source) == list(range(5))
    assert source.labels().dtype == np.int64
    assert source.labels().tolist() == [source[i].label for i in range(5)] == [0, 1, 2, 0, 1]
    assert source[2].name == f"{path}: 002.png"
    assert "5 images" in source.identity


def test_members_belong_together_up_to_the_first_dot(pack, dot):
    path = pack(
        "x.tar",
        ("d.1/a.cls", b"7\n"),
        ("d.1/a.json", b"{}"),
        ("d.1/a.seg.png", dot(99)),
        ("d.1/a.JPG", dot(1)),
        ("d.1/a.png", dot(98)),
        ("d.2/a.png", dot(2)),
        ("d.2/a.cls", b"8"),
        ("d.2/b.txt", b"no image here"),
        ("d.2/._a.png", dot(97)),
        ("d.2/.png", dot(96)),
    )
    source = open_source(str(path))
    assert numbers(source) == [1, 2]
    assert source.labels().tolist() == [7, 8]


@pytest.mark.parametrize("labels", [[b"1", None], [b"1", b"cat"], [None, None]])
def test_labels_count_only_when_all_are_there(pack, dot, labels):
    members = [(f"{i}.png", dot(i)) for i in range(2)]
    members += [(f"{i}.cls", label) for i, label in enumerate(labels) if label is not None]
    source = open_source(str(pack("x.tar", *members)))
    assert source.labels() is None
    assert numbers(source) == [0, 1]
    assert source[1].label is None


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(pack, dot, kind):
    name = "/".join(["folder" * 12] * 4) + "/ünïcode.png"
    source = open_source(str(pack("x.tar", (name, dot(1)), ("b.png", dot(2)), kind=kind)))
    assert numbers(source) == [1, 2]
    assert source[0].name.endswith(name)


def test_many_tars_in_order(pack, dot, tmp_path):
    for shard in range(11):
        pack(f"s-{shard:02}.tar", *((f"{i}.png", dot(shard * 10 + i)) for i in range(2)))
    source = open_source(str(tmp_path / "s-{00..10}.tar"))
    assert numbers(source) == [shard * 10 + i for shard in range(11) for i in range(2)]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(22)] == [source[i] for i in range(22)]


def test_arrays_in_a_tar(pack, encode):
    array = np.random.default_rng(0).integers(0, 256, (8, 9, 5), dtype=np.uint8)
    source = open_source(str(pack("x.tar", ("a.npy", encode(array, "NPY")))))
    assert np.array_equal(decode(source[0].image, 5), array)


def test_a_tar_without_images(pack):
    with pytest.raises(DataError, match="no image among the members of 1 tar"):
        open_source(str(pack("x.tar", ("a.txt", b"x"))))


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_tar_that_breaks_off(pack, dot, cut):
    path = pack("x.tar", *((f"{i}.png", dot(i)) for i in range(10)))
    path.write_bytes(path.read_bytes()[: int(10 * 1024 * cut) + 700])
    with pytest.raises(DataError, match=r"x\.tar'.*(not a whole tar file|damaged)"):
        open_source(str(path))


def test_a_damaged_header_is_not_taken_for_the_end(pack, dot):
    path = pack("x.tar", *((f"{i}.png", dot(i)) for i in range(10)))
    data = bytearray(path.read_bytes())
    data[5 * 1024 + 100 : 5 * 1024 + 156] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged half-way"):
        open_source(str(path))


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_what_is_no_tar(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="not a whole tar file"):
        open_source(str(tmp_path / "x.tar"))


def test_a_compressed_tar_in_disguise(tmp_path, images):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.add(images("a.png"), "a")
    with pytest.raises(DataError, match="compressed tars have no random access"):
        open_source(str(tmp_path / "x.tar"))


def test_links_are_refused(tmp_path, images):
    folder = images("a.png")
    (folder / "b.png").hardlink_to(folder / "a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder / "a.png", "a.png")
        tar.add(folder / "b.png", "b.png")
    with pytest.raises(DataError, match=r"'b\.png' is a link.*--hard-dereference"):
        open_source(str(tmp_path / "x.tar"))


def test_a_tar_that_shrinks_or_goes_while_it_is_read(pack, dot):
    path = pack("x.tar", ("a.png", dot(1)), ("b.png", dot(2)))
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:1600])
    assert source[0].image == dot(1)
    with pytest.raises(BadImage, match="has become shorter"):
        source[1]
    path.unlink()
    with pytest.raises(BadImage, match="cannot be read: No such file"):
        source[0]
