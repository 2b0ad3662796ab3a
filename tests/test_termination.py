"""SIGTERM ends a command as Ctrl-C does, where nobody else has decided what it does."""

from __future__ import annotations

import os
import signal
import threading

import click
import pytest
from click.testing import CliRunner

from harness.cli import Terminated, cli, raising_on_sigterm


@pytest.fixture(autouse=True)
def default():
    """These tests begin as a process does; afterwards everything is as it was."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_under_way_is_cleaned_up_and_a_second_sigterm_does_not_cut_that_short():
    cleaned = []
    with pytest.raises(Terminated), raising_on_sigterm():
        try:
            terminate()
        finally:
            terminate()
            cleaned.append("all of it")
    assert cleaned == ["all of it"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_command_exits_with_143_and_says_why(monkeypatch):
    monkeypatch.setitem(cli.commands, "waits", click.Command("waits", callback=terminate))
    result = CliRunner().invoke(cli, ["waits"])
    assert result.exit_code == 143
    assert result.stderr == "terminated\n"


def test_a_handler_that_is_there_stays_and_is_the_one_that_is_called():
    heard = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    assert handler is signal.SIG_DFL
    with raising_on_sigterm():
        terminate()
    assert heard == [signal.SIGTERM]


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with raising_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
