"""What is done in a thread beside this one: one thing at a time, and no more than one ahead.

Hashing, copying and writing release Python's lock, as torch does while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Self, TypeVar

T = TypeVar("T")


class Beside:
    """A thread that is given one thing to do after the other; use it as a context manager, which waits for it.

    What goes wrong in it is raised here when the next thing is given, which is then not done, or by `finish`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._finish: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def do(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Wait until what was given before is done, and go on with this.

        Args:
            then: told, in this thread, what came of it once it is done.
        """
        self.finish()
        under_way = self._pool.submit(work)
        self._finish = lambda: then(under_way.result())

    def finish(self) -> None:
        """Wait for what is under way."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()


def ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """The same items, each made while the one before it is used."""
    end = object()
    with closing(items), ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
            del item
