"""Named blobs below one root: all that the Zarr layout needs. A local directory is one; `remote` has URLs.

Blobs that will be asked for soon are fetched several at once, where that pays (`ReadAhead`). A bucket takes its
time to answer, and answers many at once. A disk does neither: there nothing is read ahead.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from harness.errors import GoldenError
from harness.foreign import UnfitFileError, read_regular
from harness.store.abc import damaged

Wanted = tuple[str, int]  # a blob's path, and the bytes that it may have at most
# What may be held that nobody has asked for yet. While it is fetched there may be as much again.
HELD_BYTES = 64 * 2**20
T = TypeVar("T")


class Files(ABC):
    """Blobs by relative path, with `/` between the parts. `where` is the root, for messages."""

    where: str
    at_once = 1  # how many blobs are worth asking for at once

    @abstractmethod
    def below(self, folder: str) -> Files:
        """The blobs below a folder of this root."""

    @abstractmethod
    def read(self, path: str, limit: int) -> bytes:
        """The whole blob.

        Raises:
            FileNotFoundError: there is none.
            GoldenError: it is longer than `limit` bytes; nothing of that size has been allocated.
        """

    def read_many(self, wanted: list[Wanted]) -> list[bytes | Exception]:
        """What `read` returns or raises for each, in their order; up to `at_once` are under way together."""
        blobs: list[bytes | Exception] = []
        for path, limit in wanted:
            try:
                blobs.append(self.read(path, limit))
            except Exception as error:
                blobs.append(error)
        return blobs

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview) -> None:
        """Store a new blob."""

    @abstractmethod
    def paths(self) -> Iterator[str]:
        """The paths of all blobs, without those whose name begins with a dot."""

    def refuse_no_bucket(self) -> None:
        """Raises: GoldenError, where a blob is not there because the bucket is not."""
        return

    @property
    def nbytes(self) -> int | None:
        """The size of all blobs; None where it is not known without asking for each."""
        return None

    def too_long(self, path: str, limit: int) -> GoldenError:
        problem = "a file of the golden is longer than it can be"
        return damaged(problem, f"{self.where}/{path}", f"at most {limit:,} bytes", "more")


class LocalFiles(Files):
    """Files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)  # not Path: joining thousands of them costs more than reading
        self.where = self._root
        self._made = {self._root}
        self._plain: set[str] = set()

    def below(self, folder: str) -> LocalFiles:
        return LocalFiles(Path(self._root) / folder)

    def read(self, path: str, limit: int) -> bytes:
        self._refuse_links(path)
        try:
            return read_regular(f"{self._root}/{path}", limit)
        except UnfitFileError as error:
            if error.errno == errno.EFBIG:
                raise self.too_long(path, limit) from None
            raise

    def _refuse_links(self, path: str) -> None:
        """A link would lead out of the golden: the file itself, or a folder on the way."""
        part = path
        while part and part not in self._plain:
            if os.path.islink(f"{self._root}/{part}"):  # noqa: PTH114
                expected = "a regular file, or a directory"
                raise damaged("a part of the golden is a link", f"{self._root}/{part}", expected)
            if part != path:
                self._plain.add(part)
            part = part.rpartition("/")[0]

    def write(self, path: str, data: bytes | memoryview) -> None:
        target = f"{self._root}/{path}"
        folder = target.rpartition("/")[0]
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            self._made.add(folder)
        with open(target, "xb") as file:  # noqa: PTH123
            file.write(data)

    def paths(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self._root):
            names += [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
            below = folder[len(self._root) :].replace(os.sep, "/").strip("/")
            for name in names:
                if not name.startswith("."):
                    yield f"{below}/{name}" if below else name

    @property
    def nbytes(self) -> int:
        root = Path(self._root)
        return sum((root / path).stat().st_size for path in self.paths())


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
        held = self._held.pop(path, None)
        if held is None:
            return self._files.read(path, limit)
        if isinstance(held, Exception):
            raise held
        return held

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
        for item in wanted:
            more = dict(blobs(item))
            if not batch and self._held.keys() >= more.keys():
                yield item
                continue
            if batch and sum(asked.values()) + sum(more.values()) > HELD_BYTES:
                self._fetch(asked)
                yield from batch
                batch, asked, more = [], {}, dict(blobs(item))
            batch.append(item)
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
        fetched = self._files.read_many(list(asked.items()))
        self._held |= zip(asked, fetched, strict=True)
