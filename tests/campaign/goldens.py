"""Goldens made to mislead or to hurt: manifests edited and sealed again, HDF5 and Zarr as nobody writes them.

Claim: each is read or refused, in few words, bounded time and memory; nothing outside of it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from hypothesis import strategies as st

from harness import embedded
from harness.golden import Manifest, encode
from harness.layout import Layout
from harness.store import open_golden
from harness.store.abc import sha256
from harness.store.files import LocalFiles
from harness.store.hdf5_writer import Hdf5Writer
from harness.store.writer import NewArray, write_golden
from harness.store.zarr3_writer import ZarrWriter
from tests.campaign.checkpoints import Named
from tests.campaign.damage import contents, judged
from tests.campaign.forked import forked, goldens, held, imported
from tests.campaign.hostile import VALUES, Document, edited, json_bytes
from tests.campaign.trials import Tried
from tests.store import places, small_golden

CASE = "hello"
OUTSIDE = "/etc/passwd"
ATTRIBUTES = ("sha256", "DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_Encoding", "x")
DTYPES = ("<f8", "<f4", ">f8", "<i8", "u1", "S64", "S1", "?", "<c16", "O", "V3")
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (64,), (2, 3), (1 << 40,), (1, 2, 3, 1, 6), (1,) * 32)


def slice_of(source: Path, target: Path, case: str) -> Path:
    """A golden of one case of another."""
    with open_golden(source) as golden:
        manifest = replace(golden.manifest, cases=(golden.manifest.case(case),), arrays={})
        write_golden(target, _pieces(manifest, golden._array), manifest)
    return target


def _pieces(manifest: Manifest, read: Callable[..., np.ndarray]) -> Iterable[NewArray]:
    for path, form in Layout(manifest).forms():
        for slab in range(form.slabs):
            yield NewArray(path, read(path, slab if form.stacked else None), slab)


def unchecked(path: Path, manifest: Manifest, arrays: Iterable[NewArray], encoded: bytes) -> None:
    """Store arrays beside a manifest that says of them what it likes, sealed."""
    layout = Layout(manifest)
    forms = dict(layout.forms())
    zarr = path.suffix == ".zarr"
    if zarr:
        path.mkdir()
    writer = ZarrWriter(LocalFiles(path), layout.labels) if zarr else Hdf5Writer(path, layout.labels)
    for new in arrays:
        writer.put(new.path, forms[new.path], new.index, new.array)
    writer.finish(encoded, sha256(encoded))
    writer.close()


def canonical(document: Any) -> bytes:
    """A manifest as its writer would store it, where it could; anything else is refused for its form alone."""
    try:
        encoded = msgspec.json.encode(document, order="deterministic")
        return encode(msgspec.json.decode(encoded, type=Manifest))
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


class Hostile:
    """A folder in which every trial lays out a golden."""

    def __init__(self, folder: Path) -> None:
        self.trial, self.whole = folder / "trial", folder / "whole"
        self.whole.mkdir()
        for kind in ("h5", "zarr"):
            places.make(kind, self.whole).write()
        self.manifest = small_golden.complete()
        self.slice = slice_of(embedded.golden(), self.whole / "slice.h5", CASE)
        with open_golden(self.slice) as golden:
            self.sliced = golden.manifest
            self.pieces = list(_pieces(golden.manifest, golden._array))

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        return self.trial / name

    def read(self, path: Path) -> bool:
        """Claim: all of it is read, or it is refused."""

        def everything() -> int:
            contents(path)
            return 0

        return judged(everything, 1 << 20, path)

    def manifest_of(self, suffix: str) -> Callable[[Any], bool]:
        def action(document: Document) -> bool:
            path = self.fresh(f"a.{suffix}")
            unchecked(path, self.manifest, small_golden.arrays(), canonical(document.value))
            return self.read(path)

        return action

    def checked(self, document: Document) -> bool:
        """Claim: the built-in port is checked against it, or it is refused."""
        path = self.fresh("a.h5")
        unchecked(path, self.sliced, self.pieces, canonical(document.value))
        words = ("--weights", embedded.directory() / "qwen2-tiny", "--precision", "float32", "--mode", "replay")
        return held(forked(lambda: goldens("check", path, *words), 60), (0, 1, 2), path.stat().st_size).code == 2

    def hdf5(self, made: list[Named]) -> bool:
        """Claim: the same of an HDF5 file that somebody has edited and sealed again."""
        path = self.fresh("a.h5")
        shutil.copyfile(self.whole / "small.h5", path)

        def edit() -> int:
            with places.editing(path):
                pass
            for one in made:
                with contextlib.suppress(Exception):  # what an edit before it has made impossible
                    one.change(path)
            return 0

        forked(edit)
        return self.read(path)

    def zarr(self, made: list[Named]) -> bool:
        """Claim: the same of a directory."""
        path = self.fresh("a.zarr")
        shutil.copytree(self.whole / "small.zarr", path)
        for one in made:
            with contextlib.suppress(OSError):
                one.change(path)
        return self.read(path)


@st.composite
def of_hdf5(draw: Any, names: list[str]) -> Named:
    """One edit of a file: an attribute, or something else in the place of an array or a group."""
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["attribute", "dataset", "dataset", "link", "group", "type", "out", "extra"]))
    attribute, how = draw(st.sampled_from(ATTRIBUTES)), draw(st.integers(0, 6))
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))

    def change(path: Path) -> None:
        with places.editing(path) as file:
            if kind == "attribute":
                values = (
                    np.zeros(shape[:2] or 1),
                    "x" * 70_000,
                    h5py.Empty("f8"),
                    file.ref,
                    "é",
                    np.bytes_("A" * 64),
                    1,
                )
                file[name].attrs[attribute] = values[how]
                return
            if kind != "extra":
                del file[name]
            if kind == "dataset":
                options = (
                    {},
                    {"chunks": True},
                    {"compression": "gzip"},
                    {"external": OUTSIDE},
                    {"maxshape": None},
                )
                file.create_dataset(name, shape, dtype, **options[how % 5])
            elif kind == "link":
                links = (h5py.SoftLink(other), h5py.SoftLink(name), h5py.ExternalLink("/dev/zero", "/"))
                file[name] = (*links, h5py.ExternalLink(OUTSIDE, "/x"), h5py.ExternalLink(str(path), "/"))[how % 5]
            elif kind == "group":
                file.create_group(name)
            elif kind == "type":
                file[name] = np.dtype("f8")
            elif kind == "extra":
                file[f"{name}x"] = file[other]

    return Named(f"{kind} {name}, {other}, {attribute}, {dtype}, {shape}, {how}", change)


@st.composite
def of_zarr(draw: Any, files: list[str], documents: dict[str, Any]) -> Named:
    """One edit of a directory: what a file says, or what stands in its place."""
    name = draw(st.sampled_from(files))
    kind = draw(
        st.sampled_from(["fifo", "link", "device", "folder", "sparse", "parent", "json", "json", "any", "extra"])
    )
    document = draw(st.sampled_from(sorted(documents)))
    content = draw(
        json_bytes(edited(documents[document]).map(lambda one: one.value) if kind == "json" else VALUES)
    )

    def change(root: Path) -> None:
        path = root / (document if kind == "json" else name)
        if kind == "parent":
            aside = root.with_name("aside")
            path.parent.rename(aside)
            path.parent.symlink_to(aside)
            return
        if kind == "extra":
            path.with_name(f"{path.name}x").write_bytes(content)
            return
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind in ("link", "device"):
            path.symlink_to(OUTSIDE if kind == "link" else "/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            path.touch()
            os.truncate(path, 1 << 40)
        else:
            path.write_bytes(content)

    return Named(f"{kind} {document if kind == 'json' else name}: {content[:300]!r}", change)


def claims(folder: Path) -> list[Tried]:
    """All of them; the last needs jax."""
    imported("xarray", "rich.progress", "harness.cli", "harness.cli.console", "harness.report.pages.golden")
    hostile = Hostile(folder)
    document = msgspec.json.decode(encode(hostile.manifest))
    sliced = msgspec.json.decode(encode(hostile.sliced))
    names: list[str] = []
    with h5py.File(hostile.whole / "small.h5") as file:
        file.visit(names.append)
    root = hostile.whole / "small.zarr"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    documents = {name: json.loads((root / name).read_bytes()) for name in files if name.endswith("zarr.json")}
    return [
        Tried(
            "an edited manifest, sealed, HDF5: read or refused", edited(document), hostile.manifest_of("h5"), 1, 30
        ),
        Tried("the same, Zarr", edited(document), hostile.manifest_of("zarr"), 0.5, 30),
        Tried("a hostile HDF5 file", st.lists(of_hdf5(names), min_size=1, max_size=2), hostile.hdf5, 1, 40),
        Tried("a hostile Zarr", st.lists(of_zarr(files, documents), min_size=1, max_size=2), hostile.zarr, 1, 30),
        Tried("an edited manifest, sealed: checked or refused", edited(sliced), hostile.checked, 0.1, 60),
    ]
