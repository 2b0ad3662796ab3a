"""Goldens that somebody made to hurt: refused before anything is read into a buffer, waited for or allocated."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import FREE_LIMIT, encode
from harness.store import hdf5, open_golden, writer, zarr3
from harness.store.writer import check_writable, write_golden
from tests.store import places, small_golden
from tests.store.test_store import refusal

PATIENCE_S = 10


@contextmanager
def patience():
    """What waits for somebody who never comes fails, instead of the whole run."""

    def fail(*_):
        raise AssertionError("it waits")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)


@pytest.fixture
def file(tmp_path):
    place = places.make("h5", tmp_path)
    place.lay()
    return place.file


@pytest.fixture
def folder(tmp_path):
    place = places.make("zarr", tmp_path)
    place.lay()
    return tmp_path / "small.zarr"


def with_attribute(file, make):
    with places.editing(file) as opened:
        del opened["manifest"].attrs["sha256"]
        make(opened["manifest"].attrs)


ATTRIBUTES = {
    "an array": lambda attrs: attrs.create("sha256", np.array([b"A" * 64] * 1000)),
    "an array of one": lambda attrs: attrs.create("sha256", np.array([b"A" * 64])),
    "longer": lambda attrs: attrs.create("sha256", np.array(b"A" * 100_000)),
    "shorter": lambda attrs: attrs.create("sha256", np.array(b"A")),
    "of variable length": lambda attrs: attrs.create("sha256", "A" * 64),
    "numbers": lambda attrs: attrs.create("sha256", np.zeros(64)),
    "a compound": lambda attrs: attrs.create("sha256", np.zeros((), [("a", "S64"), ("b", "f8", (99,))])),
    "empty": lambda attrs: attrs.create("sha256", h5py.Empty("S64")),
    "missing": lambda attrs: None,
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_what_stands_in_place_of_the_manifests_sha256_never_overruns_the_buffer(file, attribute):
    """In a process of its own: a heap that was overrun takes the process down now or later."""
    with_attribute(file, ATTRIBUTES[attribute])
    code = f"""
        from harness.errors import GoldenError
        from harness.store import open_golden
        for _ in range(20):
            try:
                open_golden({str(file)!r})
            except GoldenError as error:
                print(error.where)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("manifest, attribute sha256") == 20


def test_elements_that_are_wider_on_disk_than_they_look_are_refused(file):
    """An enum of FALSE and TRUE is a bool to h5py, however many bytes it has."""
    with places.editing(file) as opened:
        del opened["cases/padded/mask"]
        wide = h5py.h5t.enum_create(h5py.h5t.STD_I64LE)
        wide.enum_insert(b"FALSE", 0)
        wide.enum_insert(b"TRUE", 1)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((2, 3))
        h5py.h5d.create(opened.id, b"cases/padded/mask", wide, space, plist)
    refusal(file, "the size of an array's elements", read=lambda golden: golden.case("padded"))


@pytest.mark.parametrize("backend", ["h5", "zarr", "zarr-memory-url"])
def test_a_manifest_beyond_the_limit_is_neither_read_nor_written(tmp_path, monkeypatch, backend):
    place = places.make(backend, tmp_path)
    place.lay()
    length = len(encode(small_golden.complete()))
    for module in (hdf5, zarr3, writer):
        monkeypatch.setattr(module, "MANIFEST_LIMIT", length)
    place.contents()
    for module in (hdf5, zarr3, writer):
        monkeypatch.setattr(module, "MANIFEST_LIMIT", length - 1)
    refusal(place.path, f"at most {length - 1:,} bytes")
    with pytest.raises(GoldenError, match="longer than a reader reads"):
        place.write(overwrite=True)


def test_a_manifest_that_only_claims_to_be_long_is_refused(file):
    with places.editing(file) as opened:
        del opened["manifest"]
        opened.create_dataset("manifest", (1 << 40,), "u1", chunks=(1 << 20,))
    refusal(file, "the length of the manifest")


@pytest.mark.parametrize("part", ["environment", "config"])
def test_parts_without_a_form_of_their_own_are_bounded_before_they_are_read(tmp_path, part):
    document = msgspec.json.decode(encode(small_golden.complete()))
    where = document if part == "environment" else document["model"]
    where[part]["x"] = [[]] * (FREE_LIMIT // 3)
    place = places.make("h5", tmp_path)
    place.write_unchecked(msgspec.json.encode(document, order="deterministic"))
    refusal(place.path, f"{part} is longer than")


@pytest.mark.parametrize("suffix", ["h5", "zarr", "golden"])
def test_a_fifo_at_the_path_of_a_golden_is_refused_and_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    os.mkfifo(path)
    with patience():
        refusal(path, "not a regular file")
        if suffix == "h5":
            with pytest.raises(GoldenError, match="is not replaced"):
                check_writable(path, True)
            with pytest.raises(GoldenError, match="is not replaced"):
                write_golden(path, small_golden.arrays(), small_golden.manifest(), overwrite=True)


def test_a_device_is_no_golden():
    with patience():
        refusal("/dev/zero", "not a regular file")


PARTS = [
    "zarr.json",
    "manifest/zarr.json",
    "manifest/c.0",
    "cases/zarr.json",
    "cases/two-tokens/taps/q/zarr.json",
    "cases/two-tokens/taps/q/c.0.0.0.0.0",
    "cases/two-tokens/taps/layer/c.0",
]


def stand_in(kind, path):
    """Put something else in the place of a file."""
    aside = path.with_name("aside")
    path.rename(aside)
    if kind == "fifo":
        os.mkfifo(path)
        aside.unlink()
    elif kind == "link":
        outside = Path(*path.parts[: path.parts.index("small.zarr")], "outside")
        aside.rename(outside)
        path.symlink_to(outside)
    elif kind == "device":
        path.symlink_to("/dev/zero")
        aside.unlink()
    elif kind == "folder":
        path.mkdir()
        aside.unlink()
    else:
        os.truncate(aside, 1 << 32)  # sparse: no byte of it is there
        aside.rename(path)


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "folder", "4 GiB"])
@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_a_zarr_is_followed_waited_for_or_read_to_an_end_that_never_comes(folder, kind, part):
    stand_in(kind, folder / part)
    with patience():
        refusal(folder)


def test_a_folder_that_is_a_link_is_not_followed(folder, tmp_path):
    (folder / "cases" / "padded").rename(tmp_path / "elsewhere")
    (folder / "cases" / "padded").symlink_to(tmp_path / "elsewhere")
    refusal(folder, "is a link", read=lambda golden: golden.case("padded"))
    refusal(folder)


def test_a_link_that_is_no_part_of_the_golden_is_refused(folder, tmp_path):
    (folder / "more").symlink_to(tmp_path)
    refusal(folder, "no part of the golden")


def test_other_labels_than_the_manifest_says_are_refused(folder, file):
    chunk = folder / "cases" / "kept" / "noise" / "tap" / "c.0"
    chunk.write_bytes(chunk.read_bytes().replace(b"layers.0.q", b"layers.9.q"))
    refusal(folder, "labels of a dimension")
    with places.editing(file) as opened:
        opened["cases/two-tokens/taps/layer"][...] = [1, 0]
    refusal(file, "labels of a dimension", "cases/two-tokens/taps/layer")


def test_scales_that_are_no_references_are_refused(file):
    with places.editing(file) as opened:
        mask = opened["cases/padded/mask"]
        del mask.attrs["DIMENSION_LIST"]
        mask.attrs.create("DIMENSION_LIST", np.zeros((2, 10_000)))
    refusal(file, "dimension scales", "cases/padded/mask")


def with_config(**changes):
    made = small_golden.manifest()
    return replace(made, model=replace(made.model, config=small_golden.config(**changes)))


UNSAID = {
    "an infinite theta": lambda: with_config(rope_theta=float("inf")),
    "no number": lambda: small_golden.manifest(environment={"torch": float("nan")}),
    "half a character": lambda: small_golden.manifest(environment={"torch": "\ud800"}),
    "an infinity deep inside": lambda: small_golden.manifest(environment={"a": {"b": [1, {"c": float("-inf")}]}}),
}


@pytest.mark.parametrize("backend", ["h5", "zarr"])
@pytest.mark.parametrize("unsaid", UNSAID)
def test_what_json_does_not_have_is_never_published(tmp_path, backend, unsaid):
    place = places.make(backend, tmp_path)
    with pytest.raises(GoldenError) as caught:
        write_golden(place.path, small_golden.arrays(), UNSAID[unsaid]())
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_golden_that_does_not_open_is_never_published(tmp_path, monkeypatch):
    def refused(path):
        raise GoldenError("it does not open", hint="record it again")

    for backend in ("h5", "zarr"):
        place = places.make(backend, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "open_golden", refused)
            with pytest.raises(GoldenError, match="does not open"):
                place.write()
        assert not list(tmp_path.iterdir())


def handles():
    """How many files this process has open, where that can be known."""
    return len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 0


def test_a_hostile_golden_leaves_nothing_open(file):
    with_attribute(file, ATTRIBUTES["numbers"])
    before = handles()
    for _ in range(20):
        with pytest.raises(GoldenError):
            open_golden(file)
    assert handles() <= before + 2
