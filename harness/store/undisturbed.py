"""Steps that a signal's exception must not cut short: calls into libhdf5, two renames that belong together.

libhdf5 calls back into Python for every write. Ctrl-C that is raised there never reaches whoever called HDF5: h5py
drops it, and HDF5, which takes it for a failed write, tries again without end when it closes the file.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back what SIGINT and SIGTERM raise until the block has ended.

    Handlers are exchanged, and signals not blocked: a signal to the process may reach another thread, and Python
    would run its handler in this one all the same. Only the main thread runs handlers, and only it may do this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in HELD}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in raising:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
