"""Where a golden lies, and which backend that means. What HDF5 does without is imported where it is needed."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.errors import GoldenError
from harness.store.abc import Reader, reading
from harness.store.hdf5 import Hdf5Reader

if TYPE_CHECKING:
    from harness.store.files import Files

HDF5_SUFFIXES = (".h5", ".hdf5")
ZARR_SUFFIX = ".zarr"


def url_of(path: str | Path) -> str | None:
    """The URL, if it is one; a file:// URL is a local path like any other."""
    text = str(path)
    return text if "://" in text and not text.startswith("file://") else None


def local_of(path: str | Path) -> Path:
    """The local path, symbolic links resolved: what a link points to is replaced, not the link."""
    return Path(str(path).removeprefix("file://")).resolve()


def shown(path: str | Path) -> str:
    """A path as it is printed: without `.`, `..` and doubled slashes; a URL as it was given."""
    return str(path) if "://" in str(path) else os.path.normpath(path)


def is_zarr(path: str | Path) -> bool:
    """Whether a golden written to this path is a Zarr.

    Raises:
        GoldenError: neither a known suffix nor a URL.
    """
    suffix = PurePosixPath(str(path)).suffix.lower()
    if suffix in HDF5_SUFFIXES and url_of(path):
        problem = "an HDF5 golden is a local file, and this is a URL"
        expected = "a Zarr URL, such as gs://bucket/name.zarr"
        hint = "copy the file from or to the URL yourself, or use a .zarr URL"
        raise GoldenError(problem, path, expected, suffix, hint=hint)
    if url_of(path) or suffix == ZARR_SUFFIX:
        return True
    if suffix not in HDF5_SUFFIXES:
        problem, expected = (
            "the suffix does not say in which format to write the golden",
            ".h5, .hdf5, .zarr, or a URL",
        )
        hint = f"for example --out {Path(path).name or 'golden'}.h5"
        raise GoldenError(problem, path, expected, suffix or "none", hint=hint)
    return False


def files_at(path: str | Path) -> Files:
    """The blobs below a directory or a URL."""
    if url := url_of(path):
        from harness.store.remote import RemoteFiles

        return RemoteFiles(url)
    from harness.store.files import LocalFiles

    return LocalFiles(local_of(path))


def open_reader(path: str | Path) -> Reader:
    """The backend for what lies at the path: a file is HDF5, a directory or URL is Zarr.

    Raises:
        GoldenError: nothing is there, or it cannot be opened.
    """
    local = local_of(path)
    with reading(path):
        if (url_of(path) and is_zarr(path)) or local.is_dir():
            from harness.store.zarr3 import ZarrReader, current

            return ZarrReader(current(files_at(path)))
        if local.exists():
            return Hdf5Reader(local)
    from harness.store.publish import interrupted

    old = interrupted(local)
    if old is None:
        hint = "check the path; `goldens record --out PATH` records a golden"
        raise GoldenError("the golden does not exist", path, hint=hint)
    hint = f"`mv {old} {local}` restores it, and so does the next recording to this path"
    raise GoldenError(
        "a write of this golden was interrupted", path, found=f"the golden of before, at {old}", hint=hint
    )


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raises: GoldenError, unless what is there may be replaced."""
    if not overwrite:
        hint = "--force replaces it; goldens change on purpose only"
        raise GoldenError("there is something at this path already", path, hint=hint)
