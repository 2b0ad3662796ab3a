"""A short, seeded part of every part of the campaign; at length it is `python -m tests.campaign`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.errors import CorpusError
from harness.layout import stack_path
from harness.store import abc, writer
from tests import zygote
from tests.campaign import damage, kills, trials
from tests.campaign.__main__ import PARTS
from tests.campaign.forked import forked, held
from tests.campaign.trials import BrokenClaimError, Campaign, Claim, Tried, attempt
from tests.store import places

TRIALS = {"kills": 6, "damage": 8, "goldens": 5, "reports": 5, "ports": 8, "inputs": 12}
TORCH = importlib.util.find_spec("torch") is not None
IMPORTED = zygote.RECORDING if TORCH else ()  # as in record/test_command.py: one server for both


def ran(part: str, trials: int) -> None:
    """In a process of its own: its children are forked before any other test has started a thread."""
    words = [sys.executable, "-m", "tests.campaign", part, "--trials", str(trials), "--seed", "20251125"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[1]
    how = {"capture_output": True, "text": True, "cwd": root, "env": offline, "timeout": 500}
    done = zygote.run([*words, "--seconds", "30"], imported=IMPORTED, **how)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.skipif(TORCH, reason="tried beside the recorder, below")
@pytest.mark.parametrize("part", PARTS)
def test_nothing_that_must_never_happen_happens(part):
    ran(part, TRIALS[part])


@pytest.mark.record
@pytest.mark.parametrize("part", ["kills", "damage", "inputs"])
def test_nor_does_it_where_torch_records(part):
    pytest.importorskip("torch")
    ran(part, 4)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (lambda: [][1], "IndexError"),
        (lambda: (_ for _ in ()).throw(SystemExit(0)), "SystemExit"),
        (lambda: (_ for _ in ()).throw(CorpusError("x" * 9999, hint="x")), "a message of "),
        (lambda: (_ for _ in ()).throw(CorpusError("x", hint="")), "no hint"),
    ],
)
def test_a_campaign_would_notice(action, says, monkeypatch):
    monkeypatch.setattr(trials, "CHARACTERS", 500)
    claim = Claim("a claim")
    attempt(claim, action, "the input")
    (failure,) = claim.failures
    assert says in failure


def grown() -> int:
    bytearray(b"x") * (600 << 20)
    return 0


def printed(text: str) -> int:
    sys.stdout.write(text)
    return 0


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (lambda: 3, "exit 3"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "exit -9"),
        (lambda: time.sleep(600), "no end within"),
        (lambda: printed("Traceback (most recent call last):"), "a traceback"),
        (grown, "memory grew by"),
    ],
)
def test_what_a_child_does_is_noticed(action, says):
    with pytest.raises(BrokenClaimError, match=says):
        held(forked(action, seconds=2 if says == "no end within" else 60))


class Flipped:
    """A damage that flips one bit of one array's data."""

    def __init__(self, kind, folder):
        self.blob, self.offset = places.make(kind, folder).data_of(stack_path("chunked", "embed"), 3)

    def apply(self, files):
        (path,) = [path for path in files if str(path).endswith(self.blob or ".h5")]
        data = bytearray(path.read_bytes())
        data[self.offset] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_a_wrong_value_that_is_read_would_be_noticed(tmp_path, monkeypatch, kind):
    pytest.importorskip("xarray")
    damaged = damage.Damaged(tmp_path)
    flipped = Flipped(kind, tmp_path / "whole")
    assert damaged.of_golden(kind)(flipped), "refused"
    monkeypatch.setattr(abc, "agree", lambda what, *_: None)
    with pytest.raises(BrokenClaimError, match=f"exit {damage.WRONG}"):
        damaged.of_golden(kind)(flipped)


def test_a_golden_that_is_written_in_place_would_be_noticed(tmp_path, monkeypatch):
    target = kills.written(tmp_path)
    half = kills.Fault("kill half-way", 0.5, "h5")
    target.disturbed(half)

    @contextlib.contextmanager
    def in_place(final, directory):
        yield final

    monkeypatch.setattr(writer, "publishing", in_place)
    with pytest.raises(BrokenClaimError, match="lost"):
        target.disturbed(half)


def test_what_there_is_is_tried_evenly_and_what_fails_is_shown_with_its_input(capsys):
    made, seen = Campaign(trials=3, seed=1, until=float("inf")), []

    def action(value):
        seen.append(value)
        assert value != 9

    made.try_all(Tried("a claim", range(10), action))
    assert seen == [0, 4, 9]
    assert made.failures == 1
    (failure,) = made.claims[0].failures
    assert "AssertionError" in failure and failure.endswith("9")
