"""Other readers see the same golden: xarray, zarr-python, h5py's scales. And the store needs none of them."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import xarray
import zarr

from harness.golden import NOISE_STATISTICS, Form, encode, statistic
from harness.layout import NOISE_DIMS, label_path
from harness.store import open_golden
from harness.store.zarr3_writer import ZarrWriter
from harness.taps import TOKENS
from tests.store import places, small_golden

ENGINES = {"h5": {"engine": "h5netcdf"}, "zarr": {"engine": "zarr", "consolidated": False}}


@pytest.fixture(params=list(ENGINES))
def written(request, tmp_path):
    place = places.make(request.param, tmp_path)
    place.lay()
    return place.path, ENGINES[request.param]


def test_xarray_reads_the_whole_tree_with_named_dimensions(written):
    path, engine = written
    with xarray.open_datatree(path, **engine) as tree:
        entries = small_golden.entries()
        for path, array in small_golden.stored().items():
            variable = tree[path]
            assert variable.dims == entries[path].dims
            assert variable.dtype == array.dtype
            assert np.array_equal(variable.values, array)


def test_xarray_reads_one_group_with_named_dimensions(written):
    path, engine = written
    with xarray.open_dataset(path, group="cases/two-tokens/taps", **engine) as taps:
        assert taps["probs"].dims == ("layer", "batch", "head", "position", "key")
        assert taps.sizes["position"] == taps.sizes["key"] == 2
    with xarray.open_dataset(path, group="cases/padded", **engine) as case:
        assert set(case.variables) == {"input_ids", "positions", "mask"}
        assert case["mask"].dims == TOKENS
    with xarray.open_dataset(path, group="cases/padded/noise", **engine) as noise:
        assert noise["float32_forward"].dims == NOISE_DIMS


def test_layers_taps_statistics_and_kept_positions_are_labelled(written):
    path, engine = written
    with xarray.open_datatree(path, **engine) as tree:
        q = tree["cases/two-tokens/taps/q"]
        assert q.coords["layer"].values.tolist() == [0, 1]
        kept = tree["cases/kept/taps/q"]
        assert kept.coords["kept"].values.tolist() == [0, 2]
        noise = tree["cases/padded/noise/bfloat16_replay"].load()
    with open_golden(path) as golden:
        taps = golden.manifest.case("padded").taps
        assert noise.coords["tap"].values.tolist() == list(taps)
        assert noise.coords["statistic"].values.tolist() == list(NOISE_STATISTICS)
        mine = golden.noise("padded", "bfloat16", "replay")[taps.index("layers.1.resid_post"), statistic("max")]
    assert np.array_equal(noise.sel(tap="layers.1.resid_post", statistic="max"), mine)


def test_the_same_dimension_has_its_own_length_in_every_case(written):
    path, engine = written
    lengths = []
    for case in small_golden.CASES:
        with xarray.open_dataset(path, group=f"cases/{case}", **engine) as opened:
            lengths.append(opened.sizes["position"])
    assert lengths == [2, 3, 3, 4, 3]


def test_zarr_python_reads_every_array_and_finds_the_layout_that_is_promised(tmp_path):
    place = places.make("zarr", tmp_path)
    place.lay()
    group = zarr.open_group(place.path, mode="r")
    entries = small_golden.entries()
    for path, stored in small_golden.stored().items():
        array = group[path]
        assert array[...].tobytes() == stored.tobytes()
        assert array.dtype == stored.dtype
        assert array.metadata.dimension_names == entries[path].dims
        assert array.chunks == ((1, *array.shape[1:]) if entries[path].stacked else array.shape)
        assert array.compressors == ()


def test_a_zarr_is_file_by_file_what_zarr_python_writes_to_a_directory(tmp_path):
    place = places.make("zarr", tmp_path)
    place.lay()
    root = zarr.create_group(tmp_path / "theirs.zarr", attributes={"format": "goldens"})

    def create(path, values, dims, chunks, attributes=None):
        return root.create_array(
            path, shape=values.shape, chunks=chunks, dtype=str if values.dtype.kind == "U" else values.dtype,
            filters=None, compressors=None, attributes=attributes, dimension_names=dims,
            chunk_key_encoding={"name": "default", "separator": "."}, config={"write_empty_chunks": True},
        )  # fmt: skip

    entries = small_golden.entries()
    for path, values in small_golden.stored().items():
        chunks = (1, *values.shape[1:]) if entries[path].stacked else values.shape
        create(path, values, entries[path].dims, chunks)[...] = values
    for path, labels in places.labels().items():
        values = np.array(labels, "i4" if isinstance(labels[0], int) else None)
        create(path, values, [path.rpartition("/")[2]], values.shape)[...] = values
    with open_golden(place.path) as golden:
        manifest, attributes = np.frombuffer(encode(golden.manifest), "u1"), {"sha256": golden.id}
    create("manifest", manifest, ["manifest_byte"], manifest.shape, attributes)[...] = manifest
    theirs = places.ZarrPlace(f"local://{tmp_path}/theirs.zarr", "")
    assert place.blobs() == theirs.blobs()


def test_the_users_configuration_of_zarr_python_changes_no_byte(tmp_path):
    place = places.make("zarr", tmp_path)
    place.lay()
    before = place.blobs()
    own = {"json_indent": None, "default_zarr_format": 2, "array.order": "F", "array.write_empty_chunks": False}
    with zarr.config.set(own):
        place.write(overwrite=True)
        assert place.contents()
    assert place.blobs() == before


def test_the_documents_of_this_format_are_these_whatever_zarr_python_writes(tmp_path):
    """A release of zarr-python that writes others fails here: goldens of before would be refused with it."""
    place = places.make("zarr", tmp_path)
    place.lay()
    documents = {blob: json.loads(data) for blob, data in place.blobs().items() if blob.endswith("zarr.json")}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    assert documents["cases/zarr.json"] == group
    assert documents["zarr.json"] == group | {"attributes": {"format": "goldens"}}
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2, 1, 3, 2, 2],
        "data_type": "float64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 3, 2, 2]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["layer", "batch", "head", "position", "key"],
        "storage_transformers": [],
    }
    assert documents["cases/two-tokens/taps/probs/zarr.json"] == array
    mask = documents["cases/padded/mask/zarr.json"]
    assert (mask["data_type"], mask["fill_value"], mask["codecs"]) == ("bool", False, [{"name": "bytes"}])
    names = documents["cases/padded/noise/statistic/zarr.json"]
    codecs = [{"name": "vlen-utf8", "configuration": {}}]
    assert (names["data_type"], names["fill_value"], names["codecs"]) == ("string", "", codecs)


def test_a_slab_goes_through_zarr_python_uncopied():
    """A recording holds one slab, and one of the logits can be most of the memory there is."""
    slab, written = np.ones((1, 3, 2, 2)), {}
    writer = ZarrWriter(SimpleNamespace(write=written.__setitem__), {})
    writer.put("cases/a/taps/probs", Form((2, *slab.shape), "float64", ("layer", "a", "b", "c", "d")), 0, slab)
    assert np.shares_memory(np.frombuffer(written["cases/a/taps/probs/c.0.0.0.0.0"], "u1"), slab)


def test_h5py_finds_standard_scales_without_storage(tmp_path):
    place = places.make("h5", tmp_path)
    place.lay()
    with h5py.File(place.path) as file:
        labels = places.labels()
        for path, entry in small_golden.entries().items():
            dataset = file[path]
            for axis, dim in enumerate(entry.dims):
                (scale,) = dataset.dims[axis].values()
                assert h5py.h5ds.is_attached(dataset.id, scale.id, axis)
                where = label_path(path, dim)
                assert scale == file[where]
                assert (scale.id.get_storage_size() == 0) == (where not in labels)
            assert dataset.chunks is None


@pytest.mark.imports
def test_the_store_needs_neither_torch_nor_jax_nor_what_only_its_tests_need(tmp_path):
    place = places.make("h5", tmp_path)
    place.lay()
    code = f"""
        import sys
        from harness.store import open_golden
        with open_golden({place.path!r}) as golden:
            golden.verify()
        print([name for name in ("torch", "jax", "xarray", "h5netcdf", "zarr", "fsspec") if name in sys.modules])
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
