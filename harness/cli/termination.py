"""SIGTERM as an exception, so that what a command has made for itself is removed on the way out, as on Ctrl-C.

CI systems and supervisors end a job with SIGTERM; by default a process is then gone at once, and a temporary
worktree stays in the user's repository.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """SIGTERM has come. Like KeyboardInterrupt it is no `Exception`: nobody goes on after it."""


@contextlib.contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM arrives, once; a second one does not cut the cleaning up short.

    Only where nobody else has decided what SIGTERM does, and in the main thread, which alone can say so.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not ours:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise Terminated
