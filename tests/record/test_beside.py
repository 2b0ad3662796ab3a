"""What a recording does beside its passes: saved in order, stopped by a failure, never more than one ahead."""

from __future__ import annotations

import threading
from functools import partial

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.corpus import Corpus
from harness.entries import Prompt
from harness.errors import RecordError
from harness.record import layer_major
from harness.record.beside import Beside, ahead
from harness.record.layer_major import Handed
from harness.record.recorder import Options, Silent, record
from harness.store import open_golden


def test_what_is_done_beside_is_told_here_in_order():
    told = []
    with Beside() as beside:
        for number in range(3):
            beside.do(
                lambda number=number: (number, threading.current_thread() is threading.main_thread()),
                lambda done: told.append((*done, threading.current_thread() is threading.main_thread())),
            )
        assert [number for number, *_ in told] == [0, 1]
        beside.finish()
    assert told == [(number, False, True) for number in range(3)]


def test_after_a_failure_nothing_more_is_done():
    done = []
    with Beside() as beside, pytest.raises(ZeroDivisionError):
        beside.do(lambda: 1 // 0, done.append)
        beside.do(lambda: 2, done.append)
    assert done == []


def test_one_item_is_made_ahead_and_the_maker_is_closed():
    made, closed = [], []

    def items():
        try:
            for number in range(5):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    taken = ahead(items())
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert made[:2] == [0, 1] and len(made) <= 3 and closed
    assert list(ahead(items())) == list(range(5))


def test_what_a_maker_raises_comes_out():
    def items():
        yield 1
        raise RecordError("damaged", where="here", hint="again")

    with pytest.raises(RecordError, match="damaged"):
        list(ahead(items()))


def test_states_that_memory_has_no_room_for_are_read_again(tiny, small, tmp_path, monkeypatch):
    kept = record(tiny, "t", small, str(tmp_path / "a.h5")).id
    monkeypatch.setattr(layer_major, "Handed", partial(Handed, 0))
    assert record(tiny, "t", small, str(tmp_path / "b.h5")).id == kept


def test_a_unit_that_is_damaged_before_it_is_written_is_refused_and_done_again(tiny, tmp_path):
    corpus, out = Corpus((Prompt("deep", "The quick brown fox", "why"),)), tmp_path / "a.h5"

    class Damaging(Silent):
        def notice(self, text):
            if text.startswith("writing"):
                (unit,) = (tmp_path / "a.h5.partial" / "units" / "layers.1").iterdir()
                content = bytearray(unit.read_bytes())
                content[len(content) // 3] ^= 1  # hidden states come first, of which there is little, then truth
                unit.write_bytes(content)

    with pytest.raises(RecordError, match="missing or damaged") as refusal:
        record(tiny, "t", corpus, str(out), progress=Damaging())
    assert "run the same command again" in refusal.value.hint and not out.exists()
    resumed = record(tiny, "t", corpus, str(out))
    assert resumed.resumed == resumed.units - 1
    with open_golden(out) as golden:
        golden.verify()
    assert resumed.id == record(tiny, "t", corpus, str(out), Options(overwrite=True)).id
