"""Where a golden lies, which backend that means, and whether it can be written there."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from harness.errors import GoldenError
from harness.store.edition import current, is_golden
from harness.store.files import LocalFiles
from harness.store.hdf5 import Hdf5Reader
from harness.store.publish import interrupted
from harness.store.refusals import reading, writing
from harness.store.remote import RemoteFiles
from harness.store.zarr3 import DOCUMENT, ZarrReader

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
        raise _refused(problem, path, expected, suffix, hint)
    if url_of(path) or suffix == ZARR_SUFFIX:
        return True
    if suffix not in HDF5_SUFFIXES:
        problem = "the suffix does not say in which format to write the golden"
        hint = f"for example --out {Path(path).name or 'golden'}.h5"
        raise _refused(problem, path, ".h5, .hdf5, .zarr, or a URL", suffix or "none", hint)
    return False


def open_reader(path: str | Path) -> Hdf5Reader | ZarrReader:
    """The backend for what lies at the path: a file is HDF5, a directory or URL is Zarr.

    Raises:
        GoldenError: nothing is there, or it cannot be opened.
    """
    url = url_of(path)
    if url and is_zarr(path):
        with reading(path):
            return ZarrReader(current(RemoteFiles(url)))
    local = local_of(path)
    with reading(path):
        if local.is_dir():
            return ZarrReader(current(LocalFiles(local)))
        if local.exists():
            return Hdf5Reader(local)
    old = interrupted(local)
    raise GoldenError(
        "a write of this golden was interrupted" if old else "the golden does not exist",
        where=path,
        found=f"the golden of before, at {old}" if old else None,
        hint=f"`mv {old} {local}` restores it, and so does the next recording to this path"
        if old
        else "check the path; `goldens record --out PATH` records a golden",
    )


def check_writable(path: str | Path, overwrite: bool) -> None:
    """Refuse before hours of recording what `write_golden` would refuse after them.

    Raises:
        GoldenError: unknown suffix; something is there and `overwrite` is False, or it is no golden; the
            parent directory is missing or read-only; the package for the URL is not installed.
    """
    zarr, url = is_zarr(path), url_of(path)
    if url:
        _check_url(url, overwrite)
        return
    local = local_of(path)
    with writing(path):
        if not local.parent.is_dir():
            found = "something else" if local.parent.exists() else "nothing"
            hint = f"`mkdir -p {local.parent}`, or give another --out"
            raise _refused("the directory to write to does not exist", local.parent, "a directory", found, hint)
        if not os.access(local.parent, os.W_OK | os.X_OK):
            hint = "give an --out in a directory of your own"
            raise GoldenError("the directory to write to is read-only", where=local.parent, hint=hint)
        if local.exists():
            refuse_existing(path, overwrite)
            _check_replaceable(local, zarr)


def _check_replaceable(local: Path, zarr: bool) -> None:
    """A directory is deleted only where it is surely a golden, and never for a file or the reverse."""
    if zarr != local.is_dir():
        expected, found = ("a directory (Zarr)", "a file") if zarr else ("a file (HDF5)", "a directory")
        raise _in_the_way("something of another kind has the golden's name", local, expected, found)
    if not zarr and not local.is_file():
        problem = "what has the golden's name is no file, and is not replaced"
        raise _in_the_way(problem, local, "a regular file (HDF5)", "a FIFO, a socket or a device")
    if zarr and any(local.iterdir()) and not is_golden(LocalFiles(local)):
        raise _not_ours(local)


def _check_url(url: str, overwrite: bool) -> None:
    files = RemoteFiles(url)
    with writing(url):
        if files.occupied():
            refuse_existing(url, overwrite)
            if not is_golden(files):
                raise _not_ours(url)
        else:
            files.refuse_no_bucket()


def _not_ours(where: object) -> GoldenError:
    problem = "what lies there is not a golden, and is not deleted"
    return _in_the_way(problem, where, f"a {DOCUMENT} that says goldens", "another directory")


def _in_the_way(problem: str, where: object, expected: str, found: str) -> GoldenError:
    return _refused(problem, where, expected, found, "remove it yourself, or give another --out")


def _refused(problem: str, where: object, expected: str, found: str, hint: str) -> GoldenError:
    return GoldenError(problem, where=where, expected=expected, found=found, hint=hint)


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raises: GoldenError, unless what is there may be replaced."""
    if not overwrite:
        hint = "--force replaces it; goldens change on purpose only"
        raise GoldenError("there is something at this path already", where=path, hint=hint)
