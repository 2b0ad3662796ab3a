"""Reading the HDF5 form of a golden: one file, every array contiguous and uncompressed.

h5py's low-level interface, because what is read must be what is on disk. Data is read as the bytes that lie where
HDF5 says, so that no conversion stands between the disk and the sha256 (h5py would turn a bool of value 5 into
True), and every link is seen to be a hard one before it is followed. Groups are not listed, members are looked up
by name: see `check_nothing_else`. Where an array lies is looked up and checked once, not for every slab of it.

The file ends with a seal: 40 bytes, with the sha256 of all bytes before them. HDF5's metadata has checksums but
for the heap that holds the references of dimension scales, and with a damaged heap HDF5 1.14 never returns. The
arrays are read without following anything of that kind; what does follow it waits for the seal. HDF5 itself
ignores what lies behind its end of file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5r

from harness.errors import GoldenError
from harness.foreign import open_regular
from harness.golden import MANIFEST_LIMIT, ArrayEntry, Form
from harness.layout import Labels, label_path
from harness.store.abc import (
    ANOTHER_PATH,
    MANIFEST,
    MANIFEST_DIM,
    SHA256,
    Reader,
    agree,
    damaged,
    early_path,
    labels_array,
    little_endian,
    parents,
    raw,
    reading,
)

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DIGEST_LENGTH = 64
MARK = b"goldens\n"
SEAL_LENGTH = len(MARK) + hashlib.sha256().digest_size
BLOCK = 1 << 20


class Hdf5Reader(Reader):
    """An open file. Arrays are found by name, in the index that HDF5 keeps per group."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path
        with reading(self.where):
            self._check_signature(path)
            # No lock: a golden is replaced, never changed, and read-only media cannot lock.
            self._file = h5py.File(path, "r", locking=False)
            self._size = os.fstat(self._file.id.get_vfd_handle()).st_size
        self._groups: dict[str, h5g.GroupID] = {"": h5g.open(self._file.id, b"/")}
        self._starts: dict[str, int] = {}
        self._scales: dict[str, tuple[int, tuple[int, ...]]] = {}

    def _check_signature(self, path: Path) -> None:
        with open_regular(path) as file:
            signature = file.read(len(SIGNATURE))
        if signature != SIGNATURE:
            problem = "this file is not a golden: it is not HDF5" if signature else "the golden is an empty file"
            raise damaged(problem, self.where, f"a file that begins with {SIGNATURE!r}", signature)

    def read_manifest(self) -> tuple[bytes, str]:
        if not self._groups[""].links.exists(MANIFEST.encode()):
            found = f"{self._groups[''].get_num_objs()} other members"
            problem = "this HDF5 file is not a golden: it has no manifest"
            raise GoldenError(problem, self.where, found=found, hint=ANOTHER_PATH)
        dataset = self._dataset(MANIFEST)
        shape = tuple(dataset.shape) if dataset.rank == 1 else ()
        if math.prod(shape) > MANIFEST_LIMIT:
            length = f"{math.prod(shape):,}"
            agree("the length of the manifest", self.where, f"at most {MANIFEST_LIMIT:,} bytes", length)
        form = Form(shape, "uint8", (MANIFEST_DIM,))
        data = self._data(self._start(MANIFEST, dataset, form), form, 0)
        return data.tobytes(), self._digest(dataset)

    def _digest(self, dataset: h5d.DatasetID) -> str:
        """The attribute beside the manifest. What is read goes into a buffer of a fixed size: form comes first."""
        where = f"{self.where}: {MANIFEST}, attribute {SHA256}"
        if not h5a.exists(dataset, SHA256.encode()):
            raise damaged("the manifest has no sha256 beside it", where)
        attribute = h5a.open(dataset, SHA256.encode())
        agree("the shape of an attribute", where, (), attribute.shape)
        agree("the type of an attribute", where, f"|S{DIGEST_LENGTH}", attribute.dtype.str)
        agree("the size of an attribute", where, DIGEST_LENGTH, attribute.get_type().get_size())
        digest = np.empty((), f"S{DIGEST_LENGTH}")
        attribute.read(digest)
        return bytes(digest.item()).decode("ascii")

    def read(self, path: str, entry: ArrayEntry, slab: int) -> np.ndarray:
        if path not in self._starts:
            self._starts[path] = self._start(path, self._dataset(path), entry)
        return self._data(self._starts[path], entry, slab)

    def check_structure(self, path: str, entry: ArrayEntry, labels: Mapping[str, Labels]) -> None:
        where = f"{self.where}: {path}"
        with reading(where):
            dataset = self._dataset(path)
            self._start(path, dataset, entry)
            scales = []
            for dim, size in zip(entry.dims, entry.shape, strict=True):
                scales.append(self._scale(label_path(path, dim), size, labels))
            attribute = h5a.open(dataset, b"DIMENSION_LIST")
            agree("the number of dimension scales", where, (len(entry.dims),), attribute.shape)
            references = h5py.check_vlen_dtype(attribute.dtype) == h5py.ref_dtype
            agree("the type of dimension scales", where, "references", "references" if references else "another")
            # By address: HDF5 finds the name behind a reference only by walking the file.
            addresses = [
                [h5o.get_info(h5r.dereference(reference, self._file.id)).addr for reference in axis]
                for axis in h5py.Dataset(dataset).attrs["DIMENSION_LIST"]
            ]
            if addresses != [[scale] for scale in scales]:
                agree("the naming of an array's dimensions", where, entry.dims, "other dimension scales")

    def is_whole(self) -> bool:
        return is_whole(self._path)

    def check_nothing_else(self, arrays: Mapping[str, ArrayEntry], labels: Mapping[str, Labels]) -> None:
        """By counting. Listing a group whose index is damaged takes the process down in HDF5 1.14, while a
        look-up by name is refused; here every name has been looked up already."""
        members = {"": {MANIFEST}}
        scales = {label_path(MANIFEST, MANIFEST_DIM)}
        for path, entry in arrays.items():
            scales.update(label_path(path, dim) for dim in entry.dims)
        for scale in scales:
            first, second = (h5o.get_info(self._dataset(name)).addr for name in (scale, early_path(scale)))
            agree("the second name of a dimension", f"{self.where}: {scale}", first, second)
        for path in [*arrays, *scales, *map(early_path, scales)]:
            for inner, outer in zip([*parents(path), path], ["", *parents(path)], strict=True):
                members.setdefault(outer, set()).add(inner.rpartition("/")[2])
        for group, expected in members.items():
            if self._group(group).get_num_objs() != len(expected):
                extra = {name.decode() for name in self._group(group)} - expected
                raise self._foreign(f"{group}/{min(extra, default='')}".lstrip("/"), "something else")

    @property
    def nbytes(self) -> int:
        return int(self._size)

    def close(self) -> None:
        self._groups.clear()
        self._file.close()

    def _scale(self, path: str, size: int, labels: Mapping[str, Labels]) -> int:
        """The address of a dimension scale of that length: one with the labels there are, or without data."""
        if path not in self._scales:
            scale = self._dataset(path)
            where = f"{self.where}: {path}"
            agree("the length of a dimension", where, (size,), scale.shape)
            if path in labels:
                expected = labels_array(labels[path])
                form = Form(expected.shape, expected.dtype.str, ("",))
                stored = self._data(self._start(path, scale, form), form, 0)
                agree("the labels of a dimension", where, expected.tolist(), stored.tolist())
            else:
                agree("what a dimension scale stores", where, 0, scale.get_storage_size())
            self._scales[path] = (h5o.get_info(scale).addr, scale.shape)
        address, shape = self._scales[path]
        agree("the length of a dimension", f"{self.where}: {path}", (size,), shape)
        return address

    def _data(self, start: int, form: Form, slab: int) -> np.ndarray:
        """One slab of an array that is known to be of that form, and to begin there."""
        array = np.empty(form.slab, little_endian(form.dtype))
        place, left = start + slab * array.nbytes, raw(array)
        while left:
            read = os.preadv(self._file.id.get_vfd_handle(), [left], place)
            if not read:
                raise OSError(f"the file ends at byte {place}")
            place, left = place + read, left[read:]
        return array

    def _start(self, path: str, dataset: h5d.DatasetID, form: Form) -> int:
        """Where an array begins in the file, in which it lies as a whole and in one piece, in that form."""
        where, dtype = f"{self.where}: {path}", little_endian(form.dtype)
        agree("the shape of an array", where, form.shape, dataset.shape)
        agree("the dtype of an array", where, dtype.str, dataset.dtype.str)
        agree("the size of an array's elements", where, dtype.itemsize, dataset.get_type().get_size())
        plist = dataset.get_create_plist()
        contiguous = plist.get_layout() == h5d.CONTIGUOUS and plist.get_external_count() == 0
        agree("the layout of an array", where, "contiguous", "contiguous" if contiguous else "another")
        nbytes = math.prod(form.shape) * dtype.itemsize
        agree("the number of stored bytes", where, nbytes, dataset.get_storage_size())
        start = dataset.get_offset()
        inside = start is not None and start + nbytes <= self._size
        agree("the place of an array", where, "inside the file", "inside the file" if inside else "outside")
        return int(start)

    def _dataset(self, path: str) -> h5d.DatasetID:
        return self._member(path, h5d.DatasetID)

    def _group(self, path: str) -> h5g.GroupID:
        if path not in self._groups:
            self._groups[path] = self._member(path, h5g.GroupID)
        return self._groups[path]

    def _member(self, path: str, kind: type) -> Any:
        group, _, name = path.rpartition("/")
        parent, key = self._group(group), name.encode()
        try:
            link = parent.links.get_info(key)
        except (KeyError, RuntimeError, OSError):  # versions of h5py differ
            if parent.links.exists(key):
                raise
            problem = "the golden lacks an array that its manifest lists"
            raise damaged(problem, f"{self.where}: {group}/{name}") from None
        if link.type != h5l.TYPE_HARD:
            raise self._foreign(f"{group}/{name}", "a link")
        member = h5o.open(parent, key)
        if not isinstance(member, kind):
            raise self._foreign(path, type(member).__name__)
        return member

    def _foreign(self, path: str, found: str) -> GoldenError:
        problem = "the file holds something that is no part of a golden"
        return damaged(problem, f"{self.where}: {path}", "groups and arrays", found)


def seal(path: Path) -> None:
    """Seal a file that is complete.

    Raises:
        OSError: there is no room.
    """
    end = MARK + _digest(path, path.stat().st_size)
    with path.open("ab", buffering=0) as file:
        if file.write(end) != SEAL_LENGTH:  # the limit was in the middle of it
            raise OSError("the last bytes of the file could not be written")


def is_whole(path: Path) -> bool:
    """Whether the file is, byte for byte, the one that was sealed."""
    size = path.stat().st_size - SEAL_LENGTH
    if size < 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        end = file.read()
    return end == MARK + _digest(path, size)


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while size and (block := file.read(min(size, BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.digest()
