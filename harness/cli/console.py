"""The terminal, or what stands in for one."""

from __future__ import annotations

import errno
import os
import sys

from rich.console import Console

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
