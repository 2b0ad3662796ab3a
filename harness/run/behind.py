"""What computing leaves idle is used: goldens and weights are read ahead, and comparisons are a step behind.

JAX returns from a compiled function before its results are there. Whoever looks at them at once waits; whoever
looks at those of the call before has them already, and both cores are at work. So comparisons are put off, and
made in the order in which they would be made otherwise: of a large model by a thread of their own. Another thread
reads, verifies and converts what will be asked for next. What goes wrong in either is raised where it is awaited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from harness.errors import HarnessError
from harness.run.port import Call
from harness.run.tapping import Around, Session

T = TypeVar("T")
# Enough that a large model goes on computing a long prompt's next layer while that of the one before is compared.
WAITING = 64 * 2**20


class Backlog:
    """Work that is put off, and done in its order.

    Args:
        most: how many pieces may wait however large they are: each holds a stage's taps.
        alone: no call of this run is replayed.
        thread: does the work, from when it is put off, and `WAITING` bytes may wait for it; None: whoever puts off
            what follows does it.
    """

    def __init__(self, most: int = 1, alone: bool = False, thread: ThreadPoolExecutor | None = None) -> None:
        self._most, self._alone, self._thread = most, alone, thread
        self._bytes = 0 if thread is None else WAITING
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def call(self, call: Call) -> Call:
        """The call with a session that puts its comparisons off; outside a check the call itself."""
        return replace(call, tap=Behind(call.tap, self, self._alone)) if isinstance(call.tap, Session) else call

    def add(self, work: Callable[[], None], size: int) -> None:
        """Put this off, and see that what has waited for long enough is done.

        Args:
            size: bytes that it holds.
        """
        self._waiting.append((size, work if self._thread is None else self._thread.submit(work).result))
        while len(self._waiting) > self._most and sum(size for size, _ in self._waiting) >= self._bytes:
            self._waiting.popleft()[1]()

    def finish(self) -> None:
        """See that nothing is left."""
        while self._waiting:
            self._waiting.popleft()[1]()


class Behind(Around):
    """A session that takes over a stage's values when the next ones are being computed."""

    def __init__(self, session: Session, backlog: Backlog, alone: bool = False) -> None:
        super().__init__(session)
        self._backlog, self.alone = backlog, alone

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Compare a value at once, after those that came before it."""
        self._backlog.finish()
        return self._session(name, value)

    def expect(self, stage: str) -> None:
        """Read what the session will need of a stage, where it can; for another thread than the port's."""
        with suppress(HarnessError):  # said where it is asked for
            super().expect(stage)

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        size = sum(value.nbytes for value in recorded.values())
        self._backlog.add(partial(self._session.absorb, stage, recorded), size)


@contextmanager
def one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for the time of a block, which waits for what is under way and leaves what has not begun."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class ReadingAhead:
    """Reads ahead in another thread.

    Args:
        wide: whether arrays of JAX that it makes may have 64 bits: JAX's settings are each thread's own.
    """

    def __init__(self, thread: ThreadPoolExecutor, wide: bool) -> None:
        self._thread, self._wide = thread, wide

    def expect(self, calls: Sequence[Call], stage: str) -> None:
        """Have ready what these calls will need of a stage."""
        for call in calls:
            if isinstance(call.tap, Behind):
                self._thread.submit(call.tap.expect, stage)

    def each(self, items: Sequence[Callable[[], T]]) -> Iterator[T]:
        """What each of these returns, made while the one before it is used."""
        following = self._thread.submit(self._made, items[0])
        for n in range(len(items)):
            item = following.result()
            if n + 1 < len(items):
                following = self._thread.submit(self._made, items[n + 1])
            else:
                del following
            yield item
            del item

    def _made(self, item: Callable[[], T]) -> T:
        with jax.enable_x64(self._wide):
            return item()
