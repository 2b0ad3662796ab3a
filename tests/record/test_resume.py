"""Killed, interrupted, out of room, disturbed: the old golden stays, and the next run goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections import Counter

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.record, pytest.mark.usefixtures("few_draws")]

from harness.corpus import Corpus
from harness.entries import Prompt
from harness.errors import HarnessError, RecordError
from harness.record import layer_major, recorder, work
from harness.record.recorder import Options, Silent, record
from harness.record.work import Work
from harness.store import open_golden
from tests.forked import in_a_fork

UNITS = 6 * 3  # stages of the embedded checkpoint, prompts of the small corpus
AGAIN = Options(overwrite=True)


class Killed(BaseException):
    pass


class Listener(Silent):
    def __init__(self):
        self.notices, self.done = [], Counter()

    def notice(self, text):
        self.notices.append(text)

    def unit(self, stage, case, nbytes):
        self.done[stage, case] += 1


@pytest.fixture(scope="module")
def uninterrupted(tiny, small, few_draws, tmp_path_factory):
    return record(tiny, "t", small, str(tmp_path_factory.mktemp("whole") / "a.h5"))


@pytest.fixture(scope="module")
def old(tiny, few_draws, tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "a.h5"
    record(tiny, "t", Corpus((Prompt("old", "Hello", "old"),)), str(path), Options(level="logits"))
    return path


@pytest.fixture
def out(old, tmp_path):
    """A path with an old golden at it."""
    return shutil.copy(old, tmp_path / "a.h5")


def is_old(path):
    with open_golden(path) as golden:
        golden.verify()
        return [case.name for case in golden.manifest.cases] == ["old"]


def stop_after(monkeypatch, units):
    """From now on a recording dies once it has done so many units, or while it writes the golden."""
    save, count = Work.save, iter(range(1, UNITS + 1))

    def dying(self, stage, case, unit):
        size = save(self, stage, case, unit)
        if next(count) == units:
            raise Killed
        return size

    monkeypatch.setattr(Work, "save", dying)


@pytest.mark.parametrize("units", [1, 2, 3, 4, 9, UNITS - 1, UNITS])
def test_stopped_anywhere_it_goes_on_and_gives_the_same_golden(
    tiny, small, out, uninterrupted, units, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, units)
        record(tiny, "t", small, str(out), AGAIN)
    assert is_old(out)
    listener = Listener()
    summary = record(tiny, "t", small, str(out), AGAIN, listener)
    assert summary.id == uninterrupted.id
    assert summary.resumed == units
    assert listener.done.total() == UNITS - units, "what was done is not done again"
    assert any("going on" in notice for notice in listener.notices)
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.h5"], "nothing is left behind"


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def record_and_die(tiny, small, out, where):
    """In a process of its own: what is replaced stays replaced."""
    if where == "in the middle of a unit's file":
        counted, save = iter(range(100)), work.save_file

        def half(tensors, path, digests):
            save(tensors, path, digests)
            if next(counted) == 8:
                os.truncate(path, path.stat().st_size // 2)
                die()

        work.save_file = half
    elif where == "in the middle of the golden":
        arrays = recorder.golden_arrays

        def some(*args):
            for index, array in enumerate(arrays(*args)):
                if index == 20:
                    die()
                yield array

        recorder.golden_arrays = some
    elif where == "after the golden, before the work is removed":
        Work.finish = die
    record(tiny, "t", small, str(out), AGAIN)


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("in the middle of a unit's file", 10),
        ("in the middle of the golden", 0),
        ("after the golden, before the work is removed", 0),
    ],
)
def test_killed_by_sigkill_it_goes_on_and_gives_the_same_golden(tiny, small, out, uninterrupted, where, left):
    killed = in_a_fork(lambda: record_and_die(tiny, small, out, where))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if "before the work" not in where:
        assert is_old(out)
    listener = Listener()
    assert record(tiny, "t", small, str(out), AGAIN, listener).id == uninterrupted.id
    assert listener.done.total() == left
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.h5"]


def flipped(data):
    """One bit of the last value: the file is as long as its header says, and every value is a number."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", flipped], ids=["cut", "empty", "bit"]
)
def test_a_damaged_unit_is_done_again(tiny, small, out, uninterrupted, monkeypatch, damage):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 10)
        record(tiny, "t", small, str(out), AGAIN)
    (damaged,) = (out.with_name("a.h5.partial") / "units" / "layers.0").glob("residual.*")
    damaged.write_bytes(damage(damaged.read_bytes()))
    listener = Listener()
    assert record(tiny, "t", small, str(out), AGAIN, listener).id == uninterrupted.id
    assert listener.done["layers.0", "residual"] == 1
    assert listener.done.total() == UNITS - 10 + 1


@pytest.mark.parametrize("change", ["corpus", "option", "checkpoint"])
def test_work_under_other_settings_is_discarded_with_a_notice(tiny, small, out, monkeypatch, change, shallow_copy):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 7)
        record(tiny, "t", small, str(out), AGAIN)
    listener = Listener()
    other = {
        "corpus": (
            tiny,
            "t",
            Corpus((*small.prompts[:2], Prompt("shallow", "The", "changed", level="logits"))),
            AGAIN,
        ),
        "option": (tiny, "t", small, Options(level="layers", overwrite=True)),
        "checkpoint": (
            shallow_copy(layers=4, weights=lambda w: w["lm_head.weight"].__setitem__(0, 1)),
            "t",
            small,
            AGAIN,
        ),
    }
    directory, name, corpus, options = other[change]
    summary = record(directory, name, corpus, str(out), options, listener)
    assert summary.resumed == 0 and listener.done.total() == UNITS
    assert any("discarding unfinished work" in notice for notice in listener.notices)


def test_two_recordings_to_one_path_are_refused_and_the_first_is_not_disturbed(tiny, small, out, uninterrupted):
    refusals = []

    class Second(Listener):
        def unit(self, stage, case, nbytes):
            super().unit(stage, case, nbytes)
            if self.done.total() == 5:
                with pytest.raises(RecordError, match="another recording") as refusal:
                    record(tiny, "t", small, str(out), AGAIN)
                refusals.append(refusal.value)

    assert record(tiny, "t", small, str(out), AGAIN, Second()).id == uninterrupted.id
    assert len(refusals) == 1 and "--out" in refusals[0].hint


def test_work_for_a_url_lies_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Work("gs://bucket/folder/name.zarr").locked():
        assert (tmp_path / "name.zarr.partial").is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [3_000, 100_000], ids=["for no unit", "for units but not for the golden"])
def test_a_full_disk_leaves_the_old_golden_and_the_work(tiny, small, out, uninterrupted, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # no file may grow beyond it
    try:
        with pytest.raises(HarnessError) as refusal:
            record(tiny, "t", small, str(out), AGAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal.value.hint
    assert is_old(out)
    assert record(tiny, "t", small, str(out), AGAIN).id == uninterrupted.id


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tiny, small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(layer_major, "compute", lambda *_: pytest.fail("work was done"))
    with pytest.raises(HarnessError):
        record(tiny, "t", small, str(tmp_path / "file" / "a.h5"))
    with pytest.raises(HarnessError):
        record(tiny, "t", small, str(tmp_path / "a.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_settings_file_says_what_the_work_is_for(tiny, small, out, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 1)
        record(tiny, "t", small, str(out), AGAIN)
    settings = json.loads((out.with_name("a.h5.partial") / "settings.json").read_text())
    assert settings["golden"]["command"].startswith("generate_goldens.py --model t")
    assert not settings["golden"]["arrays"]
