"""`harness.open`: a golden as labelled arrays."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import harness
from harness.errors import GoldenError
from harness.store import open_golden
from tests.store import places, small_golden


@pytest.fixture(params=["h5", "zarr"])
def place(request, tmp_path):
    place = places.make(request.param, tmp_path)
    place.write()
    return place


def test_a_tap_comes_over_all_layers_with_the_layer_first(place):
    q = harness.open(place.path)["two-tokens"].q_rope
    assert q.dims == ("layer", "batch", "position", "head", "head_dim")
    assert q.coords["layer"].values.tolist() == [0, 1]
    with open_golden(place.path) as golden:
        for layer in (0, 1):
            assert np.array_equal(q.sel(layer=layer), golden.tap("two-tokens", f"layers.{layer}.q_rope"))
        assert q.attrs["golden"] == golden.id


def test_noise_is_labelled_by_tap_and_statistic(place):
    noise = harness.open(place.path)["kept"].noise["float32", "forward"]
    assert noise.dims == ("tap", "statistic", "batch", "kept")
    one = noise.sel(tap="layers.1.act", statistic="max", kept=2)
    with open_golden(place.path) as golden:
        index = golden.manifest.case("kept").taps.index("layers.1.act")
        assert np.array_equal(one, golden.noise("kept", "float32", "forward")[index, 1, :, 1])


def test_inputs_one_layer_and_what_was_generated(place):
    with harness.open(place.path) as golden:
        case = golden["greedy"]
        assert case.input_ids.dims == ("batch", "position")
        assert case.generated["float64", "tokens"].dims == ("batch", "step")
        assert golden["two-tokens"]["layers.1.q"].dims == ("batch", "position", "head", "head_dim")
        assert golden["two-tokens"].logits.dims == ("batch", "position", "vocab")
        assert list(golden) == list(small_golden.CASES) and len(golden) == len(small_golden.CASES)
        assert "q_rope" in dir(golden["two-tokens"]) and "q_rope" in repr(golden["two-tokens"])
        assert next(iter(case.noise)) == ("float32", "forward") and "greedy" in repr(golden)


@pytest.mark.parametrize(
    ("ask", "near"),
    [
        (lambda golden: golden["two-token"], "two-tokens"),
        (lambda golden: golden["two-tokens"].q_rop, "q_rope"),
        (lambda golden: golden["two-tokens"]["layers.7.q_rope"], "layers.0.q_rope"),
        (lambda golden: golden["two-tokens"].noise["float23", "forward"], "float32, forward"),
        (lambda golden: golden["two-tokens"].noise["float32"], "float32, forward"),
        (lambda golden: golden["greedy"].generated["float64", "token"], "float64, tokens"),
        (lambda golden: golden["kept"].generated["float64", "tokens"], "goldens show"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_near(place, ask, near):
    with pytest.raises(GoldenError, match="of this name") as caught:
        ask(harness.open(place.path))
    assert near in caught.value.hint


def test_names_that_python_asks_for_are_no_taps(place):
    case = harness.open(place.path)["two-tokens"]
    assert not hasattr(case, "q_rop") and not hasattr(case, "__array__")


@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_read_is_verified_and_one_layer_alone(place, layer):
    path = "cases/two-tokens/taps/q_rope"
    blob, offset = place.data_of(path, 5)
    data = bytearray(place.blobs()[blob])
    data[offset] ^= 1
    place.put(blob, bytes(data))
    case = harness.open(place.path)["two-tokens"]
    with pytest.raises(GoldenError, match="sha256"):
        _ = case.q_rope
    if layer:
        assert case["layers.1.q_rope"].shape == (1, 2, 3, 2)
    else:
        with pytest.raises(GoldenError, match="sha256"):
            _ = case["layers.0.q_rope"]


def test_it_costs_nothing_until_it_is_used_and_needs_neither_torch_nor_jax(place):
    code = f"""
        import sys
        import harness
        assert not {{"numpy", "h5py", "xarray"}} & set(sys.modules)
        assert harness.open({place.path!r})["two-tokens"].q_rope.dims[0] == "layer"
        print([name for name in ("torch", "jax", "transformers", "flax") if name in sys.modules])
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_without_xarray_the_refusal_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(GoldenError, match="not installed") as caught:
        _ = harness.open(place.path)["two-tokens"].q_rope
    assert "goldens[labelled]" in caught.value.hint
