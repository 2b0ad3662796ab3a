"""While a port runs, stdout is stderr: what a port prints, from Python or below, is never part of the data."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send stdout to stderr for as long as the block runs, for Python's `sys.stdout` and for descriptor 1."""
    ours = sys.stdout
    ours.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)  # what C code has printed and its library still holds
        sys.stdout = ours
        os.dup2(kept, 1)
        os.close(kept)
