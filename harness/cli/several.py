"""A command as one process of several: whatever ends it ends the others too, and none of them reports a match."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import click

from harness.cli import COULD_NOT, INTERRUPTED, TERMINATED, Terminated
from harness.errors import HarnessError, UsageError
from harness.run.processes import OPTIONS, Processes, join, leave, lifeline, processes_of
from harness.run.question import Axes

ENDING = threading.Lock()
EXIT = os._exit  # while a port runs, another function is in its place


def one_of_several(count: int | None, index: int | None, coordinator: str | None, mesh: Axes) -> Processes:
    """Which of how many processes this one is, by the options, of which at least one is given.

    Raises:
        UsageError: as `processes_of`, or there is no mesh.
    """
    several = processes_of(count, index, coordinator)
    assert several is not None
    if not mesh:
        problem = "in several processes a port needs a mesh of their devices"
        expected = "--mesh with as many devices as the processes have together"
        raise UsageError(problem, str(several), expected, hint=f"for example --mesh data=2,model=4 {OPTIONS}")
    return several


@contextlib.contextmanager
def taking_part(asked: Processes) -> Iterator[None]:
    """Join the other processes for as long as the block runs.

    An exception in the block ends this process at once: a usual end would wait for the others, which wait for it.
    They find their connection to it closed, and end as well.
    """
    end = partial(_end, asked)
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
