"""The Zarr v3 backend: a directory, or objects below a URL; each array one uncompressed chunk,
or one for each layer.

Written and read here and not through zarr-python, because the subset is so small that an array's
metadata is a function of its manifest entry: reading compares the document with the one that would
be written today, and so refuses whatever a general reader would interpret (another codec, a fill value
in place of data, an unknown field). It is also several times faster (tests/benchmarks/bench_xarray.py).
That zarr-python and xarray read the result is a test.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import GoldenError
from harness.golden import MANIFEST_LIMIT, ArrayEntry, Form
from harness.layout import Labels, label_path
from harness.store.abc import (
    DIGEST,
    MANIFEST,
    MANIFEST_DIM,
    SHA256,
    Reader,
    Writer,
    agree,
    little_endian,
    parents,
    raw,
)
from harness.store.files import Files
from harness.store.refusals import FETCH_AGAIN

DOCUMENT = "zarr.json"
DOCUMENT_LIMIT = 1 << 16
TEXT = "string"
# What tells a golden's directory from any other Zarr: only such a one is ever deleted by overwriting.
ROOT = {"zarr_format": 3, "node_type": "group", "attributes": {"format": "goldens"}}
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode("ascii")


def array_document(form: Form, **attributes: str) -> dict[str, Any]:
    """The zarr.json of an array: one chunk for each slab, stored as it is in memory."""
    text, one_byte = form.dtype == TEXT, form.dtype != TEXT and little_endian(form.dtype).itemsize == 1
    codec: dict[str, Any] = {"name": "vlen-utf8" if text else "bytes"}
    if not (text or one_byte):
        codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(form.shape),
        "data_type": form.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [1, *form.slab] if form.stacked else list(form.shape)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "" if text else False if form.dtype == "bool" else 0,
        "codecs": [codec],
        "attributes": attributes,
        "dimension_names": list(form.dims),
    }


def label_files(path: str, labels: Labels) -> dict[str, bytes]:
    """The files of an array with a dimension's labels: one chunk of int32, or of strings (codec `vlen-utf8`)."""
    text = isinstance(labels[0], str)
    form = Form((len(labels),), TEXT if text else "int32", (path.rpartition("/")[2],))
    if text:
        texts = [str(label).encode() for label in labels]
        data = struct.pack("<I", len(texts)) + b"".join(struct.pack("<I", len(one)) + one for one in texts)
    else:
        data = struct.pack(f"<{len(labels)}i", *labels)
    return {f"{path}/{DOCUMENT}": encode(array_document(form)), f"{path}/c.0": data}


def is_golden(files: Files) -> bool:
    """Whether the files below a root are a golden, damaged or unfinished ones included."""
    try:
        document = json.loads(files.read(DOCUMENT, DOCUMENT_LIMIT))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(document, dict) and document.get("attributes") == ROOT["attributes"]


def chunk(form: Form, slab: int = 0) -> str:
    """The name of a slab's chunk: a file beside zarr.json, thanks to the separator."""
    return ".".join(["c", str(slab), *"0" * (len(form.shape) - 1)])


class ZarrReader(Reader):
    """A golden below a directory or URL. Nothing is read until it is asked for."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._labels: set[str] = set()
        self._latest = ""
        self.where = files.where

    def read_manifest(self) -> tuple[bytes, str]:
        if not self._files.exists(f"{MANIFEST}/{DOCUMENT}"):
            raise GoldenError(
                "this is not a golden, or its recording was never finished: it has no manifest",
                where=self.where,
                expected=f"{MANIFEST}/{DOCUMENT}",
                found="nothing of that name",
                hint="give the path of a golden; `goldens record` makes one",
            )
        document = self._document(MANIFEST)
        data = self._read(f"{MANIFEST}/c.0", MANIFEST_LIMIT)
        attributes = document.get("attributes")
        digest = attributes.get(SHA256) if isinstance(attributes, dict) else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            agree("the sha256 beside the manifest", f"{self.where}/{MANIFEST}", "64 digits", type(digest).__name__)
        form = Form((len(data),), "uint8", (MANIFEST_DIM,))
        self._compare(MANIFEST, array_document(form, sha256=str(digest)), document)
        return data, str(digest)

    def read(self, path: str, entry: ArrayEntry, slab: int) -> np.ndarray:
        if path != self._latest:  # the slabs of a stack are read one after the other
            self._compare(path, array_document(entry), self._document(path))
            self._latest = path
        nbytes = math.prod(entry.slab) * little_endian(entry.dtype).itemsize
        name = f"{path}/{chunk(entry, slab)}"
        data = self._read(name, nbytes)
        agree("the number of stored bytes", f"{self.where}/{name}", nbytes, len(data))
        return np.frombuffer(data, little_endian(entry.dtype)).reshape(entry.slab)

    def check_structure(self, path: str, entry: ArrayEntry, labels: Mapping[str, Labels]) -> None:
        if path != MANIFEST:  # the manifest's own document is compared as it is read
            self._compare(path, array_document(entry), self._document(path))
        for dim in entry.dims:
            where = label_path(path, dim)
            if where in labels and where not in self._labels:
                self._labels.add(where)
                for name, expected in label_files(where, labels[where]).items():
                    what = "the labels of a dimension"
                    agree(what, f"{self.where}/{name}", expected, self._read(name, len(expected)))

    def check_nothing_else(self, arrays: Mapping[str, ArrayEntry], labels: Mapping[str, Labels]) -> None:
        """Groups are checked on the way: this reader does not need them, but others do."""
        expected = {f"{MANIFEST}/{DOCUMENT}", f"{MANIFEST}/c.0"}
        groups = {""}
        for path, entry in arrays.items():
            expected |= {f"{path}/{DOCUMENT}", *(f"{path}/{chunk(entry, slab)}" for slab in range(entry.slabs))}
            groups.update(parents(path))
        for path in labels:
            expected |= {f"{path}/{DOCUMENT}", f"{path}/c.0"}
        for group in sorted(groups):
            expected.add(f"{group}/{DOCUMENT}".lstrip("/"))
            self._compare(group, GROUP if group else ROOT, self._document(group))
        for path in sorted(set(self._files.paths()) - expected):
            raise GoldenError(
                "there is a file that is no part of the golden",
                where=f"{self.where}/{path}",
                hint="remove it, or fetch the golden again",
            )

    @property
    def nbytes(self) -> int | None:
        return self._files.nbytes

    def close(self) -> None:
        """Nothing is held open."""

    def _document(self, path: str) -> dict[str, Any]:
        document = json.loads(self._read(f"{path}/{DOCUMENT}".lstrip("/"), DOCUMENT_LIMIT))
        if not isinstance(document, dict):
            raise ValueError(f"{path}/{DOCUMENT} is not a JSON object")
        return document

    def _read(self, name: str, limit: int) -> bytes:
        try:
            return self._files.read(name, limit)
        except FileNotFoundError:
            raise GoldenError("the golden lacks a file", where=f"{self.where}/{name}", hint=FETCH_AGAIN) from None

    def _compare(self, path: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
        where = f"{self.where}/{path}/{DOCUMENT}"
        agree("the set of fields", where, sorted(expected), sorted(found))
        for field in expected:
            agree(f"the field {field!r} of an array or group", where, expected[field], found[field])


class ZarrWriter(Writer):
    """A golden in the making. The manifest's zarr.json is written last: without it, there is no golden."""

    def __init__(self, files: Files, labels: Mapping[str, Labels]) -> None:
        self._files = files
        self._labels = labels
        self._written = {""}
        files.write(DOCUMENT, encode(ROOT))

    def put(self, path: str, form: Form, slab: int, array: np.ndarray) -> None:
        if slab == 0:
            self._begin(path, form)
        self._files.write(f"{path}/{chunk(form, slab)}", raw(array))

    def _begin(self, path: str, form: Form) -> None:
        """Write an array's zarr.json, and before it what it needs: groups and labels."""
        for group in parents(path):
            if group not in self._written:
                self._files.write(f"{group}/{DOCUMENT}", encode(GROUP))
                self._written.add(group)
        for where in (label_path(path, dim) for dim in form.dims):
            if where in self._labels and where not in self._written:
                self._written.add(where)
                for name, data in label_files(where, self._labels[where]).items():
                    self._files.write(name, data)
        self._files.write(f"{path}/{DOCUMENT}", encode(array_document(form)))

    def finish(self, manifest: bytes, digest: str) -> None:
        document = array_document(Form((len(manifest),), "uint8", (MANIFEST_DIM,)), sha256=digest)
        self._files.write(f"{MANIFEST}/c.0", manifest)
        self._files.write(f"{MANIFEST}/{DOCUMENT}", encode(document))

    def close(self) -> None:
        """Nothing is held open."""
