"""The book of bad images: counts, the list, the limit, and going on from a checkpoint."""

from __future__ import annotations

import csv
import json

import pytest

from openjepa.data.bad import ENOUGH, BadImages
from openjepa.data.loader import Loaded
from openjepa.errors import DataError


def loaded(num_read: int, *bad: str) -> Loaded:
    return Loaded(None, [], [(name, f"reason of {name}") for name in bad], num_read)


def rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bad_images.csv"


def test_each_is_listed_once_with_its_reason(path):
    book = BadImages(path, max_share=0.5)
    book.add(loaded(100))
    assert not path.exists()
    book.add(loaded(100, "b", "a"))
    book.add(loaded(100, "a", "c", "c"))
    assert rows(path) == [["name", "reason"]] + [[name, f"reason of {name}"] for name in "bac"]
    assert (book.num_read, book.num_bad) == (300, 5)


def test_odd_names_survive(path):
    book = BadImages(path, max_share=1.0)
    names = ["with,comma", 'with "quotes"', "with\nnewline", "ünïcode", "\udcff.png", ""]
    book.add(loaded(10, *names))
    book.add(loaded(10, *names))
    assert [row[0] for row in rows(path)[1:]] == names


def test_past_the_share_it_stops_and_says_everything(path):
    book = BadImages(path, max_share=0.1, num_images=5000)
    book.add(loaded(ENOUGH, *(f"{i}.png" for i in range(20))))
    with pytest.raises(DataError) as caught:
        book.add(loaded(4, "20.png"))
    message = str(caught.value)
    assert message.startswith("21 of 204 images read cannot be used (10.3%; at most 10.0% are allowed): ")
    for number in range(5):
        assert f"{number}.png (reason of {number}.png)" in message
    assert "5.png" not in message.replace("15.png", "")
    assert str(path) in message
    assert "max-bad-share" in message
    assert len(rows(path)) == 22


def test_it_waits_until_there_is_enough_to_judge(path):
    book = BadImages(path, max_share=0.1, num_images=5000)
    book.add(loaded(ENOUGH - 1, *(f"{i}" for i in range(150))))
    with pytest.raises(DataError):
        book.add(loaded(1))


def test_a_small_set_is_judged_when_it_has_been_read_once(path):
    book = BadImages(path, max_share=0.1, num_images=20)
    book.add(loaded(19, "a", "b", "c"))
    with pytest.raises(DataError, match="3 of 20"):
        book.add(loaded(1))


def test_exactly_the_share_is_allowed(path):
    BadImages(path, max_share=0.1).add(loaded(1000, *(f"{i}" for i in range(100))))
    BadImages(path, max_share=1.0).add(loaded(300, *["x"] * 300))
    BadImages(path, max_share=0.0).add(loaded(1000))
    with pytest.raises(DataError):
        BadImages(path, max_share=0.0).add(loaded(1000, "a"))


def test_going_on_from_a_checkpoint(path):
    """The counts are those of the checkpoint; the list keeps what came after it, still once."""
    book = BadImages(path, max_share=0.1)
    book.add(loaded(300, "a"))
    state = json.loads(json.dumps(book.state()))
    book.add(loaded(100, "b"))
    resumed = BadImages(path, max_share=0.1)
    resumed.load(state)
    assert (resumed.num_read, resumed.num_bad) == (300, 1)
    resumed.add(loaded(100, "b"))
    resumed.add(loaded(100, "c", "a"))
    assert [row[0] for row in rows(path)] == ["name", "a", "b", "c"]
    assert resumed.state() == {**state, "num_read": 500, "num_bad": 4, "first": resumed.state()["first"]}
    assert [name for name, _ in resumed.state()["first"]] == ["a", "b", "c"]


def test_a_full_disk_stops_no_run_and_hides_nothing(path, monkeypatch):
    book = BadImages(path, max_share=0.5)

    def refuse(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("builtins.open", refuse)
        book.add(loaded(100, "a"))
    assert book.num_bad == 1
    book.add(loaded(100, "a", "b"))  # met again when there is room
    assert [row[0] for row in rows(path)] == ["name", "a", "b"]


def test_two_processes_share_a_list(path):
    one, other = BadImages(path, max_share=0.5), BadImages(path, max_share=0.5)
    one.add(loaded(100, "a", "b"))
    other.add(loaded(100, "b", "c"))
    one.add(loaded(100, "c", "d"))
    other.add(loaded(100, "d", "a"))
    assert [row[0] for row in rows(path)] == ["name", "a", "b", "c", "d"]
