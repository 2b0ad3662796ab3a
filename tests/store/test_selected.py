"""A golden of some taps: it says which, and a reader compares that with what is there."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import SELECTIVE_VERSION, encode
from harness.layout import Layout
from harness.selecting import Selected, at_level
from harness.store import open_golden
from harness.store.writer import NewArray, write_golden
from tests.store import places, small_golden

SELECTED = Selected.asked(["layers.*.q", "*.cache_k", "logits"], "last")


def manifest(selected=SELECTED, version=SELECTIVE_VERSION):
    whole = small_golden.manifest()
    cases = []
    for case in whole.cases:
        taps = tuple(tap.name for tap in at_level(whole.taps, case.level, case.cached, selected))
        cases.append(replace(case, taps=taps, partly=True if taps != case.taps else msgspec.UNSET))
    return replace(whole, cases=tuple(cases), selected=selected or msgspec.UNSET, version=version)


def arrays(of):
    for path, form in Layout(of).forms():
        for index in range(form.slabs):
            yield NewArray(path, np.full(form.slab, index, form.dtype), index)


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_it_is_read_as_it_was_written_and_says_how_it_was_selected(tmp_path, name):
    path, written = tmp_path / name, manifest()
    write_golden(path, arrays(written), written)
    with open_golden(path) as golden:
        golden.verify()
        assert golden.manifest.selection == SELECTED
        assert golden.manifest.case("chunked").taps == ("layers.1.q", "layers.1.cache_k", "logits")
        assert [case.depth for case in golden.manifest.cases] == [
            "ops, partly",
            "layers, partly",
            "ops, partly",
            "ops, partly",
            "logits",
        ]
        with pytest.raises(GoldenError, match="what was selected leaves it out") as caught:
            golden.tap("two-tokens", "layers.0.q")
        assert "--layers last" in caught.value.found
        with pytest.raises(GoldenError, match="recorded at level"):
            golden.tap("padded", "layers.1.q")


def test_a_golden_of_everything_is_what_it_was(tmp_path):
    assert b"selected" not in encode(small_golden.complete()) and b"partly" not in encode(small_golden.complete())


LIES = {
    "the version that knows nothing of it": (lambda m: replace(m, version=3), "version of what it holds"),
    "the later version without need": (
        lambda m: replace(small_golden.manifest(), version=SELECTIVE_VERSION),
        "version of what it holds",
    ),
    "nothing selected, but said": (
        lambda m: replace(small_golden.manifest(), selected=Selected()),
        "version of what it holds",
    ),
    "taps that were not selected": (lambda m: replace(m, selected=Selected(("logits",))), "and the selection"),
    "layers that are no rule": (lambda m: replace(m, selected=Selected((), "all")), "no rule"),
    "another form": (lambda m: replace(m, selected=Selected(SELECTED.taps[::-1], "last")), "canonical form"),
    "more complete than it is": (
        lambda m: replace(m, cases=(replace(m.cases[0], partly=msgspec.UNSET), *m.cases[1:])),
        "not as complete",
    ),
    "less complete than it is": (
        lambda m: replace(m, cases=(*m.cases[:-1], replace(m.cases[-1], partly=True))),
        "not as complete",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_contradicts_itself_is_neither_written_nor_read(tmp_path, lie):
    change, problem = LIES[lie]
    lying = change(manifest())
    with pytest.raises(GoldenError, match=problem):
        write_golden(tmp_path / "a.h5", arrays(lying), lying)
    place = places.Hdf5Place(tmp_path)
    place.write_unchecked(encode(lying))
    with pytest.raises(GoldenError, match=problem):
        open_golden(place.path)


def of_largest(top=3, version=SELECTIVE_VERSION, **more):
    whole = small_golden.manifest()
    return replace(whole, cases=tuple(replace(case, top=top, **more) for case in whole.cases), version=version)


def with_ids(of, ids):
    for new in arrays(of):
        wanted = new.path.endswith("top/ids")
        yield NewArray(new.path, np.full_like(new.array, ids), new.index) if wanted else new


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_the_largest_logits_are_read_as_they_were_written(tmp_path, name):
    written = of_largest()
    write_golden(tmp_path / name, with_ids(written, 11), written)
    with open_golden(tmp_path / name) as golden:
        golden.verify()
        assert golden.tap("kept", "logits").shape == (1, 2, 3)
        found = golden.top("kept")
        assert {what: found[what].shape for what in found} == {
            "ids": (1, 2, 3),
            "log_sum_exp": (1, 2),
            "outside": (1, 2),
            "outside_logit": (1, 2),
        }


@pytest.mark.parametrize("ids", [-1, 12])
def test_ids_that_the_vocabulary_has_not_are_refused(tmp_path, ids):
    written = of_largest()
    write_golden(tmp_path / "a.h5", with_ids(written, ids), written)
    with open_golden(tmp_path / "a.h5") as golden, pytest.raises(GoldenError, match="impossible"):
        golden.top("two-tokens")


@pytest.mark.parametrize(
    ("lying", "problem"),
    [
        (lambda: of_largest(version=3), "version of what it holds"),
        (lambda: of_largest(top=1), "no such number"),
        (lambda: of_largest(top=12), "no such number"),
        (lambda: replace(manifest(Selected(("embed",))), cases=_embed_alone()), "no such number"),
    ],
)
def test_a_number_of_logits_that_cannot_be_is_neither_written_nor_read(tmp_path, lying, problem):
    with pytest.raises(GoldenError, match=problem):
        write_golden(tmp_path / "a.h5", arrays(lying()), lying())
    place = places.Hdf5Place(tmp_path)
    place.write_unchecked(encode(lying()))
    with pytest.raises(GoldenError, match=problem):
        open_golden(place.path)


def _embed_alone():
    [case, *_] = small_golden.manifest().cases
    return (replace(case, taps=("embed",), partly=True, top=3),)
