"""What comes out of a port is told apart: its exceptions and exits, ours that it wrapped, a real Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys

import pytest

from harness.errors import CheckpointError, PortError
from harness.run.contained import blaming_the_port, described


def raising(error):
    raise error


def interrupted_and(then):
    """Somebody presses Ctrl-C, and the port does something else about it."""
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        then()


def wrapping():
    try:
        raise CheckpointError("the checkpoint lacks a parameter", hint="copy it again")
    except Exception as error:
        raise RuntimeError("my model is broken") from error


@pytest.mark.parametrize(
    "error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), MemoryError(), KeyError("a")]
)
def test_whatever_is_raised_is_the_ports_with_its_own_line(error):
    with (
        pytest.raises(PortError, match=f"the port raised {type(error).__name__}") as caught,
        blaming_the_port("forward"),
    ):
        raising(error)
    assert caught.value.where.startswith("forward (")
    assert "test_contained.py:" in caught.value.where
    assert caught.value.__cause__ is error


def test_the_line_is_not_one_of_a_library():
    with pytest.raises(PortError) as caught, blaming_the_port("load"):
        json.loads("{")
    assert "test_contained.py:" in caught.value.where


@pytest.mark.parametrize("then", [lambda: None, lambda: sys.exit(0), lambda: raising(ValueError("no"))])
def test_an_interrupt_goes_through_whatever_the_port_makes_of_it(then):
    with pytest.raises(KeyboardInterrupt), blaming_the_port("forward"):
        interrupted_and(then)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_the_port_wrapped_is_shown_as_it_was():
    with pytest.raises(CheckpointError, match="lacks a parameter"), blaming_the_port("load"):
        wrapping()


def of_a_library(tmp_path, monkeypatch, handling):
    """A function of `optree`, as far as files say: it calls what it is given, and handles what that raises."""
    code = f"def call(one):\n    try:\n        one()\n    except Exception as error:\n        {handling}\n"
    (tmp_path / "framework.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "framework", raising=False)
    monkeypatch.setattr("harness.run.contained._library_folders", lambda: (str(tmp_path) + os.sep,))
    return importlib.import_module("framework").call


def refusing():
    raise CheckpointError("the checkpoint lacks a parameter", hint="copy it again")


@pytest.mark.parametrize(
    "handling",
    [
        "raise RuntimeError(f'in layer 3: {error}') from error",
        "raise RuntimeError(f'in layer 3: {error}').with_traceback(error.__traceback__) from None",
        "raise ExceptionGroup('in layer 3', [ValueError(1), error]) from None",
        "raise RuntimeError('a second') from ValueError('made up')",
    ],
)
def test_our_own_message_is_shown_whatever_a_framework_makes_of_it(handling, tmp_path, monkeypatch):
    call = of_a_library(tmp_path, monkeypatch, handling)
    with pytest.raises(CheckpointError, match="lacks a parameter"), blaming_the_port("forward"):
        call(refusing)


def dividing():
    return 1 // 0  # here


def line_of(function, after):
    return f"test_contained.py:{function.__code__.co_firstlineno + after}"


@pytest.mark.parametrize("copied", ["", ".with_traceback(error.__traceback__)"])
def test_the_line_is_the_models_own_where_a_framework_has_wrapped_what_it_raised(copied, tmp_path, monkeypatch):
    call = of_a_library(tmp_path, monkeypatch, f"raise RuntimeError(f'in layer 3: {{error}}'){copied} from None")
    with pytest.raises(PortError, match="ZeroDivisionError") as caught, blaming_the_port("forward"):
        call(dividing)
    assert line_of(dividing, 1) in caught.value.where


def test_the_line_is_the_ports_own_where_it_has_made_something_else_of_it():
    def reading():
        try:
            dividing()
        except ZeroDivisionError:
            raise ValueError("no such layer") from None

    with pytest.raises(PortError, match="no such layer") as caught, blaming_the_port("forward"):
        reading()
    assert line_of(reading, 4) in caught.value.where


def test_of_a_traceback_that_is_quoted_the_line_below_it_is_shown():
    quoted = "INTERNAL: callback: Traceback (most recent call last):\n  File ...\nValueError: no layer\n\nhint"
    assert described(RuntimeError(quoted)) == "RuntimeError: ValueError: no layer"
    assert described(RuntimeError("first\nsecond")) == "RuntimeError: first"


# A child that only ends has nothing to wait for.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_process_is_not_left_behind_our_back_but_a_forked_one_may_end():
    with pytest.raises(PortError, match="SystemExit"), blaming_the_port("forward"):
        os._exit(0)
    with blaming_the_port("forward"):
        child = os.fork()
        if child == 0:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_nothing_stays_behind():
    before = os._exit, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for error in (None, SystemExit(1)):
        with contextlib.suppress(PortError), blaming_the_port("forward"), blaming_the_port("inside"):
            if error is not None:
                raise error
    assert (os._exit, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
