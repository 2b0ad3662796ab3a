"""Damage of every kind, on every backend: each is refused with a GoldenError, or has changed nothing."""

import random

import h5py
import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import encode
from harness.layout import stack_path
from harness.store import contents, open_golden
from harness.store.hdf5 import Hdf5Reader
from tests.store import places, small_golden
from tests.store.test_store import refusal

TAP = stack_path("two-tokens", "probs")
FLIPS = 200
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
    sealed = golden.path.endswith("h5")
    assert outcomes.count("refused") >= (FLIPS if sealed else FLIPS // 4)
    assert golden.contents() == original


@pytest.mark.parametrize("path", ["manifest", *small_golden.entries()])
def test_a_flipped_byte_of_data_is_always_refused_by_name(standing, path):
    entry = small_golden.entries().get(path)
    blob, offset = standing.data_of(path, len(entry.shape) if entry else 1)
    data = standing.blob(blob)
    size = np.prod(entry.slab) * np.dtype(entry.dtype).itemsize if entry else 1000
    try:
        for at in {0, int(size) // 2, int(size) - 1}:
            damaged = bytearray(data)
            damaged[offset + at] ^= 0x04
            standing.put(blob, bytes(damaged))
            refusal(standing.path, path, "sha256")
        if entry:
            flipped = bytearray(data)
            flipped[offset] ^= 1
            standing.put(blob, bytes(flipped))
            refusal(standing.path, path, "sha256", entry.sha256[0], read=lambda opened: opened._array(path))
    finally:
        standing.put(blob, data)


def test_a_flipped_digest_of_the_manifest_is_refused(golden):
    with open_golden(golden.path) as opened:
        digest = opened.id.encode()
    (blob,) = [blob for blob, data in golden.blobs().items() if digest in data]
    damaged = golden.blobs()[blob].replace(digest, digest[:-1] + (b"0" if digest[-1:] != b"0" else b"1"))
    golden.put(blob, damaged)
    refusal(golden.path)


def test_a_golden_seen_to_be_whole_is_looked_through_again_once_its_manifest_is_another(tmp_path):
    """Manifests found whole are known by their sha256, and only the latest of them."""
    golden = places.make("h5", tmp_path)
    golden.write()
    open_golden(golden.path).close()
    again = open_golden(golden.path)
    assert 0 < len(contents._WHOLE) <= contents._MOST
    assert contents._WHOLE[again.id][0] is again.manifest
    again.close()
    lacking = small_golden.complete()
    del lacking.arrays[TAP]
    golden.write_unchecked(encode(lacking))
    refusal(golden.path, TAP, "lacks")
    assert again.manifest.arrays[TAP]


def test_a_golden_cut_off_anywhere_is_refused(slight):
    original, blobs = slight.contents(), slight.blobs()
    rng = random.Random(21)
    for blob, data in blobs.items():
        lengths = {0, 1, len(data) // 2, len(data) - 1}
        if len(blobs) == 1:
            lengths |= {rng.randrange(len(data)) for _ in range(LENGTHS)}
        else:  # one of hundreds of files
            lengths = {rng.choice([*sorted(lengths), rng.randrange(len(data))])}
        for length in lengths - {len(data)}:
            slight.put(blob, data[:length])
            assert outcome(slight, original) == "refused", (blob, length)
        slight.put(blob, data)


def test_metadata_is_not_followed_before_the_seal_is_seen_to_be_whole(tmp_path, monkeypatch):
    """HDF5 1.14 crashes on some damaged metadata and never returns from other; arrays are read without it."""
    place = places.make("h5", tmp_path)
    place.lay()
    data = bytearray(place.blobs()[""])
    data[data.index(b"GCOL") + 16] ^= 4  # the heap of references, the one thing in the file without a checksum
    place.put("", bytes(data))
    for follows in ("check_structure", "check_nothing_else"):
        monkeypatch.setattr(Hdf5Reader, follows, lambda *_: pytest.fail("followed"))
    refusal(place.path, "not as it was written", "every array is whole")
    with open_golden(place.path) as golden:
        assert golden.tap("two-tokens", "embed").shape == (1, 2, 6)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-40], lambda data: data + b"x"])
def test_an_hdf5_file_without_its_seal_does_not_verify(tmp_path, change):
    place = places.make("h5", tmp_path)
    place.lay()
    place.put("", change(place.blobs()[""]))
    refusal(place.path, "not as it was written")


def test_a_golden_of_which_a_file_is_missing_is_refused(slight):
    original = slight.contents()
    for blob, data in slight.blobs().items():
        slight.remove(blob)
        assert outcome(slight, original) == "refused", blob
        slight.put(blob, data)


def test_data_that_grew_is_refused_or_changes_nothing(slight):
    original = slight.contents()
    for blob, data in slight.blobs().items():
        slight.put(blob, data + b"\0" * 8)
        is_data = blob.rpartition("/")[2].startswith("c.")
        assert outcome(slight, original) == "refused" or not is_data
        slight.put(blob, data)


def test_two_arrays_exchanged_are_refused(golden):
    """Same shape, same dtype, whole data: only the name is wrong."""
    one, other = stack_path("two-tokens", "embed"), stack_path("two-tokens", "final_norm")
    if golden.path.endswith("h5"):
        with places.editing(golden.path) as file:
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
        with places.editing(golden.path) as file:
            file["cases/padded/taps/extra"] = np.zeros(3)
    else:
        for name in ("zarr.json", "c.0.0.0"):
            golden.put(f"cases/padded/taps/extra/{name}", golden.blob(f"cases/padded/taps/embed/{name}"))
    refusal(golden.path, "no part of", "cases/padded/taps/extra")


def test_other_dimension_names_on_disk_are_refused(golden):
    if golden.path.endswith("h5"):
        with places.editing(golden.path) as file:
            scales = file[TAP].attrs["DIMENSION_LIST"]
            scales[4] = scales[3]
            file[TAP].attrs.create("DIMENSION_LIST", scales, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    else:
        blob = f"{TAP}/zarr.json"
        golden.put(blob, golden.blob(blob).replace(b'"key"', b'"position"'))
    refusal(golden.path, TAP, "dimension")


def test_a_missing_array_is_refused_by_name(golden):
    if golden.path.endswith("h5"):
        with places.editing(golden.path) as file:
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
