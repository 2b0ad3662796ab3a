"""What computing leaves idle is used: goldens and weights are read ahead, and comparisons are a step behind.

JAX returns from a compiled function before its results are there. Whoever looks at them at once waits; whoever
looks at those of the call before has them already, and both cores are at work. All comparisons are made by the
thread that runs the port, in the order in which they would be made otherwise. A second thread reads, verifies and
converts what will be asked for next; what goes wrong in it is raised where that is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from harness.errors import HarnessError
from harness.run.port import Call
from harness.run.tapping import Around, Session

T = TypeVar("T")


class Backlog:
    """Work that is put off, and done in its order.

    Args:
        most: how many pieces may wait: each holds a stage's taps.
        alone: no call of this run is replayed.
    """

    def __init__(self, most: int = 1, alone: bool = False) -> None:
        self._most, self._alone = most, alone
        self._waiting: deque[Callable[[], None]] = deque()

    def call(self, call: Call) -> Call:
        """The call with a session that puts its comparisons off; outside a check the call itself."""
        return replace(call, tap=Behind(call.tap, self, self._alone)) if isinstance(call.tap, Session) else call

    def add(self, work: Callable[[], None]) -> None:
        """Put this off, and do what has waited for long enough."""
        self._waiting.append(work)
        while len(self._waiting) > self._most:
            self._waiting.popleft()()

    def finish(self) -> None:
        """Do what is left."""
        while self._waiting:
            self._waiting.popleft()()


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
        self._backlog.add(partial(self._session.absorb, stage, recorded))


class ReadingAhead:
    """A second thread that reads ahead; use it as a context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> ReadingAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def expect(self, calls: Sequence[Call], stage: str) -> None:
        """Have ready what these calls will need of a stage."""
        for call in calls:
            if isinstance(call.tap, Behind):
                self._pool.submit(call.tap.expect, stage)

    def each(self, items: Sequence[Callable[[], T]]) -> Iterator[T]:
        """What each of these returns, made while the one before it is used."""
        following = self._pool.submit(items[0])
        for n in range(len(items)):
            item = following.result()
            if n + 1 < len(items):
                following = self._pool.submit(items[n + 1])
            else:
                del following
            yield item
            del item
