"""The Zarr v3 backend: a directory, or objects below a URL; each array one uncompressed chunk,
or one for each layer.

zarr-python writes it, into a dict, and `Files` takes that to the disk: one way whatever the target, and nothing
half written where a signal comes while zarr's thread is at work. Reading is our own: zarr's stores follow links
and read a file to its end, whatever its size. It compares documents with those that zarr-python writes of the
manifest's entries, and so refuses what a general reader would interpret (another codec, a fill value for data).

An object store cannot rename, so a golden at a URL is replaced by another tree: an **edition**, a folder in the
root, `edition.{8 digits}`, that is a whole golden by itself. The root's zarr.json names the edition that counts.
It is one object, and storing it is one step: whenever a writer dies, a reader sees the old golden or the new one.

zarr is imported where it is called: importing it takes longer than opening a golden, and HDF5 does without.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from harness.errors import GoldenError
from harness.golden import MANIFEST_LIMIT, ArrayEntry, Form
from harness.layout import Labels
from harness.store.abc import (
    ANOTHER_PATH,
    DIGEST,
    FETCH_AGAIN,
    MANIFEST,
    MANIFEST_DIM,
    SHA256,
    Piece,
    Reader,
    agree,
    little_endian,
    parents,
)
from harness.store.files import Files, ReadAhead, Wanted

DOCUMENT = "zarr.json"
DOCUMENT_LIMIT = 1 << 16
TEXT = "string"
TRANSFORMERS = "storage_transformers"
# What tells a golden's directory from any other Zarr: only such a one is ever deleted by overwriting.
ROOT = {"format": "goldens"}
# Other trees in a golden's root. Those that the root does not name are not looked at.
EDITION = "edition"
EDITION_NAME = re.compile(r"edition\.[0-9a-f]{8}")
Blobs = dict[str, Any]  # what zarr-python wrote, by name


def in_memory(create: str, **options: Any) -> tuple[Any, Blobs]:
    """A node of zarr-python's, whatever the user's configuration of it says, and the dict to which it writes."""
    import zarr

    blobs: Blobs = {}
    with zarr.config.set({"json_indent": 2}):
        return getattr(zarr, create)(zarr.storage.MemoryStore(blobs), zarr_format=3, **options), blobs


def new_array(form: Form, **attributes: str) -> tuple[Any, Blobs]:
    """An array of one chunk for each slab, stored as it is in memory; the dict has its zarr.json."""
    return in_memory(
        "create_array",
        shape=form.shape,
        chunks=(1, *form.slab) if form.stacked else form.shape,
        dtype=TEXT if form.dtype == TEXT else little_endian(form.dtype),
        filters=None,
        compressors=None,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=attributes,
        dimension_names=form.dims,
        config={"order": "C", "write_empty_chunks": True},  # zeros are data
    )


@lru_cache(1024)
def document(form: Form | None = None, **attributes: str) -> dict[str, Any]:
    """The zarr.json of an array or, where there is no form, of a group."""
    blobs = new_array(form, **attributes)[1] if form else in_memory("create_group", attributes=attributes)[1]
    parsed: dict[str, Any] = json.loads(blobs[DOCUMENT].to_bytes())
    return parsed


def encoded_document(**attributes: str) -> bytes:
    """The zarr.json of a group, as zarr-python writes it."""
    return bytes(in_memory("create_group", attributes=attributes)[1][DOCUMENT].to_bytes())


def as_before(current: dict[str, Any]) -> dict[str, Any]:
    """An array's document as this package wrote it before zarr-python did: without what is empty."""
    codecs = [{name: value for name, value in codec.items() if value} for codec in current["codecs"]]
    return {name: value for name, value in current.items() if name != TRANSFORMERS} | {"codecs": codecs}


def label_array(path: str, labels: Labels) -> tuple[Form, np.ndarray]:
    """The array of a dimension's labels: int32, or strings (codec `vlen-utf8`)."""
    dtype = TEXT if isinstance(labels[0], str) else "int32"
    return Form((len(labels),), dtype, (path.rpartition("/")[2],)), np.array(labels)


@lru_cache(64)
def encoded_labels(name: str, labels: Labels) -> tuple[Form, bytes]:
    """The form of a dimension's labels, and their chunk as zarr-python writes it: cases mostly have the same."""
    form, values = label_array(name, labels)
    array, blobs = new_array(form)
    array[...] = values
    return form, bytes(blobs[chunk(form)].to_bytes())


def chunk(form: Form, slab: int = 0) -> str:
    """The name of a slab's chunk: a file beside zarr.json, thanks to the separator."""
    return ".".join(["c", str(slab), *"0" * (len(form.shape) - 1)])


class ZarrReader(Reader):
    """A golden below a directory or URL. Nothing is read until it is asked for, or announced."""

    def __init__(self, files: Files) -> None:
        self._files = ReadAhead(files)
        self._compared: set[str] = set()
        self.where = files.where

    def read_manifest(self) -> tuple[bytes, str]:
        stored = self._document(MANIFEST)
        data = self._read(f"{MANIFEST}/c.0", MANIFEST_LIMIT)
        attributes = stored.get("attributes")
        digest = attributes.get(SHA256) if isinstance(attributes, dict) else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            agree("the sha256 beside the manifest", f"{self.where}/{MANIFEST}", "64 digits", type(digest).__name__)
        form = Form((len(data),), "uint8", (MANIFEST_DIM,))
        self._compare(MANIFEST, document(form, **{SHA256: str(digest)}), stored)
        return data, str(digest)

    def ahead(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return self._files.ahead(pieces, self._blobs)

    def _blobs(self, piece: Piece) -> list[Wanted]:
        """What reading a piece will ask for: its chunk, and the array's document where that is not known yet."""
        path, entry, slab = piece
        known = path in self._compared
        return [*([] if known else [(f"{path}/{DOCUMENT}", DOCUMENT_LIMIT)]), _chunk_of(path, entry, slab)]

    def read(self, path: str, entry: ArrayEntry, slab: int) -> np.ndarray:
        if path not in self._compared:
            self._compare(path, document(entry.form), self._document(path))
            self._compared.add(path)
        name, nbytes = _chunk_of(path, entry, slab)
        data = self._read(name, nbytes)
        agree("the number of stored bytes", f"{self.where}/{name}", nbytes, len(data))
        return np.frombuffer(data, little_endian(entry.dtype)).reshape(entry.slab)

    def check_structure(self, path: str, entry: ArrayEntry, labels: Mapping[str, Labels]) -> None:
        if path != MANIFEST and path not in self._compared:  # those that were read have been compared
            self._compare(path, document(entry.form), self._document(path))

    def _check_labels(self, path: str, labels: Labels) -> None:
        form, expected = encoded_labels(path.rpartition("/")[2], labels)
        self._compare(path, document(form), self._document(path))
        name = f"{path}/{chunk(form)}"
        agree("the labels of a dimension", f"{self.where}/{name}", expected, self._read(name, len(expected)))

    def check_nothing_else(self, arrays: Mapping[str, ArrayEntry], labels: Mapping[str, Labels]) -> None:
        """Groups are checked on the way: this reader does not need them, but others do."""
        expected = {f"{MANIFEST}/{DOCUMENT}", f"{MANIFEST}/c.0"}
        groups = {""}
        for path, entry in arrays.items():
            expected |= {f"{path}/{DOCUMENT}", *(f"{path}/{chunk(entry, slab)}" for slab in range(entry.slabs))}
            groups.update(parents(path))
        for path in labels:
            expected |= {f"{path}/{DOCUMENT}", f"{path}/c.0"}
        for path in self._files.ahead(sorted(labels), lambda path: _small(f"{path}/{DOCUMENT}", f"{path}/c.0")):
            self._check_labels(path, labels[path])
        for group in self._files.ahead(sorted(groups), lambda path: _small(f"{path}/{DOCUMENT}".lstrip("/"))):
            expected.add(f"{group}/{DOCUMENT}".lstrip("/"))
            self._compare(group, document(**({} if group else ROOT)), self._document(group))
        for path in sorted(set(self._files.paths()) - expected):
            if EDITION_NAME.fullmatch(path.partition("/")[0]):
                continue
            problem, hint = "there is a file that is no part of the golden", "remove it, or fetch the golden again"
            raise GoldenError(problem, f"{self.where}/{path}", hint=hint)

    @property
    def nbytes(self) -> int | None:
        return self._files.nbytes

    def _document(self, path: str) -> dict[str, Any]:
        parsed = json.loads(self._read(f"{path}/{DOCUMENT}".lstrip("/"), DOCUMENT_LIMIT))
        if not isinstance(parsed, dict):
            raise ValueError(f"{path}/{DOCUMENT} is not a JSON object")
        return parsed

    def _read(self, name: str, limit: int) -> bytes:
        try:
            return self._files.read(name, limit)
        except FileNotFoundError:
            problem, hint = "the golden lacks a file", FETCH_AGAIN
            if name == f"{MANIFEST}/{DOCUMENT}":
                self._files.refuse_no_bucket()
                problem = "this is not a golden, or its recording was never finished: it has no manifest"
                hint = ANOTHER_PATH
            raise GoldenError(problem, f"{self.where}/{name}", hint=hint) from None

    def _compare(self, path: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
        where = f"{self.where}/{path}/{DOCUMENT}"
        if "codecs" in expected and TRANSFORMERS not in found:
            expected = as_before(expected)
        agree("the set of fields", where, sorted(expected), sorted(found))
        for field in expected:
            agree(f"the field {field!r} of an array or group", where, expected[field], found[field])


def _chunk_of(path: str, entry: ArrayEntry, slab: int) -> Wanted:
    """A slab's chunk, and the bytes that it has."""
    return f"{path}/{chunk(entry, slab)}", math.prod(entry.slab) * little_endian(entry.dtype).itemsize


def _small(*names: str) -> list[Wanted]:
    return [(name, DOCUMENT_LIMIT) for name in names]


def is_golden(files: Files) -> bool:
    """Whether the files below a root are a golden, damaged or unfinished ones included."""
    attributes = _root(files).get("attributes")
    return isinstance(attributes, dict) and attributes == root_attributes(_named(attributes))


def edition_of(files: Files) -> str:
    """The edition that the root names; empty where the golden lies in the root itself, or none is there."""
    root = _root(files)
    name = _named(root.get("attributes"))
    return name if name and root == document(**root_attributes(name)) else ""


def current(files: Files) -> Files:
    """The tree that is the golden."""
    edition = edition_of(files)
    return files.below(edition) if edition else files


def root_attributes(edition: str) -> dict[str, str]:
    """What the root's zarr.json says: of which edition, if any."""
    return ROOT | ({EDITION: edition} if edition else {})


def _named(attributes: object) -> str:
    name = attributes.get(EDITION) if isinstance(attributes, dict) else None
    return name if isinstance(name, str) and EDITION_NAME.fullmatch(name) else ""


def _root(files: Files) -> dict[str, object]:
    """The root's zarr.json; empty where there is none, or none that can be read as one."""
    try:
        parsed = json.loads(files.read(DOCUMENT, DOCUMENT_LIMIT))
    except (FileNotFoundError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
