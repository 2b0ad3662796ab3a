"""Reading ahead: blobs that will be asked for soon are fetched several at once, where that pays.

A bucket takes its time to answer, and answers many at once. A disk does neither: there nothing is read ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from harness.store.files import Files, Wanted

# What may be held that nobody has asked for yet. While it is fetched there may be as much again.
HELD_BYTES = 64 * 2**20
T = TypeVar("T")


class ReadAhead:
    """Reads like `Files`, from what was fetched before where it was; each such blob is handed out once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._held: dict[str, bytes | Exception] = {}
        self.paths, self.refuse_no_bucket = files.paths, files.refuse_no_bucket

    @property
    def nbytes(self) -> int | None:
        """As of `Files`."""
        return self._files.nbytes

    def read(self, path: str, limit: int) -> bytes:
        """The whole blob; see `Files.read`."""
        found = self._held.pop(path, None)
        if found is None:
            return self._files.read(path, limit)
        if isinstance(found, Exception):
            raise found
        return found

    def ahead(self, wanted: Iterable[T], blobs: Callable[[T], list[Wanted]]) -> Iterator[T]:
        """The same things, one after the other; what `blobs` says of each is fetched with that of those behind it.

        Args:
            blobs: what will be read of one of them. Their limits are what they count for.
        """
        if self._files.at_once == 1:
            yield from wanted
            return
        batch: list[T] = []
        asked: dict[str, int] = {}
        for one in wanted:
            more = dict(blobs(one))
            if not batch and self._held.keys() >= more.keys():
                yield one
                continue
            if batch and sum(asked.values()) + sum(more.values()) > HELD_BYTES:
                self._fetch(asked)
                yield from batch
                batch, asked, more = [], {}, dict(blobs(one))
            batch.append(one)
            asked |= more
        if batch:
            self._fetch(asked)
            yield from batch

    def _fetch(self, asked: dict[str, int]) -> None:
        """Fetch what is not held, and let go of the oldest that is held beyond what may be."""
        asked = {path: limit for path, limit in asked.items() if path not in self._held}
        room = HELD_BYTES - sum(asked.values())
        held = sum(len(blob) for blob in self._held.values() if isinstance(blob, bytes))
        while self._held and held > room:
            blob = self._held.pop(next(iter(self._held)))
            held -= len(blob) if isinstance(blob, bytes) else 0
        found = self._files.read_many(list(asked.items()))
        self._held |= zip(asked, found, strict=True)
