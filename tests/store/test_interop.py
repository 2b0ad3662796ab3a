"""Other readers see the same golden: xarray, zarr-python, h5py's scales. And the store needs none of them."""

import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
import xarray
import zarr

from harness.golden import NOISE_STATISTICS, statistic
from harness.layout import NOISE_DIMS, label_path
from harness.store import open_golden
from harness.taps import TOKENS
from tests.store import places, small_golden

ENGINES = {"h5": {"engine": "h5netcdf"}, "zarr": {"engine": "zarr", "consolidated": False}}


@pytest.fixture(params=list(ENGINES))
def written(request, tmp_path):
    place = places.make(request.param, tmp_path)
    place.write()
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
    place.write()
    group = zarr.open_group(place.path, mode="r")
    entries = small_golden.entries()
    for path, stored in small_golden.stored().items():
        array = group[path]
        assert array[...].tobytes() == stored.tobytes()
        assert array.dtype == stored.dtype
        assert array.metadata.dimension_names == entries[path].dims
        assert array.chunks == ((1, *array.shape[1:]) if entries[path].stacked else array.shape)
        assert array.compressors == ()


def test_h5py_finds_standard_scales_without_storage(tmp_path):
    place = places.make("h5", tmp_path)
    place.write()
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
    place.write()
    code = f"""
        import sys
        from harness.store import open_golden
        with open_golden({place.path!r}) as golden:
            golden.verify()
        print([name for name in ("torch", "jax", "xarray", "h5netcdf", "zarr", "fsspec") if name in sys.modules])
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
