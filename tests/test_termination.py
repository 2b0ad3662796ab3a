"""SIGTERM ends a command as Ctrl-C does, where nobody else has decided what it does; neither is lost."""

from __future__ import annotations

import os
import signal
import threading

import click
import pytest
from click.testing import CliRunner

from harness.cli import Terminated, cli, raising_on_signals


@pytest.fixture(autouse=True)
def default():
    """These tests begin as a process does; afterwards everything is as it was."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_under_way_is_cleaned_up_and_a_second_sigterm_does_not_cut_that_short():
    cleaned = []
    with pytest.raises(Terminated), raising_on_signals():
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


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "terminated\n"), (signal.SIGINT, 130, "interrupted\n")]
)
def test_a_library_that_puts_an_error_of_its_own_in_its_place_does_not_hide_it(monkeypatch, number, code, said):
    def reads():
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            raise ValueError("the tensor cannot be read") from None

    monkeypatch.setitem(cli.commands, "reads", click.Command("reads", callback=reads))
    result = CliRunner().invoke(cli, ["reads"])
    assert (result.exit_code, result.stderr) == (code, said)
    monkeypatch.setitem(cli.commands, "fails", click.Command("fails", callback=lambda: 1 / 0))
    assert CliRunner().invoke(cli, ["fails"]).exit_code == 2  # that was another time


def test_a_handler_that_is_there_stays_and_is_the_one_that_is_called():
    heard = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    assert handler is signal.SIG_DFL
    with raising_on_signals():
        terminate()
    assert heard == [signal.SIGTERM]


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with raising_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
