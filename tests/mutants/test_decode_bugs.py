"""Bugs of caches, padding and far positions: each is caught where it sits, and in the call it starts in.

The list is of what such a harness must catch; the catalogue has an id for each entry, and is what is planted.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import embedded
from harness.architecture import architecture_of, read_config
from harness.families.graph import kinds_in
from harness.mutants.catalogue import BY_ID
from harness.mutants.planting import loader
from harness.mutants.trial import RIGHT
from harness.report.document import Report
from harness.report.findings import findings
from harness.run.check import Checker
from harness.run.question import Question

KINDS = kinds_in(architecture_of(read_config(embedded.directory() / "qwen2-tiny")))
DECODE, BATCH, FAR = ("decode",), ("batch-left", "batch-decode"), ("offset",)
# What must be caught: ids, the cases that show it, and the first call of the first of them in which it shows; None
# where that case is one call.
MUST_CATCH: dict[str, tuple[tuple[str, ...], tuple[str, ...], int | None]] = {
    "position stuck at the prefill length": (("decode_position_stuck",), DECODE, 2),
    "position off by one in decode": (("decode_position_ahead",), DECODE, 1),
    "position 0 in decode": (("decode_position_zero",), DECODE, 1),
    "K/V of the new token never written": (("cache_not_written",), DECODE, 1),
    "K/V written one slot late": (("cache_slot_late",), DECODE, 1),
    "K/V written over the last token's": (("cache_slot_overwritten", "cache_keys_overwritten"), DECODE, 1),
    "silent clamp of dynamic_update_slice at the end of the cache": (("cache_clamped",), DECODE, 2),
    "cache in bfloat16": (("cache_in_bfloat16", "cache_keys_in_bfloat16"), DECODE, 0),
    "stale cache from an earlier request": (("cache_stale",), DECODE, 1),
    "slots without a token seen": (("cache_unwritten_seen",), DECODE, 1),
    "QK path skipped in the cached branch": (("decode_rope_skipped",), DECODE, 1),
    "causal alignment in chunked prefill": (("chunk_aligned_left",), ("chunked",), 1),
    "no causality within a chunk": (("chunk_not_causal",), ("chunked",), 0),
    "padding mask ignored": (("padding_seen",), BATCH, None),
    "padding mask inverted": (("padding_inverted",), BATCH, None),
    "mask added as bool": (("mask_added_as_bool",), BATCH, None),
    "positions counted over pads": (("positions_counted",), BATCH, None),
    "positions counted over pads, through the cache": (("decode_positions_counted",), ("batch-decode",), 0),
    "one position for rows of several lengths": (("decode_positions_shared",), ("batch-decode",), 1),
    "NaN from fully masked rows": (("mask_minus_infinity",), ("batch-left",), None),
    "positions in bfloat16": (("positions_in_bfloat16",), FAR, None),
    "inv_freq in bfloat16": (("frequencies_in_bfloat16",), FAR, None),
    "theta wrong only visible at length": (("theta_in_bfloat16",), FAR, None),
}
PLANTED = [
    pytest.param(name, cases, since, id=name) for names, cases, since in MUST_CATCH.values() for name in names
]
# These show on any prompt; with the others, a port passes short prompts whatever it makes of a cache.
SHORT_PROMPTS_SEE = {
    *("chunk_not_causal", "mask_added_as_bool", "padding_inverted"),
    *("frequencies_in_bfloat16", "theta_in_bfloat16"),
}
Run = Callable[..., Report]


@pytest.fixture(scope="module")
def replayed(golden_path, checkpoint) -> Run:
    """Replays cases through the built-in decoder with a mutant in it; nothing is compiled, for there are many."""

    def run(name: str, precision: str, cases: tuple[str, ...]) -> Report:
        question = Question(precisions=(precision,), modes=("replay",), cases=cases)
        load = loader(BY_ID.get(name, RIGHT))
        with Checker(golden_path, checkpoint, "mutant", question, load=load, inspect=False) as checker:
            return checker.report([checker.run(precision)])

    return run


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("name", "cases", "since"), PLANTED)
def test_it_is_introduced_where_it_sits_and_in_the_call_it_starts_in(name, cases, since, precision, replayed):
    report = replayed(name, precision, cases)
    assert report.verdict == "diverged"
    assert {tap.rpartition(".")[2] for tap in report.introduced} == BY_ID[name].introduced & KINDS
    found = [r for r in report.results if r.verdict != "match"]
    assert {r.case for r in found} == set(cases)
    assert {r.since_call for r in found if r.case == cases[0]} == {since}


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_right_decoder_has_none_of_them(precision, replayed):
    assert replayed("right", precision, (*DECODE, "chunked", *BATCH, *FAR)).verdict == "match"


@pytest.mark.parametrize(("name", "cases", "since"), PLANTED)
def test_short_prompts_see_hardly_any_of_them(name, cases, since, replayed):
    """What prefill alone is worth."""
    report = replayed(name, "float32", ("hello", "digits"))
    assert (report.verdict == "diverged") == (name in SHORT_PROMPTS_SEE)


def test_a_theta_that_is_nearly_right_is_ten_thousand_times_as_wrong_far_into_a_text(replayed):
    report = replayed("theta_in_bfloat16", "float64", FAR)
    errors = next(r.profile for r in report.results if r.tap == "layers.0.k_rope")
    assert errors[-1] > 10_000 * errors[1] > 0


def test_a_wrong_cache_and_an_operation_that_is_wrong_from_a_step_on_are_told_apart(replayed):
    def evidence(name, case):
        return {f.kind: f.evidence for f in findings(replayed(name, "float32", (case,)))}

    late = evidence("cache_slot_late", "decode")
    assert any(
        line.startswith("wrong in the cache itself, first after step 1 (case decode") for line in late["cache_k"]
    )
    right_before = "right in every call before, wrong only from"
    assert f"{right_before} step 2 on (case decode)" in evidence("decode_position_stuck", "decode")["q_rope"]
    assert f"{right_before} step 1 on (case decode)" in evidence("cache_stale", "decode")["probs"]
    chunk = evidence("chunk_aligned_left", "chunked")["probs"]
    assert f"{right_before} chunk 2 of the prefill on (case chunked)" in chunk


@pytest.mark.parametrize(
    ("name", "cases"), [("cache_slot_late", ("decode", "greedy")), ("rope_interleaved", ("multi-token", "long"))]
)
def test_a_case_that_recorded_little_adds_no_second_finding_to_the_true_one(name, cases, replayed):
    report = replayed(name, "float32", cases)
    assert {tap.rpartition(".")[2] for tap in report.introduced} == BY_ID[name].introduced & KINDS
    assert all(finding.located for finding in findings(report))
    shallow = [r for r in report.results if r.case == cases[1] and r.verdict != "match"]
    assert shallow
    assert {r.verdict for r in shallow} == {"inherited"}


def test_where_nothing_else_says_which_operation_it_is_the_finding_is_called_not_located(replayed):
    (found,) = findings(replayed("cache_slot_late", "float32", ("greedy",)))
    assert found.kind == "logits"
    assert not found.located
