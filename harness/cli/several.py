"""A command as one process of several: whatever ends it ends the others too, and none of them reports a match."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from harness.cli.group import COULD_NOT, INTERRUPTED, TERMINATED
from harness.cli.termination import Terminated
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.run.processes import Processes

ENDING = threading.Lock()
EXIT = os._exit  # while a port runs, another function is in its place


@contextlib.contextmanager
def taking_part(asked: Processes | None) -> Iterator[None]:
    """Join the other processes for as long as the block runs; None is a command on its own.

    An exception in the block ends this process at once: a usual end would wait for the others, which wait for it.
    They find their connection to it closed, and end as well.
    """
    if asked is None:
        yield
        return
    from harness.run.processes import join, leave, lifeline

    def end(error: BaseException) -> NoReturn:
        _end(asked, error)

    try:
        join(asked, end)
        with lifeline(asked, end):
            yield
        leave()
    except BaseException as error:
        end(error)


def _end(asked: Processes, error: BaseException) -> NoReturn:
    """Say why, and be gone."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        interrupted = isinstance(error, KeyboardInterrupt)
        said, code = ("interrupted", INTERRUPTED) if interrupted else ("terminated", TERMINATED)
    elif isinstance(error, HarnessError):
        whole = traceback.format_exc() if os.environ.get("GOLDENS_TRACEBACK") else ""
        said, code = f"{whole}error: {error}", COULD_NOT
    else:
        said = "\n".join(traceback.format_exception(error))
        code = COULD_NOT
    ENDING.acquire()  # and never released: the first reason is the one that is told
    with contextlib.suppress(OSError):
        click.echo(f"process {asked.index} of {asked.count}: {said}", err=True)
        sys.stderr.flush()
    EXIT(code)
