"""While a port runs, stdout is stderr: what a port prints, from Python or below, is never part of the data.

A port may also close what it prints to. Both streams, and the descriptors below them, are there again afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any


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
