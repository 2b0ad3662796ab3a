"""Damage of every kind, on every backend: each is refused with a GoldenError, or has changed nothing."""

import random

import h5py
import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import tap_path
from harness.store import open_golden
from tests.store import places
from tests.store.test_store import refusal

TAP = tap_path("two-tokens", "layers.0.probs")
FLIPS = 300
LENGTHS = 60


def outcome(place, original):
    """`refused`, or `same` where everything reads as it was; any other exception fails the test."""
    try:
        found = place.contents()
    except GoldenError as error:
        assert error.hint
        assert error.where is not None
        return "refused"
    assert found == original
    return "same"


def test_any_single_flipped_byte_is_refused_or_changes_nothing(golden):
    original, blobs = golden.contents(), golden.blobs()
    places_ = [(blob, offset) for blob, data in blobs.items() for offset in range(len(data))]
    rng = random.Random(20)
    outcomes = []
    for blob, offset in rng.sample(places_, FLIPS):
        damaged = bytearray(blobs[blob])
        damaged[offset] ^= rng.choice((0x01, 0x80, 0xFF))
        golden.put(blob, bytes(damaged))
        outcomes.append(outcome(golden, original))
        golden.put(blob, blobs[blob])
    assert outcomes.count("refused") > FLIPS // 4
    assert golden.contents() == original


@pytest.mark.parametrize("path", ["manifest", *places.entries()])
def test_a_flipped_byte_of_data_is_always_refused_by_name(golden, path):
    entry = places.entries().get(path)
    blob, offset = golden.data_of(path, len(entry.shape) if entry else 1)
    data = golden.blobs()[blob]
    size = np.prod(entry.shape) * np.dtype(entry.dtype).itemsize if entry else 1000
    for at in {0, int(size) // 2, int(size) - 1}:
        damaged = bytearray(data)
        damaged[offset + at] ^= 0x04
        golden.put(blob, bytes(damaged))
        refusal(golden.path, path, "sha256")
    golden.put(blob, data)
    if entry:
        flipped = bytearray(data)
        flipped[offset] ^= 1
        golden.put(blob, bytes(flipped))
        refusal(golden.path, path, "sha256", entry.sha256, read=lambda opened: opened._array(path))


def test_a_flipped_digest_of_the_manifest_is_refused(golden):
    with open_golden(golden.path) as opened:
        digest = opened.id.encode()
    (blob,) = [blob for blob, data in golden.blobs().items() if digest in data]
    damaged = golden.blobs()[blob].replace(digest, digest[:-1] + (b"0" if digest[-1:] != b"0" else b"1"))
    golden.put(blob, damaged)
    refusal(golden.path)


def test_a_golden_cut_off_anywhere_is_refused(golden):
    original, blobs = golden.contents(), golden.blobs()
    rng = random.Random(21)
    for blob, data in blobs.items():
        lengths = {0, 1, len(data) // 2, len(data) - 1}
        if len(blobs) == 1:
            lengths |= {rng.randrange(len(data)) for _ in range(LENGTHS)}
        for length in lengths - {len(data)}:
            golden.put(blob, data[:length])
            assert outcome(golden, original) == "refused", (blob, length)
        golden.put(blob, data)


def test_a_golden_of_which_a_file_is_missing_is_refused(golden):
    original = golden.contents()
    for blob, data in golden.blobs().items():
        golden.remove(blob)
        assert outcome(golden, original) == "refused", blob
        golden.put(blob, data)


def test_data_that_grew_is_refused_or_changes_nothing(golden):
    original = golden.contents()
    for blob, data in golden.blobs().items():
        golden.put(blob, data + b"\0" * 8)
        is_data = blob.rpartition("/")[2].startswith("c.")
        assert outcome(golden, original) == "refused" or not is_data
        golden.put(blob, data)


def test_two_arrays_exchanged_are_refused(golden):
    """Same shape, same dtype, whole data: only the name is wrong."""
    one, other = tap_path("two-tokens", "embed"), tap_path("two-tokens", "final_norm")
    if golden.path.endswith("h5"):
        with h5py.File(golden.path, "r+") as file:
            file.move(one, "aside")
            file.move(other, one)
            file.move("aside", other)
    else:
        (a, _), (b, _) = golden.data_of(one, 3), golden.data_of(other, 3)
        blobs = golden.blobs()
        golden.put(a, blobs[b])
        golden.put(b, blobs[a])
    refusal(golden.path, "sha256", one, read=lambda opened: opened.tap("two-tokens", "embed"))


def test_an_array_that_the_manifest_does_not_list_is_refused(golden):
    if golden.path.endswith("h5"):
        with h5py.File(golden.path, "r+") as file:
            file["cases/padded/taps/extra"] = np.zeros(3)
    else:
        for name in ("zarr.json", "c.0.0.0"):
            golden.put(f"cases/padded/taps/extra/{name}", golden.blobs()[f"cases/padded/taps/embed/{name}"])
    refusal(golden.path, "no part of", "cases/padded/taps/extra")


def test_other_dimension_names_on_disk_are_refused(golden):
    if golden.path.endswith("h5"):
        with h5py.File(golden.path, "r+") as file:
            scales = file[TAP].attrs["DIMENSION_LIST"]
            scales[3] = scales[2]
            file[TAP].attrs.create("DIMENSION_LIST", scales, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    else:
        blob = f"{TAP}/zarr.json"
        golden.put(blob, golden.blobs()[blob].replace(b'"key"', b'"position"'))
    refusal(golden.path, TAP, "dimension")


def test_a_missing_array_is_refused_by_name(golden):
    if golden.path.endswith("h5"):
        with h5py.File(golden.path, "r+") as file:
            del file[TAP]
    else:
        for blob in [blob for blob in golden.blobs() if blob.startswith(TAP)]:
            golden.remove(blob)
    refusal(golden.path, TAP, "lacks", read=lambda opened: opened.tap("two-tokens", "layers.0.probs"))


@pytest.mark.parametrize("content", [b"", b"\0" * 512, random.Random(5).randbytes(4096), b"PK\3\4", b"{}"])
def test_a_file_that_is_not_a_golden_is_refused(tmp_path, content):
    for name in ("foreign.h5", "foreign.zarr", "foreign"):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name, "empty file" if not content else "this file is not a golden")


def test_a_signature_followed_by_noise_is_refused(tmp_path):
    (tmp_path / "foreign.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + random.Random(6).randbytes(4096))
    refusal(tmp_path / "foreign.h5", "cannot be read")
