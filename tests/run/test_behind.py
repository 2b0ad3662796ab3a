"""Comparisons one step behind, goldens and weights read ahead: the same results, and the same refusals."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from harness.errors import GoldenError, HarnessError
from harness.run import behind, decoder
from harness.run.behind import Backlog, Behind, ReadingAhead, one_thread
from harness.run.check import Checker
from harness.run.port import BUILT_IN, Call
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.run.weights import Weights

QUESTION = Question(precisions=("float64",), modes=("forward", "replay"), cases=("decode", "batch-left", "hello"))


class Session:
    replaying = True

    def __init__(self, refuses=False):
        self.seen, self.expected, self._refuses = [], [], refuses

    def __call__(self, name, value):
        self.seen.append(name)
        return value

    def goldens(self, stage):
        return {}

    def judge_by(self, rounding):
        raise AssertionError("nothing is lifted here")

    def absorb(self, stage, recorded):
        self.seen.append(stage)

    def expect(self, stage):
        self.expected.append((stage, threading.current_thread() is threading.main_thread()))
        if self._refuses:
            raise HarnessError("it is damaged", where="here", hint="fetch it again")


def call(session):
    return Call(None, None, None, None, session)


def test_one_piece_waits_and_all_are_done_in_their_order():
    backlog, session = Backlog(), Session()
    tap = backlog.call(call(session)).tap
    for stage in "abc":
        tap.absorb(stage, {})
        assert session.seen == list("abc"[: "abc".index(stage)])
    tap("logits", np.ones(1))
    assert session.seen == ["a", "b", "c", "logits"]
    tap.absorb("d", {})
    backlog.finish()
    assert session.seen[-1] == "d"


def test_outside_a_check_nothing_is_put_off():
    plain = call(lambda name, value: value)
    assert Backlog().call(plain) is plain


def test_what_goes_wrong_while_reading_ahead_is_said_where_it_is_asked_for():
    session = Session(refuses=True)
    tap = Behind(session, Backlog())
    with ThreadPoolExecutor(1) as thread:
        ReadingAhead(thread, False).expect([call(tap), call(lambda name, value: value)], "layers.1")
    assert session.expected == [("layers.1", False)], "and in another thread"
    with one_thread() as thread, pytest.raises(ZeroDivisionError):
        made = ReadingAhead(thread, False).each([lambda: 1, lambda: 1 // 0, lambda: 3])
        assert next(made) == 1
        next(made)


@pytest.mark.parametrize("wide", [False, True])
def test_what_is_read_ahead_has_the_width_of_the_check(wide):
    with one_thread() as thread:
        (made,) = ReadingAhead(thread, wide).each([lambda: jax.device_put(np.ones(1))])
    assert made.dtype == (np.float64 if wide else np.float32)


class Slow(Session):
    """It notes the thread that it is asked in, and waits before its first stage until it may go on."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()
        self.threads = set()

    def absorb(self, stage, recorded):
        assert self.may.wait(10)
        if stage == "wrong":
            raise ZeroDivisionError
        self.threads.add(threading.current_thread() is threading.main_thread())
        super().absorb(stage, recorded)


def test_in_a_thread_of_their_own_pieces_wait_up_to_a_number_of_bytes(monkeypatch):
    monkeypatch.setattr(behind, "WAITING", 100)
    session, piece = Slow(), {"q": np.zeros(49, np.uint8)}
    with one_thread() as thread:
        backlog = Backlog(1, thread=thread)
        tap = backlog.call(call(session)).tap
        for stage in "ab":
            tap.absorb(stage, piece)
        assert session.seen == [], "both wait, and nobody waits for them"
        session.may.set()
        for stage in "cde":
            tap.absorb(stage, piece)
            assert len(session.seen) >= "abcde".index(stage) - 1, "more than 100 bytes do not wait"
        backlog.finish()
    assert session.seen == list("abcde")
    assert session.threads == {False}


def test_what_goes_wrong_in_a_comparison_ends_the_run(monkeypatch):
    session = Slow()
    session.may.set()
    with one_thread() as thread:
        backlog = Backlog(1, thread=thread)
        backlog.call(call(session)).tap.absorb("wrong", {})
        with pytest.raises(ZeroDivisionError):
            backlog.finish()


def results(golden, checkpoint, question=QUESTION):
    with Checker(golden, checkpoint, BUILT_IN, question) as checker:
        return checker.run(question.precisions[0]).results


def test_reading_ahead_changes_no_figure(golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr(decoder, "LARGE_LAYER", 0)
    with monkeypatch.context() as at_once:
        at_once.setattr(ReadingAhead, "each", lambda self, items: (read() for read in items))
        at_once.setattr(ReadingAhead, "expect", lambda *_: None)
        usual = results(golden_path, checkpoint)
    threads = set()
    read = Weights.read

    def watched(self, *of):
        threads.add(threading.current_thread() is threading.main_thread())
        return read(self, *of)

    monkeypatch.setattr(Weights, "read", watched)
    assert results(golden_path, checkpoint) == usual
    assert threads == {True, False}


@pytest.mark.parametrize("modes", [("forward",), ("forward", "replay")])
def test_a_large_model_is_judged_as_a_small_one(golden_path, checkpoint, monkeypatch, modes):
    """Its kernels lie as in the checkpoint, and in forward alone its program selects nothing."""
    question = Question(precisions=("float64",), modes=modes, cases=("hello", "batch-left"))
    usual = results(golden_path, checkpoint, question)
    monkeypatch.setattr(decoder, "LARGE_LAYER", 0)
    large = results(golden_path, checkpoint, question)
    assert [(r.tap, r.mode, r.verdict) for r in large] == [(r.tap, r.mode, "match") for r in usual]


def test_a_damaged_array_is_refused_all_the_same(golden_path, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "LARGE_LAYER", 0)
    copy = tmp_path / "a.h5"
    shutil.copy(golden_path, copy)
    with Checker(golden_path, checkpoint, BUILT_IN, QUESTION) as checker:
        value = checker.golden.tap("hello", "layers.2.gate").tobytes()
    content = bytearray(copy.read_bytes())
    content[content.index(value)] ^= 1
    copy.write_bytes(content)
    with pytest.raises(GoldenError, match=r"sha256") as refusal:
        results(copy, checkpoint)
    assert "layers.2.gate" in refusal.value.where
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_in_forward_no_golden_is_rounded(golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr(GoldenSource, "_rounded", lambda *_: pytest.fail("a golden was rounded"))
    question = Question(precisions=("float32",), modes=("forward",), cases=("hello", "batch-left"))
    assert {result.verdict for result in results(golden_path, checkpoint, question)} == {"match"}
