"""Writing a golden: array by array, hashed on the way, the manifest last, then published in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import GoldenError
from harness.golden import FORMAT, FORMAT_VERSION, ArrayEntry, Manifest, encode, identity
from harness.store.abc import DTYPES, Writer, little_endian, sha256
from harness.store.contents import ARRAY_PATH, check_contents
from harness.store.files import LocalFiles, RemoteFiles
from harness.store.hdf5_writer import Hdf5Writer
from harness.store.location import check_writable, is_zarr, local_of, url_of
from harness.store.publish import publishing
from harness.store.refusals import writing
from harness.store.zarr3 import DOCUMENT, ZarrWriter


@dataclass(frozen=True, eq=False)
class NewArray:
    """One array to store: its path (see `harness.golden`), the names of its dimensions, its values."""

    path: str
    dims: tuple[str, ...]
    array: np.ndarray


def write_golden(
    path: str | Path,
    arrays: Iterable[NewArray],
    manifest: Callable[[dict[str, ArrayEntry]], Manifest],
    *,
    overwrite: bool = False,
) -> str:
    """Write a golden and return its id.

    Args:
        path: `.h5`, `.hdf5`, `.zarr`, or an fsspec URL, which is a Zarr.
        arrays: taken one by one; none is held once it is stored.
        manifest: makes the manifest from the entries of all arrays, in the order in which they came.
        overwrite: replace the golden that is there.

    Raises:
        GoldenError: see `check_writable`; a dtype or path that a golden cannot hold; arrays and manifest
            that do not fit together; no room. What was at `path` is untouched then (a URL: see
            goldens/README.md). An exception of `arrays` or `manifest` passes, with the same guarantee.
    """
    check_writable(path, overwrite)
    with _writer(path) as writer:
        entries: dict[str, ArrayEntry] = {}
        for new in arrays:
            array = _storable(new, entries)
            entries[new.path] = ArrayEntry(array.shape, array.dtype.name, new.dims, sha256(array))
            with writing(f"{path}: {new.path}"):
                writer.add(new.path, new.dims, array)
            del array, new  # the next one is made while this name would still hold it
        document = manifest(dict(entries))
        _check_manifest(document, entries, str(path))
        encoded = encode(document)
        with writing(path):
            writer.finish(encoded, identity(encoded))
    return identity(encoded)


@contextmanager
def _writer(path: str | Path) -> Iterator[Writer]:
    """The backend for the path; what it wrote is published when the block ends without an exception."""
    url = url_of(path)
    if url:
        with _remote(url) as writer:
            yield writer
        return
    zarr = is_zarr(path)
    with publishing(local_of(path), directory=zarr) as temporary:
        with writing(path):
            backend = ZarrWriter(LocalFiles(temporary)) if zarr else Hdf5Writer(temporary)
        with _closing(backend):
            yield backend


@contextmanager
def _remote(url: str) -> Iterator[Writer]:
    """Object stores cannot rename. The old manifest goes first and the new one comes last, so that a reader
    sees a whole golden or none."""
    files = RemoteFiles(url)
    with writing(url):
        files.remove(f"manifest/{DOCUMENT}")
        files.remove()
        writer = ZarrWriter(files)
    try:
        yield writer
    except BaseException:
        with writing(url):
            files.remove()
        raise


@contextmanager
def _closing(writer: Writer) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(Exception):  # a full disk fails again at closing; the first failure is the one to tell
            writer.close()
        raise


def _storable(new: NewArray, entries: dict[str, ArrayEntry]) -> np.ndarray:
    """The array as it will lie on disk.

    Raises:
        GoldenError: another dtype (bfloat16 and objects among them), an empty array, a bad or repeated path.
    """
    array = new.array
    problems = (
        (not ARRAY_PATH.fullmatch(new.path), "this is no path of an array", ARRAY_PATH.pattern, new.path),
        (new.path in entries, "an array was given twice", "once", new.path),
        (array.dtype.name not in DTYPES, "a golden does not hold this dtype", ", ".join(DTYPES), array.dtype),
        (len(new.dims) != array.ndim, "not one name per dimension", array.shape, new.dims),
        (len(set(new.dims)) != len(new.dims), "two dimensions have one name", "different names", new.dims),
        (array.size == 0, "an array is empty", "at least one element", array.shape),
    )
    for wrong, problem, expected, found in problems:
        if wrong:
            raise GoldenError(
                problem,
                where=new.path,
                expected=expected,
                found=found,
                hint="this is a defect of the recorder: convert the array before it is stored",
            )
    return np.ascontiguousarray(array, little_endian(array.dtype.name))


def _check_manifest(manifest: Manifest, entries: dict[str, ArrayEntry], where: str) -> None:
    """Refuse to publish what `open_golden` would refuse to open."""
    if (manifest.format, manifest.version) != (FORMAT, FORMAT_VERSION) or manifest.arrays != entries:
        raise GoldenError(
            "the manifest does not describe what was written",
            where=where,
            expected=f"{FORMAT} version {FORMAT_VERSION} with {len(entries)} arrays",
            found=f"{manifest.format} version {manifest.version} with {len(manifest.arrays)} arrays",
            hint="this is a defect of the recorder: pass the entries on as they are given",
        )
    check_contents(manifest, where)
