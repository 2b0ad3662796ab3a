"""The terminal, or what stands in for one."""

from __future__ import annotations

import os
import sys

from rich.console import Console

WIDTH_OF_A_LOG = 120


def console(stderr: bool = False) -> Console:
    """A console on stdout or stderr; where there is no terminal, lines are as long as a log takes them."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_LOG
    # Names and texts from outside are what they are, and no markup.
    return Console(stderr=stderr, width=width, soft_wrap=False, markup=False, emoji=False)
