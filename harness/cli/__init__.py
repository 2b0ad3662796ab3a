"""The command line: the group of all commands, what they refuse, and with which exit code.

Imports happen inside commands, so that help is instant.

CI systems and supervisors end a job with SIGTERM; by default a process is then gone at once, and a temporary
worktree stays in the user's repository. So SIGTERM is an exception here, and what a command has made for itself is
removed on the way out, as on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import click

from harness import __version__
from harness.errors import HarnessError

COMMANDS = {name: f"{name}_command:{name}" for name in ("audit", "check", "diagnose", "diff", "port", "record")}
COMMANDS |= {name: f"reading_commands:{name}" for name in ("report", "show", "verify")}
COMMANDS["list"] = "reading_commands:list_"
MATCH, DIVERGED, COULD_NOT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# What becomes of a stream whose disk is full, or that nobody reads any more.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


class Terminated(BaseException):
    """SIGTERM has come. Like KeyboardInterrupt it is no `Exception`: nobody goes on after it."""


@contextlib.contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM arrives, once; a second one does not cut the cleaning up short.

    Only where nobody else has decided what SIGTERM does, and in the main thread, which alone can say so. Ctrl-C
    raises what it always does. Either is remembered: see `as_signalled`.
    """
    _ARRIVED.clear()
    usual: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])


@contextlib.contextmanager
def as_signalled() -> Iterator[None]:
    """Raise what a signal raised, where a library has put an error of its own in its place; safetensors does."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except Exception as error:
        if _ARRIVED:
            raise _ARRIVED[-1] from error
        raise


_ARRIVED: list[type[BaseException]] = []


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    _ARRIVED.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    raise _ARRIVED[-1]


def command(name: str) -> click.Command:
    """One of the commands, imported."""
    module, _, function = COMMANDS[name].partition(":")
    imported: click.Command = getattr(importlib.import_module(f"harness.cli.{module}"), function)
    return imported


class _Refusing(click.Group):
    """A group whose commands refuse: a HarnessError is its message on stderr, and exit code 2.

    Python would exit with 1 on anything that it does not expect, and 1 means "diverged" here; so that is 2 too.
    A command is imported when it is asked for.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        return command(cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with raising_on_signals(), as_signalled():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(INTERRUPTED)
        except Terminated:
            _say("terminated")
            ctx.exit(TERMINATED)
        except HarnessError as error:
            if os.environ.get("GOLDENS_TRACEBACK"):
                _say(traceback.format_exc())
            _say(f"error: {error}")
            ctx.exit(COULD_NOT)
        except SystemExit as error:  # commands end by `Exit`: this one is somebody else's, such as a port's thread
            _say(f"error: something ended the process: SystemExit({error.code!r})")
            ctx.exit(COULD_NOT)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                _forget_what_is_left()
                _say(f"error: what this command prints cannot be written: {error.strerror}\n\n{ELSEWHERE}")
            else:
                _say(traceback.format_exc())
                _say("error: this is a bug in goldens, not an answer about the port")
            ctx.exit(COULD_NOT)


ELSEWHERE = "hint: make room where its output goes, or send it somewhere else"


def _say(text: str) -> None:
    """On stderr, where that can be written; the exit code says the same in any case."""
    try:
        click.echo(text, err=True)
    except OSError:
        sys.stderr = _nowhere()


def _forget_what_is_left() -> None:
    """Of stdout, where it cannot be written: Python would try again, and end with an exit code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


@click.group(cls=_Refusing, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="goldens")
def cli() -> None:
    """Check a JAX port of a PyTorch model against recorded goldens, without PyTorch.

    Exit codes: 0 match, 1 diverged, 2 could not check; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
    """
