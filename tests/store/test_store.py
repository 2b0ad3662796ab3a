"""What a backend must do. Every test here runs on every backend; this suite is the definition of one."""

import dataclasses
import time
import weakref

import ml_dtypes
import msgspec
import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import NOISE_STATISTICS, VERSIONS, RowEntry, encode
from harness.layout import layer_of, stack_path
from harness.store import open_golden
from harness.store.writer import NewArray, check_writable, write_golden
from harness.taps import TOKENS, Tap, kind_of
from tests.store import places, small_golden

TAP = stack_path("two-tokens", "probs")
MASK = "cases/two-tokens/mask"


def refusal(path, *words, read=None):
    """The message with which opening, verifying or `read` is refused; it must hold these words."""
    with pytest.raises(GoldenError) as caught, open_golden(path) as golden:
        if read is None:
            golden.verify()
        else:
            read(golden)
    message = str(caught.value)
    assert caught.value.hint
    for word in words:
        assert word in message
    return message


def test_what_is_read_is_what_was_written_bit_for_bit(golden):
    with open_golden(golden.path) as opened:
        assert list(opened.manifest.arrays) == sorted(opened.manifest.arrays)
        for path, array in small_golden.stored().items():
            read = opened._array(path)
            assert (read.shape, read.dtype) == (array.shape, array.dtype)
            assert read.tobytes() == array.tobytes()


def test_cases_taps_and_noise_come_with_the_shapes_and_dtypes_of_the_specification(golden):
    with open_golden(golden.path) as opened:
        case = opened.case("padded")
        assert (case.name, case.batch, case.length) == ("padded", 2, 3)
        assert [one.dtype.name for one in (case.input_ids, case.positions, case.mask)] == [
            "int32", "int32", "bool",
        ]  # fmt: skip
        assert opened.tap("two-tokens", "layers.0.probs").shape == (1, 3, 2, 2)
        noise = opened.noise("padded", "bfloat16", "replay")
        assert (noise.shape, noise.dtype.name) == ((5, len(NOISE_STATISTICS), 2, 3), "float32")


def test_the_size_is_that_on_disk_and_of_a_url_that_of_manifest_and_arrays(golden):
    """A URL is not asked for what was not read: the labels of dimensions and the documents of Zarr."""
    blobs = golden.blobs()
    with open_golden(golden.path) as opened:
        if golden.path.startswith("memory://"):
            told = ("manifest", *opened.manifest.arrays)
            blobs = {name: data for name, data in blobs.items() if name.rpartition("/c.")[0] in told}
            assert len(blobs) > len(told)  # a stack of layers has a chunk for each
        assert opened.nbytes == sum(map(len, blobs.values()))


def test_the_id_does_not_depend_on_the_backend(golden, tmp_path):
    elsewhere = places.make("h5", tmp_path / "elsewhere")
    elsewhere.file.parent.mkdir()
    with open_golden(golden.path) as opened:
        assert elsewhere.write() == opened.id


def test_writing_twice_gives_the_same_id_and_the_same_bytes(golden):
    before, first = golden.tree(), golden.contents()
    time.sleep(1.1)  # HDF5 would put whole seconds into its headers
    golden.write(overwrite=True)
    assert golden.contents() == first
    assert golden.tree() == before


def test_arrays_cannot_be_changed_by_who_reads_them(golden):
    with open_golden(golden.path) as opened, pytest.raises(ValueError, match="read-only"):
        opened.tap("padded", "embed")[...] = 0


def test_special_values_survive(place):
    special = np.array([np.nan, -0.0, np.inf, 5e-324, np.float64.fromhex("0x1.fffffffffffffp1023"), -np.nan])
    arrays = list(small_golden.arrays())
    index = next(i for i, new in enumerate(arrays) if new.path == stack_path("two-tokens", "embed"))
    arrays[index] = dataclasses.replace(arrays[index], array=np.tile(special, (1, 2, 1)))
    write_golden(place.path, arrays, small_golden.manifest())
    with open_golden(place.path) as opened:
        assert opened.tap("two-tokens", "embed").tobytes() == np.tile(special, (1, 2, 1)).tobytes()


def test_an_array_of_zeros_is_stored_like_any_other(place):
    arrays = [dataclasses.replace(new, array=np.zeros_like(new.array)) for new in small_golden.arrays()]
    write_golden(place.path, arrays, small_golden.manifest())
    with open_golden(place.path) as opened:
        assert opened.verify() == len(small_golden.entries())


def test_strided_and_big_endian_arrays_are_stored_in_order(place):
    plain, arrays = list(small_golden.arrays()), list(small_golden.arrays())
    for i, new in enumerate(arrays):
        twisted = np.asfortranarray(new.array.astype(new.array.dtype.newbyteorder(">")))
        arrays[i] = dataclasses.replace(new, array=twisted)
    id_ = write_golden(place.path, arrays, small_golden.manifest())
    assert id_ == write_golden(place.path, plain, small_golden.manifest(), overwrite=True)


@pytest.mark.parametrize("name", ["manifest", "manifest_byte", "dimensions", "cases", "taps", "layer"])
def test_a_case_may_be_called_like_a_part_of_the_tree(place, name):
    cases = {name: ("ops", (1, 2))}
    write_golden(place.path, small_golden.arrays(cases=cases), small_golden.manifest(cases=cases))
    with open_golden(place.path) as opened:
        assert opened.verify()
        assert opened.tap(name, "layers.1.q").shape == (1, 2, 3, 2)


def test_order_is_data_flow_order_not_alphabetical(place):
    model = small_golden.config(num_hidden_layers=11)
    cases = {"one": ("layers", (1, 2))}
    arrays = list(small_golden.arrays(model, cases))
    write_golden(place.path, arrays, small_golden.manifest(model, cases))
    with open_golden(place.path) as opened:
        taps = opened.manifest.case("one").taps
        assert taps.index("layers.2.resid_post") < taps.index("layers.10.resid_post")
        assert [tap.name for tap in opened.manifest.taps if tap.name in taps] == list(taps)
        for tap in taps:
            layer, kind = layer_of(tap), kind_of(tap)
            new = next(new for new in arrays if (new.path, new.index) == (stack_path("one", kind), layer or 0))
            assert np.array_equal(opened.tap("one", tap), new.array)


def test_position_and_key_of_one_length_stay_two_dimensions(golden):
    with open_golden(golden.path) as opened:
        assert opened.manifest.arrays[TAP].dims == ("layer", "batch", "head", "position", "key")
        assert opened.verify() == len(opened.manifest.arrays)


def test_opening_reads_no_array(golden):
    for path in list(small_golden.entries()):
        blob, offset = golden.data_of(path, len(small_golden.entries()[path].shape))
        data = bytearray(golden.blobs()[blob])
        data[offset] ^= 1
        golden.put(blob, bytes(data))
    with open_golden(golden.path) as opened:
        assert opened.manifest.case("padded").level == "layers"
        with pytest.raises(GoldenError, match="the sha256 of an array"):
            opened.tap("padded", "embed")


def test_arrays_are_taken_one_by_one_and_let_go(place):
    alive = []

    def watched():
        for new in small_golden.arrays():
            assert all(reference() is None for reference in alive)
            array = new.array.copy()
            alive.append(weakref.ref(array))
            yield NewArray(new.path, array, new.index)
            del array

    write_golden(place.path, watched(), small_golden.manifest())
    assert len(alive) == len(list(small_golden.arrays())) > len(small_golden.entries())


def test_verify_counts_the_arrays_and_tells_its_progress(golden):
    told = []
    with open_golden(golden.path) as opened:
        assert opened.verify(told.append) == len(told) == len(small_golden.entries())
    assert set(told) == set(small_golden.entries())


def test_a_tap_above_the_level_of_its_case_is_refused_with_the_level(golden):
    message = refusal(golden.path, "padded", read=lambda opened: opened.tap("padded", "layers.0.q"))
    assert "it was recorded at level 'layers'" in message
    assert "goldens record --level ops" in message


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda golden: golden.case("nobody"), "no case of this name"),
        (lambda golden: golden.tap("nobody", "embed"), "no case of this name"),
        (lambda golden: golden.tap("padded", "layers.9.q"), "no tap of this name"),
        (lambda golden: golden.tap("padded", "../../manifest"), "no tap of this name"),
        (lambda golden: golden.noise("padded", "float16", "replay"), "no noise floor"),
        (lambda golden: golden.noise("padded", "float32", "sideways"), "no noise floor"),
    ],
)
def test_an_unknown_name_is_refused(golden, read, problem):
    refusal(golden.path, problem, read=read)


def test_a_missing_golden_is_refused(place):
    refusal(place.path, "no manifest" if not place.has_rename else "the golden does not exist")


@pytest.mark.parametrize("version", [VERSIONS[-1] + 1, 99, "2"])
def test_another_format_version_is_refused_before_anything_else_of_the_manifest(place, version):
    document = {"format": "goldens", "version": version, "of": "tomorrow"}
    place.write_unchecked(msgspec.json.encode(document))
    refusal(place.path, "a format version that this release does not read", f"found:    {version}")


def test_a_field_that_this_release_does_not_know_is_refused(place):
    document = msgspec.json.decode(encode(small_golden.complete()))
    document["cases"][0]["tolerance"] = "generous"
    place.write_unchecked(msgspec.json.encode(document, order="deterministic"))
    refusal(place.path, "fields that this release does not know")


def test_a_manifest_that_is_not_canonical_is_refused(place):
    encoded = encode(small_golden.complete())
    place.write_unchecked(msgspec.json.format(encoded, indent=1))
    refusal(place.path, "canonical")


def test_another_format_is_refused(place):
    place.write_unchecked(b'{"format": "silver"}')
    refusal(place.path, "this is not a golden", "silver")


@pytest.mark.parametrize("encoded", [b"[]", b"null", b"\xff", b"{", b"[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(place, encoded):
    place.write_unchecked(encoded)
    refusal(place.path)


def test_something_there_is_replaced_only_on_request(golden):
    before = golden.contents()
    for attempt in (golden.write, lambda: check_writable(golden.path, False)):
        with pytest.raises(GoldenError, match="something at this path already") as caught:
            attempt()
        assert "--force" in caught.value.hint
    assert golden.contents() == before
    arrays = small_golden.arrays(seed=1)
    id_ = write_golden(golden.path, arrays, small_golden.manifest(), overwrite=True)
    assert golden.contents()[0] == id_ != before[0]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 2), ml_dtypes.bfloat16),
        np.zeros((1, 2), np.float16),
        np.zeros((1, 2), np.int64),
        np.zeros((1, 2), np.complex64),
        np.zeros((1, 2), object),
        np.zeros((1, 2), "S3"),
        np.zeros((1, 2), [("a", "f4")]),
    ],
    ids=lambda array: array.dtype.name,
)
def test_a_dtype_that_a_golden_does_not_hold_is_refused_by_the_writer(place, array):
    new = NewArray("cases/two-tokens/input_ids", array)
    with pytest.raises(GoldenError, match="does not hold this dtype") as caught:
        write_golden(place.path, [new], small_golden.manifest())
    assert "float64, float32, int32, bool, uint8" in str(caught.value)
    refusal(place.path, "does not exist" if place.has_rename else "no manifest")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "manifest",
        "/cases/a/mask",
        "cases/../../mask",
        "cases/A/mask",
        "cases/a/mask\n",
        "cases/a/taps/../x",
        "cases/a/taps/a/b",
        "cases/a/taps/.",
        "cases/a/taps/layers.x.q",
        "cases/a/noise/float32/../x",
    ],
)
def test_a_path_outside_the_grammar_is_refused_by_the_writer(place, path):
    with pytest.raises(GoldenError, match="no array of the golden"):
        write_golden(place.path, [NewArray(path, np.ones(1))], small_golden.manifest())


@pytest.mark.parametrize(
    ("news", "problem"),
    [
        ([NewArray(MASK, np.ones((1, 0), bool))], "an array is empty"),
        ([NewArray(MASK, np.ones((1, 3), bool))], "another shape"),
        ([NewArray(MASK, np.ones((1, 2), np.int32))], "another dtype"),
        ([NewArray(MASK, np.ones((1, 2), bool))] * 2, "given twice"),
        ([NewArray(TAP, np.ones((1, 3, 2, 2)), 1)], "do not come in order"),
        ([NewArray(TAP, np.ones((1, 3, 2, 2)), index) for index in (0, 1, 2)], "do not come in order"),
        ([NewArray(TAP, np.ones((1, 3, 2, 2)), 0)] * 2, "given twice"),
        ([], "lacks an array that its manifest promises"),
        (list(small_golden.arrays())[:-1], "lacks an array that its manifest promises"),
    ],
)
def test_an_array_that_cannot_be_stored_is_refused_by_the_writer(place, news, problem):
    with pytest.raises(GoldenError, match=problem):
        write_golden(place.path, news, small_golden.manifest())


def drop(entries, *names):
    return {path: entry for path, entry in entries.items() if path not in names}


def swap(entries, path, **changes):
    return entries | {path: dataclasses.replace(entries[path], **changes)}


def retap(manifest, name, **changes):
    return tuple(dataclasses.replace(tap, **changes) if tap.name == name else tap for tap in manifest.taps)


def layers_renamed(manifest, old, new):
    old, new = f"layers.{old}.", f"layers.{new}."
    return tuple(
        Tap(tap.name.replace(old, new), tap.dims, tuple(name.replace(old, new) for name in tap.inputs))
        for tap in manifest.taps
    )


def changed(manifest, case, **changes):
    return dataclasses.replace(manifest.case(case), **changes)


LIES = {
    "an array too few": (lambda m: {"arrays": drop(m.arrays, TAP)}, "lacks an array"),
    "an array too many": (
        lambda m: {"arrays": m.arrays | {"cases/two-tokens/taps/extra": m.arrays[TAP]}},
        "belongs to no case",
    ),
    "another shape": (lambda m: {"arrays": swap(m.arrays, TAP, shape=(2, 1, 3, 2, 3))}, "another form"),
    "a layer too many": (lambda m: {"arrays": swap(m.arrays, TAP, shape=(3, 1, 3, 2, 2))}, "another form"),
    "a layer without its sha256": (
        lambda m: {"arrays": swap(m.arrays, TAP, sha256=m.arrays[TAP].sha256[:1])},
        "a sha256 for each",
    ),
    "no sha256": (lambda m: {"arrays": swap(m.arrays, MASK, sha256=())}, "a sha256 for each"),
    "a sha256 that is none": (lambda m: {"arrays": swap(m.arrays, MASK, sha256=("x" * 64,))}, "a sha256 for each"),
    "another dtype": (lambda m: {"arrays": swap(m.arrays, TAP, dtype="float32")}, "another form"),
    "other dimensions": (
        lambda m: {"arrays": swap(m.arrays, TAP, dims=("layer", "a", "b", "c", "d"))},
        "another form",
    ),
    "another config": (
        lambda m: {"model": dataclasses.replace(m.model, config=small_golden.config(num_attention_heads=2))},
        "taps and config differ in num_attention_heads",
    ),
    "a billion layers": (
        lambda m: {"model": dataclasses.replace(m.model, config=small_golden.config(num_hidden_layers=10**9))},
        "taps and config differ in num_hidden_layers",
    ),
    "a case twice": (lambda m: {"cases": (*m.cases, m.cases[0])}, "one case name"),
    "an empty case": (lambda m: {"cases": (dataclasses.replace(m.cases[0], shape=(1, 0)),)}, "case is empty"),
    "a case elsewhere": (lambda m: {"cases": (dataclasses.replace(m.cases[0], name=".."),)}, "grammar"),
    "a tap elsewhere": (lambda m: {"taps": (dataclasses.replace(m.taps[0], name="../x"),)}, "grammar"),
    "an input that is no tap": (lambda m: {"taps": retap(m, "logits", inputs=("final_nrm",))}, "unknown"),
    "a tap that is its own input": (lambda m: {"taps": retap(m, "logits", inputs=("logits",))}, "its own input"),
    "inputs that go round": (
        lambda m: {"taps": retap(m, "layers.0.attn_norm", inputs=("layers.0.resid_post",))},
        "not before it",
    ),
    "an input twice": (lambda m: {"taps": retap(m, "logits", inputs=("final_norm",) * 2)}, "one input name"),
    "a tap twice": (lambda m: {"taps": (*m.taps, m.taps[-1])}, "one tap name"),
    "a dimension twice": (lambda m: {"taps": retap(m, "logits", dims=("batch", "position", "batch"))}, "one dim"),
    "a dimension elsewhere": (
        lambda m: {"taps": retap(m, "embed", dims=("batch", "position", "../x"))},
        "grammar",
    ),
    "a dimension that is a layer": (
        lambda m: {"taps": retap(m, "embed", dims=("batch", "position", "layer"))},
        "grammar",
    ),
    "a dimension without a size": (
        lambda m: {"taps": retap(m, "embed", dims=("batch", "position", "width"))},
        "has no size",
    ),
    "a tap without positions": (lambda m: {"taps": retap(m, "embed", dims=("batch", "hidden"))}, "position"),
    "a tap without a batch": (lambda m: {"taps": retap(m, "embed", dims=("position", "hidden"))}, "batch first"),
    "a tap without dimensions": (lambda m: {"taps": retap(m, "embed", dims=())}, "batch first"),
    "layers with a gap": (
        lambda m: {"taps": tuple(tap for tap in layers_renamed(m, 1, 2))},
        "not counted from 0 without a gap",
    ),
    "a layer of the billions": (lambda m: {"taps": layers_renamed(m, 1, 10**9)}, "grammar"),
    "a layer with a leading zero": (lambda m: {"taps": layers_renamed(m, 1, "01")}, "grammar"),
    "a name inside and outside the layers": (lambda m: {"taps": (Tap("q", TOKENS, ()), *m.taps)}, "two kinds"),
    "no logits": (lambda m: {"taps": m.taps[:-1]}, "without logits"),
    "a size below one": (lambda m: {"sizes": m.sizes | {"head": 0}}, "no dimension's"),
    "a size of nothing": (lambda m: {"sizes": m.sizes | {"width": 3}}, "no dimension's"),
    "another size": (lambda m: {"sizes": m.sizes | {"head": 4}}, "taps and config differ"),
    "other statistics": (lambda m: {"statistics": ("max", "rms")}, "other statistics"),
    "taps out of order": (
        lambda m: {"cases": (dataclasses.replace(m.cases[0], taps=m.cases[0].taps[::-1]),)},
        "not those of its level",
    ),
    "a tap not recorded": (
        lambda m: {"cases": (dataclasses.replace(m.cases[0], taps=m.cases[0].taps[:-1]),)},
        "not those of its level",
    ),
    "a case of another kind": (lambda m: {"cases": (changed(m, "chunked", kind="chat"),)}, "unknown kind"),
    "calls that are not its tokens": (
        lambda m: {"cases": (changed(m, "chunked", calls=(2, 2)),)},
        "calls are not its tokens",
    ),
    "a kept position beyond the end": (lambda m: {"cases": (changed(m, "kept", kept=(0, 4)),)}, "do not ascend"),
    "kept positions out of order": (lambda m: {"cases": (changed(m, "kept", kept=(2, 0)),)}, "do not ascend"),
    "kept positions of a cache": (lambda m: {"cases": (changed(m, "chunked", kept=(0,)),)}, "keeps all"),
    "a row without a prompt": (
        lambda m: {"cases": (changed(m, "padded", rows=(RowEntry("a", "A"),)),)},
        "one prompt for each row",
    ),
    "more generated than there is": (lambda m: {"cases": (changed(m, "greedy", generated=4),)}, "generated more"),
    "an unknown level": (lambda m: {"cases": (dataclasses.replace(m.cases[0], level="all"),)}, "level"),
    "an unknown precision": (lambda m: {"precisions": ("../x",)}, "unknown precision"),
    "truth in bfloat16": (lambda m: {"truth_dtype": "bfloat16"}, "unknown dtype"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_contradicts_itself_is_refused_on_opening(place, lie):
    change, problem = LIES[lie]
    manifest = small_golden.complete()
    manifest = dataclasses.replace(manifest, **change(manifest))
    place.write_unchecked(encode(manifest))
    refusal(place.path, problem)


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_contradicts_itself_is_never_published(golden, lie):
    before = golden.blobs()

    lying = dataclasses.replace(small_golden.manifest(), **LIES[lie][0](small_golden.complete()))
    with pytest.raises(GoldenError):
        write_golden(golden.path, small_golden.arrays(), lying, overwrite=True)
    if golden.has_rename:
        assert golden.blobs() == before


def test_a_manifest_of_another_version_is_never_published(place):
    with pytest.raises(GoldenError, match="not of the version of what it holds"):
        place.write(version=VERSIONS[-1] + 1)


def test_an_array_of_a_trillion_elements_is_refused_before_it_is_allocated(place):
    """Manifest, case and disk agree that it is so large; only the stored bytes say otherwise."""
    model = small_golden.config(vocab_size=10**12)
    sizes = small_golden.manifest().sizes | {"vocab": 10**12}
    honest = small_golden.complete()
    arrays = dict(honest.arrays)
    for name, (_, (batch, length)) in small_golden.CASES.items():
        kept = small_golden.FORMS.get(name, {}).get("kept", range(length))
        arrays |= swap(arrays, stack_path(name, "logits"), shape=(batch, len(kept), 10**12))
    manifest = dataclasses.replace(
        honest, arrays=arrays, sizes=sizes, model=dataclasses.replace(honest.model, config=model)
    )
    place.write_unchecked(encode(manifest))
    refusal(place.path, "shape")
    place.claim(stack_path("two-tokens", "logits"), (1, 2, 10**12))
    refusal(place.path, "the number of stored bytes", read=lambda golden: golden.tap("two-tokens", "logits"))
