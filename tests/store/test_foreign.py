"""Files of other makers: refused, and never followed, executed or deleted."""

import json

import h5py
import numpy as np
import pytest
import zarr

from harness.errors import GoldenError
from harness.layout import stack_path
from harness.store import open_golden
from harness.store.writer import check_writable, write_golden
from tests.store import places, small_golden
from tests.store.test_store import refusal

TAP = stack_path("two-tokens", "embed")


@pytest.fixture
def file(tmp_path):
    place = places.make("h5", tmp_path)
    place.lay()
    return place.file


def replace(file, make):
    """Put something else in the place of an array, as HDF5 allows."""
    with places.editing(file) as opened:
        data = opened[TAP][...]
        del opened[TAP]
        make(opened, data)


def refuse_tap(file, *words):
    refusal(file, *words, read=lambda golden: golden.tap("two-tokens", "embed"))
    refusal(file)


def test_hdf5_of_somebody_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["weights"] = np.zeros(3)
    refusal(tmp_path / "theirs.h5", "not a golden", "1 other members")


@pytest.mark.parametrize("manifest", [np.zeros(3), np.zeros((2, 2), "u1"), np.uint8(1), "text", np.zeros(9, "u1")])
def test_hdf5_with_a_manifest_of_another_kind_is_refused(tmp_path, manifest):
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["manifest"] = manifest
    refusal(tmp_path / "theirs.h5")


def test_hdf5_whose_manifest_is_a_group_is_refused(tmp_path):
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file.create_group("manifest")
    refusal(tmp_path / "theirs.h5", "no part of a golden")


def test_zarr_of_somebody_else_is_refused_and_never_deleted(tmp_path):
    path = tmp_path / "theirs.zarr"
    zarr.create_group(path).create_array("weights", shape=(3,), dtype="f4")
    refusal(path, "not a golden")
    with pytest.raises(GoldenError, match="not deleted"):
        check_writable(path, True)
    with pytest.raises(GoldenError, match="not deleted"):
        write_golden(path, small_golden.arrays(), small_golden.manifest(), overwrite=True)
    assert (path / "weights").is_dir()


def test_a_directory_with_other_files_is_refused_and_never_deleted(tmp_path):
    path = tmp_path / "photos.zarr"
    path.mkdir()
    check_writable(path, True)
    (path / "me.jpg").write_bytes(b"me")
    refusal(path, "not a golden")
    with pytest.raises(GoldenError, match="not deleted"):
        check_writable(path, True)


def test_a_soft_link_is_not_followed(file):
    def link(opened, data):
        opened["cases/two-tokens/hidden_elsewhere"] = data
        opened[TAP] = h5py.SoftLink("/cases/two-tokens/hidden_elsewhere")

    replace(file, link)
    refuse_tap(file, "a link")


def test_an_external_link_is_not_followed(file, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.zeros((1, 2, 6))
    replace(file, lambda opened, data: opened.__setitem__(TAP, h5py.ExternalLink("other.h5", "data")))
    refuse_tap(file, "a link")


def test_data_in_another_file_is_not_read(file, tmp_path):
    def outside(opened, data):
        (tmp_path / "raw").write_bytes(data.tobytes())
        opened.create_dataset(TAP, data.shape, data.dtype, external=[(tmp_path / "raw", 0, data.nbytes)])

    replace(file, outside)
    refuse_tap(file, "another")


@pytest.mark.parametrize(
    "how", [{"chunks": (1, 2, 6)}, {"compression": "gzip"}, {"maxshape": (None, 2, 6)}, {"fletcher32": True}]
)
def test_another_layout_is_refused(file, how):
    replace(file, lambda opened, data: opened.create_dataset(TAP, data=data, **how))
    refuse_tap(file, "layout")


@pytest.mark.parametrize("dtype", [">f8", "<f4", "<i8", h5py.string_dtype(), h5py.ref_dtype, "V8"])
def test_another_type_on_disk_is_refused(file, dtype):
    replace(file, lambda opened, data: opened.create_dataset(TAP, data.shape, dtype))
    refuse_tap(file)


def test_a_bool_that_is_neither_true_nor_false_is_refused(file):
    with h5py.File(file) as opened:
        offset = opened["cases/padded/mask"].id.get_offset()
    data = bytearray(file.read_bytes())
    data[offset] = 5
    file.write_bytes(data)
    refusal(file, "sha256", "cases/padded/mask", read=lambda golden: golden.case("padded"))


def test_a_group_that_contains_itself_is_refused(file):
    with places.editing(file) as opened:
        opened["cases/padded/again"] = opened["cases"]
    refusal(file, "no part of a golden")


def test_a_scale_that_belongs_to_nothing_is_refused(file):
    with places.editing(file) as opened:
        opened["cases/padded/secret"] = np.zeros(3)
        opened["cases/padded/secret"].make_scale()
    refusal(file, "no part of a golden", "cases/padded/secret")


def test_a_scale_that_holds_data_is_refused(file):
    with places.editing(file) as opened:
        opened["cases/padded/hidden"][...] = 1
    refusal(file, "a dimension scale", "cases/padded/hidden")


@pytest.mark.parametrize(("scale", "other"), [("hidden", "position"), ("noise/tap", "noise/statistic")])
def test_scales_with_another_second_name_are_refused(file, scale, other):
    with places.editing(file) as opened:
        early = f"dimensions/padded/{scale.rpartition('/')[2]}"
        del opened[early]
        opened[early] = opened[f"cases/padded/{other}"]
    refusal(file, "second name", f"cases/padded/{scale}")


def older(document, *empty):
    """A document without some of what is empty in it."""
    codecs = [
        {name: value for name, value in codec.items() if value or "codecs" not in empty}
        for codec in document["codecs"]
    ]
    return {name: value for name, value in document.items() if name not in empty} | {"codecs": codecs}


@pytest.mark.parametrize(
    ("empty", "reads"),
    [
        ((), True),
        (("storage_transformers", "codecs"), True),
        (("storage_transformers",), False),
        (("codecs",), False),
    ],
)
def test_documents_that_this_package_wrote_before_zarr_python_did_are_read_and_no_others(tmp_path, empty, reads):
    place = places.make("zarr", tmp_path)
    place.lay()
    before = place.contents()
    for blob, data in place.blobs().items():
        if b'"codecs"' in data:
            place.put(blob, json.dumps(older(json.loads(data), *empty)).encode())
    if reads:
        assert place.contents() == before
    else:
        refusal(place.path, "of an array or group" if "codecs" in empty else "'codecs'")


@pytest.mark.parametrize("name", ["notes.txt", "cases/padded/mask/c.0.1", "cases/padded/taps/embed/zarr.bak"])
def test_a_stray_file_in_a_zarr_is_refused(tmp_path, name):
    place = places.make("zarr", tmp_path)
    place.lay()
    place.put(name, b"x")
    refusal(place.path, "no part of the golden", name)


def test_dot_files_that_systems_leave_behind_are_not_minded(tmp_path):
    place = places.make("zarr", tmp_path)
    place.lay()
    place.put(".DS_Store", b"x")
    with open_golden(place.path) as golden:
        golden.verify()
