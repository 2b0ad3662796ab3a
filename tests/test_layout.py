"""Stacks: which taps lie in one array, what it is called, and that a model of any shape fits."""

from dataclasses import replace

import numpy as np
import pytest
import xarray

import harness
from harness.golden import Form
from harness.layout import Layout
from harness.store import open_golden
from harness.store.writer import NewArray, write_golden
from harness.taps import TOKENS, Tap
from tests.store import places, small_golden

HEADS = (*TOKENS, "head", "head_dim")


def manifest(taps, sizes):
    """A golden of one case, of a family that nobody here knows."""
    made = small_golden.manifest()
    (case,) = made.cases[:1]
    case = replace(case, taps=tuple(tap.name for tap in taps))
    model = replace(made.model, config={"model_type": "of-tomorrow"})
    return replace(made, taps=tuple(taps), sizes=sizes, cases=(case,), model=model)


def mixed():
    """Three layers: one has other heads, one has no router, and an encoder beside them."""
    taps = [Tap("embed", (*TOKENS, "hidden"), ())]
    for layer in range(3):
        taps.append(Tap(f"layers.{layer}.q", HEADS, ("embed",)))
        if layer:
            taps.append(Tap(f"layers.{layer}.router", (*TOKENS, "expert"), (f"layers.{layer}.q",)))
    taps += [Tap(f"encoder.{layer}.q", HEADS, ("embed",)) for layer in range(2)]
    taps.append(Tap("logits", (*TOKENS, "vocab"), ("embed",)))
    sizes = {"hidden": 6, "head": 3, "layers.1.head": 5, "head_dim": 2, "expert": 4, "vocab": 12}
    return manifest(taps, sizes)


def test_layers_of_different_shapes_lie_in_different_stacks_named_by_the_first_of_each():
    made = mixed()
    forms = dict(Layout(made).forms())
    found = {path.rpartition("/")[2]: form for path, form in forms.items() if "/taps/" in path}
    assert found == {
        "embed": Form((1, 2, 6), "float64", (*TOKENS, "hidden")),
        "q.0": Form((2, 1, 2, 3, 2), "float64", ("layer.q.0", *HEADS)),
        "q.1": Form((1, 1, 2, 5, 2), "float64", ("layer.q.1", *TOKENS, "head.1", "head_dim")),
        "router": Form((2, 1, 2, 4), "float64", ("layer.router", *TOKENS, "expert")),
        "encoder.q": Form((2, 1, 2, 3, 2), "float64", ("layer.encoder", *HEADS)),
        "logits": Form((1, 2, 12), "float64", (*TOKENS, "vocab")),
    }
    labels = Layout(made).labels
    assert labels["cases/two-tokens/taps/layer.q.0"] == (0, 2)
    assert labels["cases/two-tokens/taps/layer.router"] == (1, 2)


@pytest.mark.parametrize("backend", ["h5", "zarr"])
def test_a_family_that_nobody_knows_is_written_and_read_by_what_its_manifest_says(tmp_path, backend):
    made, place = mixed(), places.make(backend, tmp_path)
    rng, layout = np.random.default_rng(0), Layout(made)
    values = {path: rng.normal(size=form.shape).astype(form.dtype) for path, form in layout.forms()}
    forms = dict(layout.forms())
    arrays = [
        NewArray(path, value[slab] if forms[path].stacked else value, slab)
        for path, value in values.items()
        for slab in range(forms[path].slabs)
    ]
    write_golden(place.path, arrays, made)
    with open_golden(place.path) as golden:
        golden.verify()
        stored = values["cases/two-tokens/taps/q.0"]
        assert golden.tap("two-tokens", "layers.2.q").tobytes() == stored[1].tobytes()
        assert golden.tap("two-tokens", "layers.1.q").shape == (1, 2, 5, 2)
        assert (
            golden.tap("two-tokens", "encoder.1.q").tobytes()
            == values["cases/two-tokens/taps/encoder.q"][1].tobytes()
        )
    engine = {"engine": "h5netcdf"} if backend == "h5" else {"engine": "zarr", "consolidated": False}
    with xarray.open_datatree(place.path, **engine) as tree:
        assert tree["cases/two-tokens/taps/q.0"].coords["layer.q.0"].values.tolist() == [0, 2]
    case = harness.open(place.path)["two-tokens"]
    assert case["q.1"].dims == ("layer", *HEADS) and case["q.1"].sizes["head"] == 5
    assert case["q.0"].dims == ("layer", *HEADS) and case["q.0"].coords["layer"].values.tolist() == [0, 2]


def test_slabs_of_a_stack_come_interleaved_with_those_of_others(tmp_path):
    """As a recording makes them: layer by layer, every tap of it."""
    arrays = list(small_golden.arrays())
    stacks = [new for new in arrays if new.path.startswith("cases/two-tokens/taps/")]
    order = [new.path for new in stacks]
    assert len(set(order)) < len(order) and order != sorted(order)
    write_golden(tmp_path / "a.h5", arrays, small_golden.manifest())
    with open_golden(tmp_path / "a.h5") as golden:
        for new in stacks:
            stored = golden._array(new.path)
            assert (
                stored[new.index] if golden.manifest.arrays[new.path].stacked else stored
            ).tobytes() == new.array.tobytes()
