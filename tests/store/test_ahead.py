"""Reading ahead: fewer waits, the same blobs, and never more bytes at hand than is said."""

import pytest

from harness.errors import GoldenError
from harness.store import files as module
from harness.store import open_golden
from harness.store.files import ReadAhead
from tests.store import places


class Blobs:
    """Blobs that are their own path ten times over; `asked` has what was asked for together."""

    at_once = 4
    nbytes = None

    def __init__(self):
        self.asked = []

    def paths(self):
        return iter(())

    def refuse_no_bucket(self):
        pass

    def read(self, path, limit):
        self.asked.append([path])
        return path.encode() * 10

    def read_many(self, wanted):
        self.asked.append([path for path, _ in wanted])
        return [FileNotFoundError(path) if path == "z" else path.encode() * 10 for path, _ in wanted]


def reader(monkeypatch, held=30):
    monkeypatch.setattr(module, "HELD_BYTES", held)
    blobs = Blobs()
    return blobs, ReadAhead(blobs)


def walk(files, names):
    return [files.read(name, 10) for name in files.ahead(names, lambda name: [(name, 10)])]


def test_blobs_come_in_order_a_bounded_number_of_bytes_at_a_time(monkeypatch):
    blobs, files = reader(monkeypatch)
    assert walk(files, "abcdefg") == [name.encode() * 10 for name in "abcdefg"]
    assert blobs.asked == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_a_blob_larger_than_what_may_be_held_comes_alone(monkeypatch):
    blobs, files = reader(monkeypatch, held=5)
    walk(files, "ab")
    assert blobs.asked == [["a"], ["b"]]


def test_where_nothing_is_gained_nothing_is_read_ahead(monkeypatch):
    blobs, files = reader(monkeypatch)
    blobs.at_once = 1
    walk(files, "abc")
    assert blobs.asked == [["a"], ["b"], ["c"]]


def test_what_is_held_is_handed_out_once_and_not_fetched_again(monkeypatch):
    blobs, files = reader(monkeypatch)
    assert next(files.ahead("ab", lambda name: [(name, 10)])) == "a"
    assert walk(files, "b") == [b"b" * 10]
    assert blobs.asked == [["a", "b"]]
    files.read("b", 10)
    assert blobs.asked == [["a", "b"], ["b"]]


def test_what_nobody_asked_for_is_let_go_of_when_there_is_no_room(monkeypatch):
    _, files = reader(monkeypatch)
    for names in ("abc", "def", "ghi"):
        next(files.ahead(names, lambda name: [(name, 10)]))
        assert len(files._held) <= 3
    assert set(files._held) == set("ghi")


def test_what_is_wrong_with_a_blob_is_told_when_it_is_read(monkeypatch):
    _, files = reader(monkeypatch)
    pieces = files.ahead("az", lambda name: [(name, 10)])
    assert files.read(next(pieces), 10)
    with pytest.raises(FileNotFoundError):
        files.read(next(pieces), 10)


def test_a_damaged_blob_that_came_along_is_refused_by_its_own_name(tmp_path):
    place = places.make("zarr-memory-url", tmp_path)
    place.lay()
    name, _ = place.data_of("cases/two-tokens/taps/logits", 3)
    place.put(name, bytes(len(place.blobs()[name])))
    with open_golden(place.path) as golden:
        golden.tap("two-tokens", "final_norm")
        with pytest.raises(GoldenError, match="sha256") as caught:
            golden.tap("two-tokens", "logits")
    assert "logits" in caught.value.where
