"""The embedded goldens of other families: small, made by what is in the repository, and right."""

from __future__ import annotations

import importlib.util

import pytest
from safetensors.numpy import load_file

from harness import embedded
from harness.corpus import load_corpus
from harness.record.families import NAMES, config, write_checkpoint
from harness.run.check import check
from harness.run.question import Question
from harness.store import open_golden
from tests.families.formulas import forward, relative_rms

each = pytest.mark.parametrize("name", NAMES)


def paths(name):
    return embedded.directory() / f"{name}.h5", embedded.directory() / name


def test_they_are_all_that_there_are_beside_the_two_of_qwen2():
    assert {path.stem for path in embedded.goldens()} == {*NAMES, "qwen2-tiny", "qwen2-window"}


@each
def test_it_is_small_and_holds_its_corpus(name):
    golden, _ = paths(name)
    assert golden.stat().st_size < 1.05e6
    with open_golden(golden) as opened:
        assert opened.manifest.corpus_sha256 == load_corpus(embedded.corpus_of(name)).digest
        assert opened.manifest.model.config == config(name)


@each
def test_its_checkpoint_is_the_one_that_is_made_here(name, tmp_path):
    write_checkpoint(tmp_path, config(name))
    _, checkpoint = paths(name)
    for file in checkpoint.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


@each
@pytest.mark.parametrize(("case", "limit"), [("seven", 2e-14), ("far", 2e-13)])
def test_its_truth_is_what_the_formulas_give(name, case, limit):
    path, checkpoint = paths(name)
    with open_golden(path) as golden:
        ids, positions = golden.case(case).input_ids[0].tolist(), golden.case(case).positions[0].tolist()
        found = forward(load_file(checkpoint / "model.safetensors"), config(name), ids, positions)
        assert set(golden.manifest.case(case).taps) == set(found)
        errors = {tap: relative_rms(value, golden.tap(case, tap)) for tap, value in found.items()}
    assert max(errors.values()) < limit, errors


@each
def test_the_built_in_decoder_matches_it_compiled_as_a_whole(name):
    golden, checkpoint = paths(name)
    report = check(golden, checkpoint, question=Question(("float64", "bfloat16"), cases=("seven",)))
    assert report.verdict == "match", report.introduced
    report = check(golden, checkpoint, question=Question(("float32",), cases=("seven", "left", "chunks")))
    assert report.verdict == "match", report.introduced
    assert {result.mode for result in report.results} == {"forward", "replay", "prefill", "alone"}


@pytest.mark.record
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="it is recorded anew, with torch")
@each
def test_it_is_what_this_recorder_records(name, tmp_path):
    """On another machine the last bits may differ, and so the id; the truth may not."""
    from harness.record.recorder import Options, record
    from tests.record.test_recorder import assert_same_truth

    golden, checkpoint = paths(name)
    corpus, names = load_corpus(embedded.corpus_of(name)), ("seven", "chunks", "far")
    record(checkpoint, name, corpus, str(tmp_path / "again.h5"), Options(cases=names))
    with open_golden(golden) as committed, open_golden(tmp_path / "again.h5") as again:
        assert_same_truth(committed, again, corpus, names)
