"""Writing the HDF5 form of a golden.

Dimension scales, HDF5's own, are what lets xarray and netCDF tools name the dimensions. Each attachment rewrites
the scale's list of the arrays that have it: a case has few enough.

Every scale has two names: where netCDF looks for it, in its case or beside its arrays, and below `dimensions`, the
first group of the file. h5netcdf asks HDF5 for the name of every scale of every array, and HDF5 answers by walking
the file until it comes across it: xarray opens the embedded golden five times as fast with the second name.

A dimension that has labels (layers, taps, statistics, kept positions) has them as the scale's data. Strings
are of a fixed length: those of variable length lie in a heap that has no checksum.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5ds, h5f, h5fd, h5g, h5p, h5s, h5t

from harness.golden import Form
from harness.layout import Labels, label_path
from harness.store.abc import DIMENSIONS, MANIFEST, MANIFEST_DIM, SHA256, Writer, early_path, labels_array
from harness.store.hdf5 import seal
from harness.store.publish import reaching_the_disk, undisturbed

LIBVER = h5f.LIBVER_V110  # its metadata carries checksums; the default of old would not
NOT_A_VARIABLE = "This is a netCDF dimension but not a netCDF variable."


class Hdf5Writer(Writer):
    """A file in the making, at a temporary path."""

    @undisturbed()
    def __init__(self, path: Path, labels: Mapping[str, Labels]) -> None:
        self._path, self._labels = path, labels
        self._sink = Sink(path)
        self._file = _create_file(self._sink)
        self._plist = h5p.create(h5p.DATASET_CREATE)
        self._plist.set_layout(h5d.CONTIGUOUS)
        self._plist.set_fill_time(h5d.FILL_TIME_NEVER)
        self._group_plist = h5p.create(h5p.GROUP_CREATE)
        for plist in (self._plist, self._group_plist):
            plist.set_obj_track_times(False)  # the same golden is the same file, byte for byte
        self._groups: dict[str, h5g.GroupID] = {"": h5g.open(self._file.id, b"/")}
        self._group(DIMENSIONS)  # before all others
        self._unfinished: dict[str, h5d.DatasetID] = {}
        self._scales: dict[str, h5d.DatasetID] = {}

    @undisturbed()
    def put(self, path: str, form: Form, slab: int, array: np.ndarray) -> None:
        dataset = self._unfinished.pop(path, None)
        if dataset is None:
            dataset = self._create(path, form.shape, array.dtype)
            self._attach(path, form, dataset)
        if form.stacked:
            place = dataset.get_space()
            place.select_hyperslab((slab, *[0] * array.ndim), (1, *array.shape))
            dataset.write(h5s.create_simple(array.shape), place, array, dataset.get_type())
        else:
            dataset.write(h5s.ALL, h5s.ALL, array, dataset.get_type())
        if slab + 1 < form.slabs:
            self._unfinished[path] = dataset
        self._sink.check()

    @undisturbed()
    def finish(self, manifest: bytes, digest: str) -> None:
        self.put(MANIFEST, Form((len(manifest),), "uint8", (MANIFEST_DIM,)), 0, np.frombuffer(manifest, np.uint8))
        self._file[MANIFEST].attrs[SHA256] = np.bytes_(digest)
        self.close()
        self._sink.check()
        with reaching_the_disk(self._path):
            seal(self._path)

    @undisturbed()
    def close(self) -> None:
        self._unfinished.clear()
        self._groups.clear()
        self._scales.clear()
        self._file.close()
        self._sink.close()

    def _create(self, path: str, shape: tuple[int, ...], dtype: np.dtype) -> h5d.DatasetID:
        group, _, name = path.rpartition("/")
        kind = h5t.py_create(dtype, logical=True)
        return h5d.create(self._group(group), name.encode(), kind, h5s.create_simple(shape), self._plist)

    def _group(self, path: str) -> h5g.GroupID:
        if path not in self._groups:
            group, _, name = path.rpartition("/")
            self._groups[path] = h5g.create(self._group(group), name.encode(), gcpl=self._group_plist)
        return self._groups[path]

    def _attach(self, path: str, form: Form, dataset: h5d.DatasetID) -> None:
        """Name the dimensions."""
        for axis, (dim, size) in enumerate(zip(form.dims, form.shape, strict=True)):
            name = label_path(path, dim)
            if name not in self._scales:
                self._scales[name] = self._scale(name, size)
            h5ds.attach_scale(dataset, self._scales[name], axis)

    def _scale(self, name: str, size: int) -> h5d.DatasetID:
        """A new scale: a length, and the labels where there are some."""
        labels = labels_array(self._labels[name]) if name in self._labels else None
        dtype, early = np.dtype("<f4") if labels is None else labels.dtype, early_path(name)
        scale = self._create(early, (size,), dtype)
        group, _, last = name.rpartition("/")
        self._group(group).links.create_hard(last.encode(), self._group(""), early.encode())
        if labels is None:
            h5ds.set_scale(scale, f"{NOT_A_VARIABLE}{size:10d}".encode())
            return scale
        scale.write(h5s.ALL, h5s.ALL, labels, scale.get_type())
        h5ds.set_scale(scale, last.encode())
        if labels.dtype.kind == "S":
            h5py.Dataset(scale).attrs["_Encoding"] = np.bytes_("utf-8")  # else xarray shows bytes
        return scale


def _create_file(sink: Sink) -> h5py.File:
    """A new file. By hand, since versions of h5py differ in whether the root group carries a time."""
    access, creation = h5p.create(h5p.FILE_ACCESS), h5p.create(h5p.FILE_CREATE)
    access.set_libver_bounds(LIBVER, LIBVER)
    access.set_fileobj_driver(h5fd.fileobj_driver, sink)
    creation.set_obj_track_times(False)
    return h5py.File(h5f.create(b"golden", h5f.ACC_TRUNC, fapl=access, fcpl=creation))


class Sink:
    """What h5py's `fileobj` driver asks of a file, with `error` in place of exceptions.

    libhdf5 does not survive a full disk: it tries again at every release of every handle, and version 2.0.0
    then takes the process with it (SIGSEGV). Here the first failure is kept for the writer to raise, and
    everything after it is dropped, so that HDF5 can close a file that will be thrown away.

    Raises:
        OSError: the file cannot be opened. Nothing else raises but `check`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)  # by `open`, where a campaign of faults can be in between
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise what went wrong since the beginning, if anything did.

        Raises:
            OSError: the first failure.
        """
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer) or 0

    def write(self, data: memoryview) -> int:
        """Write all of it: one call may write less than asked where a limit or the end of the disk is near."""
        left = memoryview(data)
        size = left.nbytes
        try:
            while self.error is None and left.nbytes:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                return self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
