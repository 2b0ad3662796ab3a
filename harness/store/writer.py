"""Writing a golden: array by array, hashed on the way, the manifest last, then published in one step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.errors import GoldenError
from harness.golden import FORMAT, MANIFEST_LIMIT, ArrayEntry, Form, Manifest, decode, encode, identity
from harness.layout import Labels, Layout
from harness.store.abc import DTYPES, Writer, little_endian, sha256, writing
from harness.store.contents import check_contents, promised
from harness.store.files import LocalFiles
from harness.store.hdf5_writer import Hdf5Writer
from harness.store.location import is_zarr, local_of, refuse_existing, url_of
from harness.store.publish import publishing
from harness.store.reader import open_golden
from harness.store.remote import RemoteFiles
from harness.store.zarr3 import DOCUMENT, is_golden
from harness.store.zarr3_writer import ZarrWriter, replacing

DEFECT = "this is a defect of the recorder: what it stores and what its manifest says must fit together"


@dataclass(frozen=True, eq=False)
class NewArray:
    """What is stored at once: an array, or the slab of one layer. See `harness.layout` for paths and places.

    Attributes:
        index: the place of a slab along the layers; 0 for an array that is no stack.
        sha256: of its bytes, where whoever made it has seen that it has this one; else it is worked out.
    """

    path: str
    array: np.ndarray
    index: int = 0
    sha256: str = ""


def write_golden(
    path: str | Path, arrays: Iterable[NewArray], manifest: Manifest, *, overwrite: bool = False
) -> str:
    """Write a golden and return its id.

    Args:
        path: `.h5`, `.hdf5`, `.zarr`, or an fsspec URL, which is a Zarr.
        arrays: taken one by one; none is held once it is stored. A stack's slabs come in order.
        manifest: all of it but its list of arrays, which follows from the rest.
        overwrite: replace the golden that is there.

    Raises:
        GoldenError: see `check_writable`; a dtype that a golden cannot hold; arrays and manifest that do not fit
            together; a manifest that does not say the same when it is read again; no room. What was at `path` is
            untouched then (a URL: see goldens/README.md). An exception of `arrays` passes, with that guarantee.
    """
    check_writable(path, overwrite)
    forms = promised(manifest, str(path))
    with _writer(path, Layout(manifest).labels, overwrite) as writer:
        digests: dict[str, list[str]] = {}
        for new in arrays:
            form = _form(new, forms, digests)
            array = _storable(new, form)
            digests.setdefault(new.path, []).append(new.sha256 or sha256(array))
            with writing(f"{path}: {new.path}"):
                writer.put(new.path, form, new.index, array)
            del array, new  # the next one is made while this name would still hold it
        with writing(path):
            encoded = encode(_finished(manifest, forms, digests, str(path)))
        _check_manifest(manifest, encoded, str(path))
        with writing(path):
            writer.finish(encoded, identity(encoded))
    return identity(encoded)


def check_writable(path: str | Path, overwrite: bool) -> None:
    """Refuse before hours of recording what `write_golden` would refuse after them.

    Raises:
        GoldenError: unknown suffix; something is there and `overwrite` is False, or it is no golden; the
            parent directory is missing or read-only; the package for the URL is not installed.
    """
    zarr = is_zarr(path)
    if url := url_of(path):
        _check_url(url, overwrite)
        return
    local = local_of(path)
    with writing(path):
        if not local.parent.is_dir():
            found = "something else" if local.parent.exists() else "nothing"
            hint = f"`mkdir -p {local.parent}`, or give another --out"
            problem = "the directory to write to does not exist"
            raise GoldenError(problem, local.parent, "a directory", found, hint=hint)
        if not os.access(local.parent, os.W_OK | os.X_OK):
            hint = "give an --out in a directory of your own"
            raise GoldenError("the directory to write to is read-only", local.parent, hint=hint)
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
    return GoldenError(problem, where, expected, found, hint="remove it yourself, or give another --out")


@contextmanager
def _writer(path: str | Path, labels: dict[str, Labels], overwrite: bool) -> Iterator[Writer]:
    """The backend for the path; what it wrote is published when the block ends without an exception, and opens."""
    if url := url_of(path):
        with replacing(url, labels, overwrite) as writer:
            yield writer
        return
    zarr = is_zarr(path)
    with publishing(local_of(path), directory=zarr) as temporary:
        with writing(path):
            backend = ZarrWriter(LocalFiles(temporary), labels) if zarr else Hdf5Writer(temporary, labels)
        with _closing(backend):
            yield backend
        open_golden(temporary).close()


@contextmanager
def _closing(writer: Writer) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(Exception):  # a full disk fails again at closing; the first failure is the one to tell
            writer.close()
        raise


def _form(new: NewArray, forms: dict[str, Form], digests: dict[str, list[str]]) -> Form:
    """The form of the array to which this is the next piece.

    Raises:
        GoldenError: the manifest promises no such array, or not this piece of it now.
    """
    if new.path not in forms:
        raise _defect("this is no array of the golden", new.path, None, new.path)
    form, stored = forms[new.path], len(digests.get(new.path, ()))
    if stored == form.slabs or new.index != stored:
        given = new.index < stored
        problem = "an array was given twice" if given else "the slabs of an array do not come in order"
        expected = f"{form.slabs} slabs, the next of them {stored}" if stored < form.slabs else "once"
        raise _defect(problem, new.path, expected, new.index)
    return form


def _defect(problem: str, where: str, expected: object, found: object) -> GoldenError:
    return GoldenError(problem, where, expected, found, hint=DEFECT)


def _storable(new: NewArray, form: Form) -> np.ndarray:
    """The array as it will lie on disk.

    Raises:
        GoldenError: another dtype (bfloat16 and objects among them) or shape than promised, or an empty array.
    """
    array = new.array
    if array.dtype.name not in DTYPES:
        raise _defect("a golden does not hold this dtype", new.path, ", ".join(DTYPES), array.dtype)
    if array.size == 0:
        raise _defect("an array is empty", new.path, "at least one element", array.shape)
    if array.shape != form.slab:
        raise _defect("an array has another shape than the manifest promises", new.path, form.slab, array.shape)
    if array.dtype.name != form.dtype:
        raise _defect("an array has another dtype than promised", new.path, form.dtype, array.dtype)
    return np.ascontiguousarray(array, little_endian(array.dtype.name))


def _finished(manifest: Manifest, forms: dict[str, Form], digests: dict[str, list[str]], where: str) -> Manifest:
    """The manifest with its list of arrays.

    Raises:
        GoldenError: not all of them came, or this is no manifest of this format.
    """
    if manifest.format != FORMAT or manifest.arrays:
        expected = f"{FORMAT}, its arrays still to be listed"
        found = f"{manifest.format}, {len(manifest.arrays)} arrays listed"
        raise _defect("the manifest does not describe what was written", where, expected, found)
    for path, form in forms.items():
        if len(digests.get(path, ())) != form.slabs:
            problem, came = "the golden lacks an array that its manifest promises", len(digests.get(path, ()))
            raise _defect(problem, f"{where}: {path}", f"{form.slabs} slabs", came)
    entries = {p: ArrayEntry(f.shape, f.dtype, f.dims, tuple(digests[p])) for p, f in forms.items()}
    return replace(manifest, arrays=entries)


def _check_manifest(manifest: Manifest, encoded: bytes, where: str) -> None:
    """Refuse to publish what would be read as something else: JSON has no infinity, no NaN and no lone surrogate.

    Raises:
        GoldenError: it is too long, or read again it does not say the same.
    """
    if len(encoded) > MANIFEST_LIMIT:
        problem, hint = (
            "the golden's manifest is longer than a reader reads",
            "record fewer prompts in one golden: ",
        )
        hint += "--case, or a corpus in parts"
        raise GoldenError(problem, where, f"at most {MANIFEST_LIMIT:,} bytes", f"{len(encoded):,}", hint=hint)
    again = decode(encoded, where)
    for field in ("model", "environment", "cases", "taps", "sizes", "command", "selected"):
        if getattr(again, field) != getattr(manifest, field):
            problem = f"a value in the manifest's {field} does not come back when it is read: "
            problem += "it is infinite, not a number, or of a kind that JSON does not have"
            found = _first_difference(getattr(manifest, field), getattr(again, field))
            hint = "mend that value in the checkpoint's config.json, or in the corpus, and record again"
            raise GoldenError(problem, f"{where}: {field}", found=found, hint=hint)
    check_contents(again, where)


def _first_difference(written: object, read: object) -> str:
    """Where two values that should be equal are not."""
    if hasattr(written, "__dict__") and type(written) is type(read):
        written, read = vars(written), vars(read)
    if isinstance(written, dict) and isinstance(read, dict) and written.keys() == read.keys():
        for key in written:
            if written[key] != read[key]:
                return f"{key}: {_first_difference(written[key], read[key])}"
    return f"{written!r:.100} becomes {read!r:.100}"
