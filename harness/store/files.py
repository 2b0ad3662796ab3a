"""Named blobs below one root: a local directory, or an fsspec URL. All that the Zarr layout needs.

fsspec is imported only for a URL; it and the file systems behind it are the `remote` extra.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import GoldenError
from harness.regular import UnfitFileError, read_regular
from harness.store.refusals import FETCH_AGAIN

REMOTE_EXTRA = "pip install 'goldens[remote]'"


class Files(ABC):
    """Blobs by relative path, with `/` between the parts. `where` is the root, for messages."""

    where: str

    @abstractmethod
    def read(self, path: str, limit: int) -> bytes:
        """The whole blob.

        Raises:
            FileNotFoundError: there is none.
            GoldenError: it is longer than `limit` bytes; nothing of that size has been allocated.
        """

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview) -> None:
        """Store a new blob."""

    @abstractmethod
    def paths(self) -> Iterator[str]:
        """The paths of all blobs, without those whose name begins with a dot."""

    @property
    @abstractmethod
    def nbytes(self) -> int | None:
        """The size of all blobs; None where it is not known without asking for each."""

    def too_long(self, path: str, limit: int) -> GoldenError:
        return GoldenError(
            "a file of the golden is longer than it can be",
            where=f"{self.where}/{path}",
            expected=f"at most {limit:,} bytes",
            found="more",
            hint=FETCH_AGAIN,
        )


class LocalFiles(Files):
    """Files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)  # not Path: joining thousands of them costs more than reading
        self.where = self._root
        self._made = {self._root}
        self._plain: set[str] = set()

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
                raise GoldenError(
                    "a part of the golden is a link",
                    where=f"{self._root}/{part}",
                    expected="a regular file, or a directory",
                    hint=FETCH_AGAIN,
                )
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


class RemoteFiles(Files):
    """Objects below an fsspec URL: `gs://`, `s3://`, `memory://` and so on."""

    def __init__(self, url: str) -> None:
        self.where = url
        self._files, root = _filesystem(url)
        self._root = root.rstrip("/")

    def read(self, path: str, limit: int) -> bytes:
        # A range request for one byte more than allowed: the answer is bounded whatever lies there.
        data = bytes(self._files.cat_file(f"{self._root}/{path}", start=0, end=limit + 1))
        if len(data) > limit:
            raise self.too_long(path, limit)
        return data

    def write(self, path: str, data: bytes | memoryview) -> None:
        target = f"{self._root}/{path}"
        try:
            self._files.pipe_file(target, bytes(data))
        except FileNotFoundError:  # no object store, but something with directories, such as sftp://
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(target, bytes(data))

    def paths(self) -> Iterator[str]:
        self._files.invalidate_cache()
        above = self._root.strip("/") + "/"  # some file systems answer with a leading slash, some without
        for found in self._files.find(self._root):
            path = found.lstrip("/").removeprefix(above)
            if not path.rpartition("/")[2].startswith("."):
                yield path

    def occupied(self) -> bool:
        """Whether anything lies below the URL."""
        self._files.invalidate_cache()
        return bool(self._files.find(self._root)) if self._files.exists(self._root) else False

    def remove(self, path: str = "") -> None:
        """Delete one blob, or everything, where it is there."""
        target = f"{self._root}/{path}".rstrip("/")
        if self._files.exists(target):
            self._files.rm(target, recursive=not path)

    @property
    def nbytes(self) -> None:
        return None


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it.

    Raises:
        GoldenError: fsspec or the package for this kind of URL is not installed, or the kind is unknown.
    """
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise GoldenError(
            f"this kind of URL needs a package that is not installed: {error}",
            where=url,
            hint=f"`{REMOTE_EXTRA}`, or copy the golden to a local path",
        ) from None
    except Exception as error:
        raise GoldenError(
            f"this URL cannot be opened: {error}",
            where=url,
            hint="give a URL that fsspec knows, such as gs://bucket/name.zarr or s3://bucket/name.zarr",
        ) from error
    return files, root
