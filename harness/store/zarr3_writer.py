"""Writing the Zarr form of a golden, and replacing one at a URL, where nothing can be renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np

from harness.golden import Form
from harness.layout import Labels, label_path
from harness.store import zarr3
from harness.store.abc import MANIFEST, MANIFEST_DIM, SHA256, Writer, parents, raw, writing
from harness.store.files import Files
from harness.store.location import refuse_existing
from harness.store.publish import undisturbed
from harness.store.reader import open_golden
from harness.store.remote import RemoteFiles

# An edition that nothing names is left by a write that died, or being written. No write takes as long as this.
DEAD_AFTER = timedelta(days=1)


class ZarrWriter(Writer):
    """A golden in the making. The manifest's zarr.json is written last: without it, there is no golden.

    Args:
        marked: whether the root's zarr.json is there already.
    """

    def __init__(self, files: Files, labels: Mapping[str, Labels], marked: bool = False) -> None:
        self._files = files
        self._labels = labels
        self._written = {""}
        self._arrays: dict[Form, tuple[Any, zarr3.Blobs]] = {}  # by form: zarr-python takes its time
        self._group = zarr3.in_memory("create_group")[1]
        if not marked:
            self._write("", zarr3.in_memory("create_group", attributes=zarr3.ROOT)[1])

    def put(self, path: str, form: Form, slab: int, array: np.ndarray) -> None:
        if form not in self._arrays:
            self._arrays[form] = zarr3.new_array(form)
        whole, blobs = self._arrays[form]
        if slab == 0:
            self._prepare(path, form)
            self._write(path, {zarr3.DOCUMENT: blobs[zarr3.DOCUMENT]})
        if form.stacked:
            whole[slab : slab + 1] = array[np.newaxis]  # of a chunk's shape: zarr-python copies no other
        else:
            whole[...] = array
        self._write(path, {zarr3.chunk(form, slab): blobs.pop(zarr3.chunk(form, slab))})

    def _prepare(self, path: str, form: Form) -> None:
        """Write what an array needs, once: groups, and labels, which are arrays themselves."""
        for group in parents(path):
            if group not in self._written:
                self._written.add(group)
                self._write(group, self._group)
        for where in (label_path(path, dim) for dim in form.dims):
            if where in self._labels and where not in self._written:
                self._written.add(where)
                labels, values = zarr3.label_array(where, self._labels[where])
                self.put(where, labels, 0, values)

    def _write(self, path: str, blobs: zarr3.Blobs) -> None:
        for name, blob in blobs.items():
            self._files.write(f"{path}/{name}".lstrip("/"), raw(blob.as_numpy_array()))

    def finish(self, manifest: bytes, digest: str) -> None:
        form = Form((len(manifest),), "uint8", (MANIFEST_DIM,))
        whole, blobs = zarr3.new_array(form, **{SHA256: digest})
        whole[...] = np.frombuffer(manifest, np.uint8)
        self._write(MANIFEST, {name: blobs[name] for name in (zarr3.chunk(form), zarr3.DOCUMENT)})


@contextmanager
def replacing(url: str, labels: dict[str, Labels], overwrite: bool) -> Iterator[Writer]:
    """The first golden lies in the root, and is there when its manifest is; another one is an edition, and counts
    when the root's document names it. Either is one object, stored last."""
    files = RemoteFiles(url)
    with writing(url):
        # Asked for first, since some servers store where they should only create.
        first = not files.occupied() and files.create(zarr3.DOCUMENT, zarr3.encoded_document(**zarr3.ROOT))
        if not first:
            refuse_existing(url, overwrite)  # somebody was quicker
        replaced, edition = zarr3.edition_of(files), "" if first else f"{zarr3.EDITION}.{secrets.token_hex(4)}"
        tree = files.below(edition) if edition else files
    try:
        with writing(url):
            writer = ZarrWriter(tree, labels, marked=first)
        yield writer
        open_golden(tree.where).close()
    except BaseException:
        with suppress(Exception):  # what failed first is what to tell
            _take_back(files, edition)
        raise
    if edition:
        # Where this fails it may have been done all the same: the edition stays then, and so does the other.
        with writing(url), undisturbed():
            files.write(zarr3.DOCUMENT, zarr3.encoded_document(**zarr3.root_attributes(edition)))
        with suppress(Exception):  # the golden is published; the next one that replaces it tries again
            files.remove(_leftovers(files, edition, replaced))


def _take_back(files: RemoteFiles, edition: str) -> None:
    """Remove what a failed write has stored, and nothing of another one."""
    counts = zarr3.edition_of(files)
    if edition and edition != counts:
        files.remove([path for path in files.paths() if path.startswith(f"{edition}/")])
    elif not edition:
        mine = [path for path in files.paths() if not path.startswith(f"{zarr3.EDITION}.")]
        files.remove([path for path in mine if not counts or path != zarr3.DOCUMENT])


def _leftovers(files: RemoteFiles, edition: str, replaced: str) -> list[str]:
    """What is no part of the golden any more once an edition counts.

    The golden that it replaced, and what writes have left that died: other editions may be another writer's.
    """
    dead: dict[str, bool] = {edition: False, replaced: True}

    def gone(path: str) -> bool:
        name = path.partition("/")[0]
        if not zarr3.EDITION_NAME.fullmatch(name):
            return path != zarr3.DOCUMENT
        if name not in dead:
            dead[name] = files.older(f"{name}/{zarr3.DOCUMENT}", zarr3.DOCUMENT, DEAD_AFTER)
        return dead[name]

    return [path for path in files.paths() if gone(path)]
