"""A sliding window, checked against a golden of a model that has one in all layers but the first."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import read_config
from harness.errors import CheckpointError
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.planting import loader
from harness.record.windowed import WINDOW
from harness.report.findings import findings
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.operations import NO_WINDOW, OPERATIONS, allowed
from harness.run.question import Question
from harness.run.tapping import no_tap
from harness.tolerances import PRECISIONS

BY_ID = {mutant.id: mutant for mutant in CATALOGUE}
FLOAT32 = Question(precisions=("float32",))
PROBS = [f"layers.{i}.probs" for i in range(3)]


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_the_built_in_port_matches_at_every_precision_with_no_other_option(window_golden):
    report = check(window_golden, None, question=Question(precisions=PRECISIONS))
    assert report.verdict == "match"
    assert {r.precision for r in report.results} == set(PRECISIONS)
    assert {r.case for r in report.results} >= {"one-beyond", "far-beyond", "across", "chunks", "left"}
    assert max(r.rel_rms for r in report.results if r.precision == "float64") < 1e-13


def test_a_query_sees_the_last_keys_of_its_window_and_no_padding():
    mask = jnp.asarray([[True] * 5, [False, False, True, True, True]])
    seen = allowed(mask, jnp.arange(2, 5, dtype=jnp.int32), np.int32(2))
    assert seen[:, 0].astype(int).tolist() == [
        [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]],
        [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]],
    ]


def test_no_window_hides_no_key_at_any_slot():
    slots = jnp.asarray([0, 40_000], jnp.int32)
    seen = allowed(jnp.ones((1, 40_001), bool), slots, np.int32(NO_WINDOW))
    assert seen.sum(axis=-1).ravel().tolist() == [1, 40_001]


def test_one_compilation_serves_layers_with_and_without_a_window_and_all_decode_steps(window_golden):
    traces = []

    def counted(mask, slots, window):
        assert isinstance(window, jax.core.Tracer), "the window is a value, and not a constant of the program"
        traces.append(len(slots))
        return OPERATIONS.allowed(mask, slots, window)

    def load(directory, config, dtype):
        return Decoder.load(directory, config, dtype, operations=replace(OPERATIONS, allowed=counted))

    check(window_golden, None, question=replace(FLOAT32, cases=("across", "chunks")), load=load)
    # across: 4 tokens, then 5 steps; chunks: 4 and 5, then 1 step; 3 layers of two kinds, 2 modes: 54 calls of a
    # layer. The caches are 9 and 10 slots long. Their own prefills have no cache, and share one padded length.
    # The audit of precision settings traces every number of tokens once more: 1, 4, 5, and the prefills' 9 and 10.
    assert sorted(traces) == sorted([1, 1, 4, 4, 5, 64, 1, 4, 5, 9, 10])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("window_missing", PROBS[1:]),
        ("window_off_by_one_wider", PROBS[1:]),
        ("window_off_by_one_narrower", PROBS[1:]),
        ("window_32", PROBS[:0]),
        ("window_in_every_layer", PROBS[:1]),
        ("window_layers_swapped", PROBS),
        ("window_starts_late", PROBS[1:2]),
        ("decode_window_missing", PROBS[1:]),
        ("decode_window_wider", PROBS[1:]),
        ("decode_window_narrower", PROBS[1:]),
        ("chunk_window_aligned_left", PROBS[1:]),
    ],
)
def test_a_wrong_window_is_introduced_at_the_probabilities_of_the_layers_that_have_it(name, wrong, window_golden):
    """In float32; in float64 the audit does it (tests/mutants/test_windows.py)."""
    question = replace(FLOAT32, cases=("one-beyond", "across", "chunks"))
    report = check(window_golden, None, name, question, load=loader(BY_ID[name]))
    assert report.introduced == tuple(wrong)
    assert report.verdict == ("diverged" if wrong else "match")


@pytest.mark.parametrize("name", ["window_missing", "window_off_by_one_wider", "window_layers_swapped"])
def test_no_prompt_within_the_window_can_show_it(name, window_golden):
    question = replace(FLOAT32, cases=("shorter", "as-long"))
    report = check(window_golden, None, name, question, load=loader(BY_ID[name]))
    assert report.verdict == "match"


def test_one_key_too_few_shows_where_the_prompt_is_as_long_as_the_window_and_at_its_last_token(window_golden):
    question = replace(FLOAT32, cases=("shorter", "as-long"))
    load = loader(BY_ID["window_off_by_one_narrower"])
    report = check(window_golden, None, "narrower", question, load=load)
    wrong = [r for r in report.results if r.verdict == "introduced"]
    assert {r.case for r in wrong} == {"as-long"}
    assert {r.worst.index["position"] for r in wrong} == {WINDOW - 1}


@pytest.mark.parametrize(
    ("name", "case", "words"),
    [
        ("decode_window_missing", "across", "wrong only from step 3 on (case across)"),
        ("decode_window_narrower", "across", "wrong only from step 2 on (case across)"),
        ("chunk_window_aligned_left", "chunks", "wrong only from chunk 2 of the prefill on (case chunks)"),
    ],
)
def test_a_window_that_is_right_in_the_prefill_is_wrong_from_the_call_that_crosses_its_edge(
    name, case, words, window_golden
):
    """Prefill of 4, a window of 6: the second step fills it, the third is the first that it cuts."""
    report = check(window_golden, None, name, replace(FLOAT32, cases=(case,)), load=loader(BY_ID[name]))
    [finding] = [found for found in findings(report) if found.kind == "probs"]
    assert any(words in line for line in finding.evidence), finding.evidence


@pytest.mark.parametrize("mutant", ["window_missing", "window_in_every_layer"])
def test_a_bug_of_the_config_can_be_planted_in_a_port_of_another_kind(mutant, window_golden, tmp_path):
    spec = "harness.run.decoder:Decoder"
    load = loader(BY_ID[mutant], spec, tmp_path / "changed")
    report = check(window_golden, None, spec, replace(FLOAT32, cases=("one-beyond",)), load=load)
    assert set(report.introduced) <= set(PROBS) and report.introduced


def test_a_foreign_port_that_knows_no_windows_fails_at_the_probabilities_and_nowhere_else(window_golden):
    """What windows are is read nowhere in it: every layer sees everything."""
    spec, cases = "tests.second_port.variants:Compiled", ("shorter", "one-beyond", "across")
    with jax.numpy_dtype_promotion("standard"):
        report = check(window_golden, None, spec, replace(FLOAT32, cases=cases))
    assert report.verdict == "diverged"
    assert report.introduced == tuple(PROBS[1:])
    wrong = {r.case for r in report.results if r.verdict not in ("match",)}
    assert wrong == {"one-beyond", "across"}, "within the window it is right"


def test_another_window_in_the_config_is_refused_before_anything_runs(window_golden, window_checkpoint, tmp_path):
    own = tmp_path / "qwen2-window"
    shutil.copytree(window_checkpoint, own)
    config = json.loads((own / "config.json").read_text()) | {"sliding_window": WINDOW + 1}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as refusal:
        check(window_golden, own, question=FLOAT32)
    assert "windows" in str(refusal.value)
    assert "(None, 6, 6)" in str(refusal.value) and "(None, 7, 7)" in str(refusal.value)


@pytest.mark.parametrize("chunks", [(7, 5), (1, 11), (3, 3, 1, 1, 4)])
def test_a_prefill_in_any_chunks_and_padded_on_the_left_is_the_prefill_in_one(chunks, window_checkpoint):
    decoder = Decoder.load(window_checkpoint, read_config(window_checkpoint), jnp.dtype("float32"))
    ids = np.random.RandomState(3).randint(0, 250, (2, 12)).astype("int32")
    mask = np.ones((2, 12), bool)
    mask[1, :4] = False
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0).astype("int32")
    whole, _ = decoder.forward(*map(jnp.asarray, (ids, positions, mask)), None, no_tap)
    cache, parts, start = decoder.init_cache(2, 12, jnp.dtype("float32")), [], 0
    for size in chunks:
        span = slice(start, start := start + size)
        filled = jnp.asarray(mask & (np.arange(12) < start))
        part, cache = decoder.forward(
            jnp.asarray(ids[:, span]), jnp.asarray(positions[:, span]), filled, cache, no_tap
        )
        parts.append(part)
    found = np.concatenate(parts, axis=1)
    assert np.abs(found - np.asarray(whole))[mask].max() < 1e-5
    alone, _ = decoder.forward(
        jnp.asarray(ids[1:, 4:]), jnp.arange(8, dtype=jnp.int32)[None], jnp.ones((1, 8), bool), None, no_tap
    )
    assert np.abs(found[1, 4:] - np.asarray(alone)[0]).max() < 1e-5, "a row alone has the window of a padded one"
