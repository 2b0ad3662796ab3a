"""The terminal, or what stands in for one."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from harness.report.reading import Document

WIDTH_OF_A_LOG = 120


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


def show(found: Document, asked: Mapping[str, Path]) -> None:
    """What a command has found: in the files that were asked for, and for whoever reads the terminal.

    Args:
        asked: by view, the file it goes to; where one is stdout, the terminal's text is on stderr.
    """
    from harness.report.output import STDOUT
    from harness.report.views import print_document, write_views

    write_views(found, asked)
    print_document(found, console(stderr=STDOUT in asked.values()))
