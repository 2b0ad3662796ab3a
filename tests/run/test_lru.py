from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from harness.run import check as checking
from harness.run.check import Checker
from harness.run.question import Question
from harness.run.source import CachedArrays, GoldenSource
from harness.store import Golden, open_golden

CASES = ("one-to-five", "batch-left")


@pytest.fixture
def reads(monkeypatch):
    """How often each (case, tap) of a golden was read."""
    counted: Counter[tuple[str, str]] = Counter()
    read = Golden.tap

    def tap(self, case, name):
        counted[case, name] += 1
        return read(self, case, name)

    monkeypatch.setattr(Golden, "tap", tap)
    return counted


def run(golden_path, checkpoint, port, cases=CASES):
    question = Question(precisions=("float32",), cases=cases, modes=("forward", "replay"))
    with Checker(golden_path, checkpoint, f"tests.run.ports:{port}", question) as one:
        one.run("float32")
        return {(case.name, tap) for case in one.cases for tap in case.taps}


@pytest.mark.parametrize("port", ["Wrapped", "LayerMajor"])
def test_forward_and_replay_read_each_golden_once(golden_path, checkpoint, reads, port):
    expected = run(golden_path, checkpoint, port)
    assert reads == dict.fromkeys(expected, 1)


def test_layer_by_layer_one_layer_of_one_case_is_enough_memory(golden_path, checkpoint, reads, monkeypatch):
    sizes = {}
    read = Golden.tap

    def tap(self, case, name):
        value = read(self, case, name)
        stage = name.rpartition(".")[0]
        sizes[case, stage] = sizes.get((case, stage), 0) + value.nbytes
        return value

    monkeypatch.setattr(Golden, "tap", tap)
    run(golden_path, checkpoint, "LayerMajor")
    reads.clear()
    monkeypatch.setattr(checking, "GoldenSource", partial(checking.GoldenSource, keep=max(sizes.values())))
    expected = run(golden_path, checkpoint, "LayerMajor")
    assert {name: count for name, count in reads.items() if "layers." in name[1]} == dict.fromkeys(
        (name for name in expected if "layers." in name[1]), 1
    )


def test_the_values_of_a_case_are_not_kept_for_the_next_precision(golden_path, checkpoint, reads):
    question = Question(precisions=("float32", "bfloat16"), cases=("digits",))
    with Checker(golden_path, checkpoint, "tests.run.ports:Wrapped", question) as one:
        for precision in question.precisions:
            one.run(precision)
        first = one.source("float32")
        before = reads["digits", "embed"]
        first.truth("digits", "embed")
    assert reads["digits", "embed"] == before + 1


def counted(most):
    made: list[str] = []

    def make(name):
        made.append(name)
        return np.zeros(int(name[1:]), np.uint8)

    return CachedArrays(make, most), made


def test_the_latest_are_kept_and_the_oldest_released_first():
    recent, made = counted(8)
    for name in ("a4", "b4", "a4", "c4", "a4", "b4"):
        assert recent(name).nbytes == 4
    assert made == ["a4", "b4", "c4", "b4"]


def test_one_that_is_too_large_is_not_kept_and_drives_nothing_out():
    recent, made = counted(8)
    for name in ("a4", "b9", "b9", "a4"):
        recent(name)
    assert made == ["a4", "b9", "b9"]


def test_what_is_forgotten_is_made_again():
    recent, made = counted(8)
    recent("a8")
    recent.forget()
    recent("a8")
    recent("a8")
    assert made == ["a8", "a8"]


def test_what_is_kept_is_given_while_another_is_made_and_two_who_ask_for_one_make_it_once():
    asked, goes_on = threading.Event(), threading.Event()
    made = []

    def make(name):
        made.append(name)
        if name == "slow":
            asked.set()
            assert goes_on.wait(10)
        return np.zeros(1)

    recent = CachedArrays(make, 1 << 10)
    kept = recent("kept")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recent, "slow")
        assert asked.wait(10)
        assert recent("kept") is kept, "though the other is not there yet"
        second = pool.submit(recent, "slow")
        goes_on.set()
        assert first.result() is second.result()
    assert made == ["kept", "slow"]


def test_what_cannot_be_made_is_said_to_all_who_ask_and_is_tried_again():
    def make(name):
        raise ZeroDivisionError

    recent = CachedArrays(make, 8)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            recent("a")


def test_it_is_known_which_tokens_are_calls_of_their_own(golden_path):
    with open_golden(golden_path) as golden:
        source = GoldenSource(golden, "float32")

        def single(case):
            noise = source.noise(golden.manifest.case(case), "forward", "layers.0.q")
            return noise.single.astype(int).tolist()

        assert single("hello") == [[1]]
        assert single("decode") == [[0] * 9 + [1] * 8]
        assert single("chunked") == [[0] * 16 + [1] * 2]
        assert not np.any(single("batch-decode"))
