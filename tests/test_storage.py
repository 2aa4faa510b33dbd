"""A directory is written whole or not at all, says when it is no longer whole, and never runs what it holds."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from openjepa import storage
from openjepa.errors import CheckpointError

OLD, NEW = 1, 2


def write(directory: Path, version: int, num_values: int = 100) -> None:
    tensors = {"a": {"x": torch.full((num_values,), version)}, "b": {"y": torch.full((3, 2), version)}}
    storage.write(directory, tensors, {"state": {"version": version}})


def version(directory: Path) -> int:
    """Of a directory that verifies; every part of it must be of that version."""
    storage.verify(directory)
    found = {storage.read_document(directory, "state")["version"]}
    for name in ("a", "b"):
        for tensor in storage.read_tensors(directory, name).values():
            found |= set(tensor.unique().tolist())
    (only,) = found
    return only


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ----------------------------------------------------------------------------------------------------- there and back

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
shapes = st.lists(st.integers(0, 3), max_size=3)


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(shapes, st.sampled_from(DTYPES)), max_size=4))
@settings(max_examples=25, deadline=None)
def test_tensors_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, kinds: dict) -> None:
    tensors = {name: (100 * torch.randn(shape)).to(dtype) for name, (shape, dtype) in kinds.items()}
    directory = tmp_path_factory.mktemp("whole") / "c"
    storage.write(directory, {"group": tensors}, {})
    storage.verify(directory)
    back = storage.read_tensors(directory, "group")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_views_and_parameters_are_written_as_they_look(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.randn(4, 6))
    tensors = {"turned": parameter.T, "every_other": parameter[:, ::2], "nan": torch.tensor([float("nan"), -0.0])}
    storage.write(tmp_path / "c", {"group": tensors}, {})
    back = storage.read_tensors(tmp_path / "c", "group")
    assert torch.equal(back["turned"], parameter.detach().T)
    assert torch.equal(back["every_other"], parameter.detach()[:, ::2])
    assert back["nan"].view(torch.int32).tolist() == tensors["nan"].view(torch.int32).tolist()


def test_documents_come_back(tmp_path: Path) -> None:
    document = {"text": "ü\n", "none": None, "numbers": [1, 0.1, 2**63], "nested": {"is_true": True}}
    storage.write(tmp_path / "deep" / "c", {}, {"state": document, "milestone": False})
    assert storage.read_document(tmp_path / "deep" / "c", "state") == document
    assert storage.read_document(tmp_path / "deep" / "c", "milestone") is False


def test_a_second_write_replaces_the_whole_directory(tmp_path: Path) -> None:
    storage.write(tmp_path / "c", {"other": {"x": torch.ones(1)}}, {})
    write(tmp_path / "c", NEW)
    assert version(tmp_path / "c") == NEW
    assert names(tmp_path / "c") == ["a.safetensors", "b.safetensors", "manifest.json", "state.json"]
    assert names(tmp_path) == ["c"]


# ------------------------------------------------------------------------------------------------- disks that are full


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def after(num_calls: int, original: Callable) -> Callable:
    """`original`, until it has been called that often."""
    calls = iter(range(num_calls))
    return lambda *args, **kwargs: refuse() if next(calls, None) is None else original(*args, **kwargs)


WHERE = {
    "first tensors": (storage, "save_file", 0),
    "second tensors": (storage, "save_file", 1),
    "document": (Path, "write_text", 0),
    "manifest": (Path, "write_text", 1),
    "reading back": (storage, "_sha256", 1),
    "flushing": (os, "fsync", 2),
    "making room for the name": (Path, "rename", 0),
    "taking the name": (Path, "rename", 1),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_full_disk_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, is_there: bool
) -> None:
    owner, name, num_calls = WHERE[where]
    if is_there:
        write(tmp_path / "c", OLD)
    elif where == "taking the name":
        num_calls = 0  # nothing has the name yet
    refusing = after(num_calls, getattr(owner, name))
    if name == "rename":  # putting the old name back is the third
        original, calls = Path.rename, iter(range(9))
        monkeypatch.setattr(Path, name, lambda *args: refuse() if next(calls) == num_calls else original(*args))
    else:
        monkeypatch.setattr(owner, name, refusing)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "c", NEW)
    monkeypatch.undo()
    assert names(tmp_path) == (["c"] if is_there else [])
    if is_there:
        assert version(tmp_path / "c") == OLD
    write(tmp_path / "c", NEW)
    assert version(tmp_path / "c") == NEW


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB where we may mount one, else a directory in which no file may pass 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    write(small_disk / "c", OLD)
    for num_values in (40_000, 9_000):  # of 8 bytes: more than the disk, more than a file may have
        if num_values == 9_000:
            (small_disk / "other").write_bytes(b"0" * 60_000)
            (small_disk / "another").write_bytes(b"0" * 60_000)
            (small_disk / "third").write_bytes(b"0" * 60_000)
        with pytest.raises(OSError, match=r"No space left|File too large"):
            write(small_disk / "c", NEW, num_values)
        assert [name for name in names(small_disk) if "c" in name] == ["c"]
        assert version(small_disk / "c") == OLD
    (small_disk / "third").unlink()
    write(small_disk / "c", NEW)
    assert version(small_disk / "c") == NEW


def test_a_document_that_is_no_json_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        storage.write(tmp_path / "c", {}, {"state": {"x": torch.ones(1)}})
    assert names(tmp_path) == []


# ------------------------------------------------------------------------------------------------- processes that die

DIE_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_storage import NEW, OLD, names, storage, version, write

def die_at(number, root):
    # every open, rename, mkdir, remove below root is an audit event, raised just before it happens
    count = 0
    def hook(event, args):
        nonlocal count
        if any(str(arg).startswith(root) for arg in args if isinstance(arg, (str, Path))):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def attempt(root, is_there, number):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if is_there:
        write(root / "c", OLD)
    child = os.fork()
    if not child:
        die_at(number, str(root))
        write(root / "c", NEW)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0

for is_there in (False, True):
    root, number, found, gaps = Path(sys.argv[1]), 0, [], 0
    while True:
        number += 1
        is_finished = attempt(root, is_there, number)
        if (root / "c").exists():
            found.append(version(root / "c"))
        else:
            found.append(None)
            asides = [version(path) for path in root.glob(".c.old-*")]
            assert asides == ([OLD] if is_there else []), (number, names(root))
            gaps += is_there
        write(root / "c", NEW)  # whatever is left over is in nobody's way
        assert version(root / "c") == NEW
        storage.sweep(root)
        assert names(root) == ["c"], names(root)
        if is_finished:
            break
    print(is_there, number, gaps, *found)
"""


def test_kill_9_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A write is killed before each thing it does to the disk, one after the other."""
    command = [sys.executable, "-c", DIE_EVERYWHERE, str(tmp_path / "root"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    fresh, over = (line.split() for line in done.stdout.splitlines())
    assert int(fresh[1]) > 10, "too few points of death: the audit hook sees nothing"
    first_new = fresh[3:].index(str(NEW))
    assert fresh[3:] == ["None"] * first_new + [str(NEW)] * (len(fresh[3:]) - first_new)
    # between the two renames of an overwrite the name is free for a moment; the old one stands whole beside it
    assert int(over[2]) == 1
    values = [value for value in over[3:] if value != "None"]
    assert values == sorted(values)
    assert set(values) == {str(OLD), str(NEW)}


def test_leftovers_of_a_process_with_our_id_are_in_nobodys_way(tmp_path: Path) -> None:
    """In a container the id of a process is the same at every start."""
    for kind in ("old", "writing"):
        leftover = tmp_path / f".c.{kind}-{os.getpid()}"
        leftover.mkdir()
        (leftover / "half").touch()
    write(tmp_path / "c", OLD)
    write(tmp_path / "c", NEW)
    assert version(tmp_path / "c") == NEW
    assert names(tmp_path) == ["c"]


def test_a_name_never_stands_on_half_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "c", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(
            shutil, "rmtree", lambda path, ignore_errors: Path(path).exists() and Path(path, "state.json").unlink()
        )
        storage.remove(tmp_path / "c")  # as if killed after the first file
    assert names(tmp_path) == [f".c.old-{os.getpid()}"]
    storage.sweep(tmp_path)
    assert names(tmp_path) == []


# --------------------------------------------------------------------------------------- directories that were damaged


def flip(path: Path, where: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda c: flip(c / "a.safetensors"), "a.safetensors is not what was written"),
    "a byte of the header": (lambda c: flip(c / "b.safetensors", 9), "b.safetensors is not what was written"),
    "a document": (lambda c: (c / "state.json").write_text("{}"), "state.json is not what was written"),
    "a cut": (lambda c: os.truncate(c / "a.safetensors", 100), "a.safetensors is not what was written"),
    "emptied": (lambda c: os.truncate(c / "a.safetensors", 0), "a.safetensors is not what was written"),
    "missing": (lambda c: (c / "a.safetensors").unlink(), "a.safetensors is missing"),
    "extra": (lambda c: (c / "x.bin").touch(), "x.bin does not belong there"),
    "extra directory": (lambda c: (c / "x").mkdir(), "x does not belong there"),
    "two things": (
        lambda c: ((c / "a.safetensors").unlink(), flip(c / "state.json")),
        "a.safetensors is missing; state.json is not",
    ),
    "a directory for a file": (
        lambda c: ((c / "state.json").unlink(), (c / "state.json").mkdir()),
        "state.json cannot be read",
    ),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "not a whole checkpoint"),
    "half a manifest": (lambda c: os.truncate(c / "manifest.json", 40), "not a whole checkpoint"),
    "zeros for a manifest": (lambda c: (c / "manifest.json").write_bytes(bytes(64)), "not a whole checkpoint"),
    "a manifest of nothing": (lambda c: (c / "manifest.json").write_text("[]"), "does not belong there"),
    "a manifest of numbers": (lambda c: (c / "manifest.json").write_text("[1]"), "not a whole checkpoint"),
    "all of it": (shutil.rmtree, "not a whole checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "c", OLD)
    storage.verify(tmp_path / "c")
    inflict, expected = DAMAGE[damage]
    inflict(tmp_path / "c")
    with pytest.raises(CheckpointError, match=expected) as caught:
        storage.verify(tmp_path / "c")
    assert str(tmp_path / "c") in str(caught.value)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("whole") / "c"
    write(directory, OLD)
    path = directory / data.draw(st.sampled_from(["a.safetensors", "b.safetensors", "state.json"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path.name} is not what was written"):
        storage.verify(directory)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_in_disguise_is_refused(tmp_path: Path, dump: Callable) -> None:
    write(tmp_path / "c", OLD)
    sprung = tmp_path / "sprung"
    with open(tmp_path / "c" / "a.safetensors", "wb") as file:
        dump({"x": Trap(sprung)}, file)
    sums = json.loads((tmp_path / "c" / "manifest.json").read_text())
    sums["a.safetensors"] = storage._sha256(tmp_path / "c" / "a.safetensors")
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(sums))
    storage.verify(tmp_path / "c")  # the forger knew about the manifest
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read"):
        storage.read_tensors(tmp_path / "c", "a")
    assert not sprung.exists()
    with open(tmp_path / "c" / "a.safetensors", "rb") as file:
        torch.load(file, weights_only=False) if dump is torch.save else pickle.load(file)
    assert sprung.exists(), "the trap itself does not work"


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "c", OLD)
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read"):
        storage.read_tensors(tmp_path / "c", "x")
    with pytest.raises(CheckpointError, match=r"x\.json cannot be read"):
        storage.read_document(tmp_path / "c", "x")
    (tmp_path / "c" / "state.json").write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        storage.read_document(tmp_path / "c", "state")


# ---------------------------------------------------------------------------------------------------- into a module


def test_explain_lists_what_does_not_fit() -> None:
    expected = {"a": torch.ones(2), "b": torch.ones(3, 4), "c": torch.ones(()), "d": torch.ones(1)}
    found = {"b": torch.ones(4, 3), "c": torch.ones(1), "d": torch.ones(1), "e": torch.ones(1), "A": torch.ones(2)}
    assert storage.explain(expected, found) == [
        "missing (1): a",
        "unexpected (2): A, e",
        "of another shape (2): b (4, 3) instead of (3, 4), c (1,) instead of ()",
    ]
    assert storage.explain(expected, dict(reversed(expected.items()))) == []


def test_load_into_is_strict(tmp_path: Path) -> None:
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    storage.load_into(module, other.state_dict(), tmp_path)
    assert torch.equal(module.weight, other.weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong: dict[str, Tensor] = {"weight": torch.ones(2, 3), "bias": torch.ones(3), "scale": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        storage.load_into(module, wrong, "somewhere")
    assert str(caught.value) == (
        "somewhere does not fit this Linear:\n  unexpected (1): scale\n"
        "  of another shape (1): bias (3,) instead of (2,)"
    )
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
