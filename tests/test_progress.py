"""Progress on stderr: counted, silent in a log unless it takes long, without escape codes there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from harness.cli import console as module
from harness.run.check import Checker
from harness.run.progress import Prefixed
from harness.run.question import Question
from tests import zygote

CHECK = [sys.executable, "-m", "harness.cli", "check", "--precision", "float32", "--case", "digits"]


class Told:
    """Keeps what it is told."""

    def __init__(self):
        self.steps: list[tuple[str, int | None]] = []
        self.units: list[str] = []

    def begin(self, step, total=None):
        self.steps.append((step, total))

    def advance(self, at):
        self.units.append(at)


def test_every_comparison_is_counted_and_their_number_was_known_before(golden_path, checkpoint):
    told = Told()
    question = Question(precisions=("float32",), cases=("digits", "hello"))
    with Checker(golden_path, checkpoint, "harness.run.decoder:Decoder", question) as checker:
        results = checker.run("float32", progress=told).results
    assert told.steps == [("float32: loading the port", None), ("float32", len(results))]
    assert told.units == [f"{r.tap} in {r.case}, {r.mode}" for r in results]


def test_a_step_says_whose_it_is():
    told = Told()
    prefixed = Prefixed(told, "git:main")
    prefixed.begin("float32", 3)
    prefixed.advance("here")
    assert (told.steps, told.units) == ([("git:main: float32", 3)], ["here"])


def test_a_log_hears_nothing_of_what_is_quick(capsys):
    with module.Progress() as progress:
        progress.begin("verify", 2)
        progress.advance("a")
        progress.advance("b")
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_plain_line_where_it_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with module.Progress() as progress:
        progress.begin("loading")
        progress.begin("float32", 2000)
        progress.advance("layers.0.q in code, replay")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "loading",
        "float32: 0 of 2,000",
        "float32: 1 of 2,000, layers.0.q in code, replay",
    ]


def on_terminal(**environment: str) -> tuple[str, str]:
    """(stdout, what a terminal on stderr received) of a check."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **environment}
    with zygote.Popen(CHECK, stdout=subprocess.PIPE, stderr=slave, env=environment) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            seen += chunk
        out = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    return out.decode(), seen.decode()


def test_a_terminal_sees_comparisons_of_how_many_and_stdout_stays_data():
    out, seen = on_terminal()
    assert "/134" in seen
    assert "PASS" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_is_left_out_where_it_is_not_wanted(environment):
    _, seen = on_terminal(**environment)
    assert "\x1b[3" not in seen
    assert "\x1b[1;3" not in seen
    if "TERM" in environment:
        assert seen == ""
