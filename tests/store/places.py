"""A place where a golden can lie, one per backend, with a way to get at its raw bytes."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path

import fsspec
import h5py

from harness.golden import Form
from harness.layout import Layout
from harness.store import open_golden
from harness.store.abc import Writer, sha256
from harness.store.files import LocalFiles
from harness.store.hdf5 import seal
from harness.store.hdf5_writer import Hdf5Writer
from harness.store.remote import RemoteFiles
from harness.store.writer import write_golden
from harness.store.zarr3 import DOCUMENT, document, edition_of
from harness.store.zarr3_writer import ZarrWriter
from tests.store import small_golden

NUMBERS = itertools.count()


@contextmanager
def editing(path):
    """Change an HDF5 golden with h5py and seal it again, as its author could."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        yield file
    seal(Path(path))


class Place(ABC):
    """`path` is what a user would type. A blob is one file of a golden. With `few` it has few cases."""

    path: str
    kind: str
    few = False
    has_rename = True

    def write(self, overwrite=False, **changes) -> str:
        cases = small_golden.FEW if self.few else small_golden.CASES
        manifest = small_golden.manifest(cases=cases, **changes)
        return write_golden(self.path, small_golden.arrays(cases=cases), manifest, overwrite=overwrite)

    def lay(self) -> None:
        """Let the golden lie there as `write` leaves it."""
        for blob, data in written(self.kind, self.few).items():
            self.put(blob, data)

    def contents(self):
        """Everything that can be read from it, verified, in a form that compares bit for bit."""
        with open_golden(self.path) as golden:
            golden.verify()
            return golden.id, {path: golden._array(path).tobytes() for path in golden.manifest.arrays}

    @abstractmethod
    def blobs(self) -> dict[str, bytes]: ...

    @abstractmethod
    def blob(self, name: str) -> bytes: ...

    def tree(self) -> dict[str, bytes]:
        """The blobs of the golden that counts, by their names in it."""
        return self.blobs()

    @abstractmethod
    def put(self, blob: str, data: bytes) -> None: ...

    @abstractmethod
    def remove(self, blob: str) -> None: ...

    @abstractmethod
    def data_of(self, path: str, rank: int) -> tuple[str, int]:
        """The blob in which an array's bytes lie, and the offset."""

    @abstractmethod
    def claim(self, path: str, shape: tuple[int, ...]) -> None:
        """Let the metadata of a float64 array say that it has this shape; its data stays small."""

    @abstractmethod
    def write_unchecked(self, encoded: bytes) -> None:
        """Store a golden as a defective or newer recorder would: nothing is compared."""


class Hdf5Place(Place):
    def __init__(self, folder: Path) -> None:
        self.file = folder / "small.h5"
        self.path = str(self.file)

    def blobs(self):
        return {"": self.blob("")}

    def blob(self, name):
        return self.file.read_bytes()

    def put(self, blob, data):
        self.file.write_bytes(data)

    def remove(self, blob):
        self.file.unlink()

    def data_of(self, path, rank):
        with h5py.File(self.file) as file:
            return "", file[path].id.get_offset()

    def claim(self, path, shape):
        with editing(self.file) as file:
            del file[path]
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.CONTIGUOUS)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, path.encode(), h5py.h5t.IEEE_F64LE, space, plist)

    def write_unchecked(self, encoded):
        writer = Hdf5Writer(self.file, labels())
        put_arrays(writer)
        writer.finish(encoded, sha256(encoded))
        writer.close()


class ZarrPlace(Place):
    """A directory, through fsspec as well, so that one class serves both kinds of Zarr."""

    def __init__(self, root: str, path: str) -> None:
        self.files, self.root = fsspec.core.url_to_fs(root)
        self.path = path

    def blobs(self):
        found = self.files.find(self.root)
        return {path.removeprefix(self.root).strip("/"): self.files.cat_file(path) for path in sorted(found)}

    def blob(self, name):
        return self.files.cat_file(f"{self.root}/{name}")

    def put(self, blob, data):
        self.files.makedirs(f"{self.root}/{blob}".rpartition("/")[0], exist_ok=True)
        self.files.pipe_file(f"{self.root}/{blob}", data)

    def remove(self, blob):
        self.files.rm(f"{self.root}/{blob}")

    def data_of(self, path, rank):
        return f"{path}/{'.'.join(['c', *'0' * rank])}", 0

    def claim(self, path, shape):
        dims = tuple(json.loads(self.blob(f"{path}/{DOCUMENT}"))["dimension_names"])
        self.put(f"{path}/{DOCUMENT}", json.dumps(document(Form(shape, "float64", dims))).encode())

    def write_unchecked(self, encoded):
        for blob, data in zarr_arrays().items():
            self.put(blob, data)
        files = LocalFiles(Path(self.path)) if self.has_rename else RemoteFiles(self.path)
        ZarrWriter(files, labels(), marked=True).finish(encoded, sha256(encoded))


class UrlPlace(ZarrPlace):
    has_rename = False  # object stores cannot: what a failed write leaves behind has a test of its own

    def tree(self):
        edition = edition_of(RemoteFiles(self.path))
        inside = f"{edition}/" if edition else ""
        found = self.blobs().items()
        return {name.removeprefix(inside): data for name, data in found if name.startswith(inside)}


def make(kind: str, folder: Path) -> Place:
    place = _of_kind(kind, folder)
    place.kind = kind
    return place


def _of_kind(kind: str, folder: Path) -> Place:
    if kind == "h5":
        return Hdf5Place(folder)
    if kind == "zarr":
        return ZarrPlace(f"local://{folder}/small.zarr", f"{folder}/small.zarr")
    url = f"memory://{folder.name}-{next(NUMBERS)}/small.zarr"
    return UrlPlace(url, url)


@functools.cache
def written(kind: str, few: bool) -> dict[str, bytes]:
    """The files of the small golden, written once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        place = make(kind, Path(folder))
        place.few = few
        place.write()
        return place.blobs()


def labels():
    return Layout(small_golden.manifest()).labels


def put_arrays(writer: Writer) -> None:
    forms = dict(Layout(small_golden.manifest()).forms())
    for new in small_golden.arrays():
        writer.put(new.path, forms[new.path], new.index, new.array)


@functools.cache
def zarr_arrays() -> dict[str, bytes]:
    """The blobs of the small golden without its manifest, in either kind of Zarr."""
    with tempfile.TemporaryDirectory() as folder:
        put_arrays(ZarrWriter(LocalFiles(Path(folder)), labels()))
        return ZarrPlace(f"local://{folder}", folder).blobs()
