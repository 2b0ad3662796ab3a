"""The terminal, or what stands in for one: what is printed there, and how far a command is.

While a port runs, stdout is stderr: what a port prints, from Python or below, is never part of the data. A port
may also close what it prints to. Both streams, and the descriptors below them, are there again afterwards.

Progress is on stderr: a bar on a terminal; elsewhere a plain line now and then, when a step takes long.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from harness.run import progress as run

if TYPE_CHECKING:
    from rich.progress import TaskID

    from harness.report.reading import Document

WIDTH_OF_A_LOG = 120
# In a log: seconds between two lines, and before the first one.
QUIET_SECONDS = 30.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Not rich's own end, exit code 1, which means "diverged" here."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # Python writes there what is left
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(stderr: bool = False) -> Console:
    """A console on stdout or stderr; where there is no terminal, lines are as long as a log takes them."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_LOG
    # Names and texts from outside are what they are, and no markup.
    return _Console(stderr=stderr, width=width, soft_wrap=False, markup=False, emoji=False)


def show(document: Document, asked: Mapping[str, Path]) -> None:
    """What a command has found: in the files that were asked for, and for whoever reads the terminal.

    Args:
        asked: by view, the file it goes to; where one is stdout, the terminal's text is on stderr.
    """
    from harness.report.pages import page_of
    from harness.report.terminal import print_page

    on_stderr = False
    if asked:
        from harness.report.output import STDOUT
        from harness.report.views import write_views

        write_views(document, asked)
        on_stderr = STDOUT in asked.values()
    print_page(page_of(document, "screen"), console(on_stderr))


class _Unclosable:
    """A stream that a port can write to, and not close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send stdout to stderr for as long as the block runs, for Python's `sys.stdout` and for descriptor 1."""
    ours, errors = sys.stdout, sys.stderr
    ours.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    shared: Any = _Unclosable(errors)
    try:
        os.dup2(2, 1)
        sys.stdout = sys.stderr = shared
        yield
    finally:
        if not errors.closed:
            errors.flush()
        ctypes.CDLL(None).fflush(None)  # what C code has printed and its library still holds
        for descriptor, copy in enumerate(kept, 1):
            os.dup2(copy, descriptor)
            os.close(copy)
        sys.stdout, sys.stderr = _open(ours, 1), _open(errors, 2)


def _open(stream: Any, descriptor: int) -> Any:
    """The stream, or where it was closed after all, another one on its descriptor."""
    return open(descriptor, "w", closefd=False) if stream.closed else stream


class Progress(run.Progress):
    """What is being done and how far it is, in units that are counted, never guessed."""

    def __init__(self) -> None:
        from rich import progress as bars

        self._console = console(stderr=True)
        self._on_terminal = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._bars = bars.Progress(
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[at]}", markup=False),
            bars.TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._on_terminal,
        )
        self._task: TaskID | None = None
        self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, step: str, total: int | None = None) -> None:
        """A new step, of that many units where their number is known."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(step, total=total, at="")
        self._say()

    def advance(self, at: str) -> None:
        """One unit of the step; `at` says which."""
        assert self._task is not None, "begin() comes first"
        self._bars.update(self._task, advance=1, at=at)
        self._say()

    def _say(self) -> None:
        if self._on_terminal or time.monotonic() - self._spoken < QUIET_SECONDS:
            return
        self._spoken = time.monotonic()
        task = self._bars.tasks[-1]
        at = f", {task.fields['at']}" if task.fields["at"] else ""
        count = f": {task.completed:,.0f} of {task.total:,.0f}{at}" if task.total else ""
        self._console.print(f"{task.description}{count}", highlight=False, markup=False, soft_wrap=True)
