"""The Zarr v3 backend: a directory, or objects below a URL; each array one uncompressed chunk.

Written and read here and not through zarr-python, because the subset is so small that an array's
metadata is a function of its manifest entry: reading compares the document with the one that would
be written today, and so refuses whatever a general reader would interpret (another codec, a fill value
in place of data, an unknown field). It also takes 0.1 ms per array where zarr-python takes 2.5 ms.
That zarr-python and xarray read the result is a test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import GoldenError
from harness.golden import ArrayEntry
from harness.store.abc import MANIFEST, MANIFEST_DIM, SHA256, Reader, Writer, agree, little_endian, parents, raw
from harness.store.files import Files
from harness.store.refusals import FETCH_AGAIN

DOCUMENT = "zarr.json"
DOCUMENT_LIMIT = 1 << 16
MANIFEST_LIMIT = 1 << 30
# What tells a golden's directory from any other Zarr: only such a one is ever deleted by overwriting.
ROOT = {"zarr_format": 3, "node_type": "group", "attributes": {"format": "goldens"}}
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode("ascii")


def array_document(shape: tuple[int, ...], dtype: str, dims: tuple[str, ...], **attributes: str) -> dict[str, Any]:
    """The zarr.json of an array: one chunk, stored as it is in memory."""
    one_byte = little_endian(dtype).itemsize == 1
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype == "bool" else 0,
        "codecs": [{"name": "bytes"} | ({} if one_byte else {"configuration": {"endian": "little"}})],
        "attributes": attributes,
        "dimension_names": list(dims),
    }


def is_golden(files: Files) -> bool:
    """Whether the files below a root are a golden, damaged or unfinished ones included."""
    try:
        document = json.loads(files.read(DOCUMENT, DOCUMENT_LIMIT))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(document, dict) and document.get("attributes") == ROOT["attributes"]


def chunk(rank: int) -> str:
    """The name of an array's only chunk: one file beside zarr.json, thanks to the separator."""
    return ".".join(["c", *"0" * rank])


class ZarrReader(Reader):
    """A golden below a directory or URL. Nothing is read until it is asked for."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.where = files.where

    def read_manifest(self) -> tuple[bytes, str]:
        if not self._files.exists(f"{MANIFEST}/{DOCUMENT}"):
            raise GoldenError(
                "this is not a golden, or its recording was never finished: it has no manifest",
                where=self.where,
                expected=f"{MANIFEST}/{DOCUMENT}",
                found="nothing of that name",
                hint="give the path of a golden; `python generate_goldens.py` records one",
            )
        document = self._document(MANIFEST)
        data = self._files.read(f"{MANIFEST}/{chunk(1)}", MANIFEST_LIMIT)
        digest = str(document["attributes"][SHA256])
        self._compare(MANIFEST, array_document((len(data),), "uint8", (MANIFEST_DIM,), sha256=digest), document)
        return data, digest

    def read(self, path: str, entry: ArrayEntry) -> np.ndarray:
        self.check_structure(path, entry)
        nbytes = math.prod(entry.shape) * little_endian(entry.dtype).itemsize
        name = f"{path}/{chunk(len(entry.shape))}"
        data = self._read(name, nbytes)
        agree("the number of stored bytes", f"{self.where}/{name}", nbytes, len(data))
        return np.frombuffer(data, little_endian(entry.dtype)).reshape(entry.shape)

    def check_structure(self, path: str, entry: ArrayEntry) -> None:
        if path != MANIFEST:  # the manifest's own document is compared as it is read
            self._compare(path, array_document(entry.shape, entry.dtype, entry.dims), self._document(path))

    def check_nothing_else(self, arrays: Mapping[str, ArrayEntry]) -> None:
        """Groups are checked on the way: this reader does not need them, but others do."""
        expected = {f"{MANIFEST}/{DOCUMENT}", f"{MANIFEST}/{chunk(1)}"}
        groups = {""}
        for path, entry in arrays.items():
            expected |= {f"{path}/{DOCUMENT}", f"{path}/{chunk(len(entry.shape))}"}
            groups.update(parents(path))
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

    def __init__(self, files: Files) -> None:
        self._files = files
        self._groups = {""}
        files.write(DOCUMENT, encode(ROOT))

    def add(self, path: str, dims: tuple[str, ...], array: np.ndarray) -> None:
        for group in parents(path):
            if group not in self._groups:
                self._files.write(f"{group}/{DOCUMENT}", encode(GROUP))
                self._groups.add(group)
        document = array_document(array.shape, array.dtype.name, dims)
        self._files.write(f"{path}/{DOCUMENT}", encode(document))
        self._files.write(f"{path}/{chunk(array.ndim)}", raw(array))

    def finish(self, manifest: bytes, digest: str) -> None:
        document = array_document((len(manifest),), "uint8", (MANIFEST_DIM,), sha256=digest)
        self._files.write(f"{MANIFEST}/{chunk(1)}", manifest)
        self._files.write(f"{MANIFEST}/{DOCUMENT}", encode(document))

    def close(self) -> None:
        """Nothing is held open."""
