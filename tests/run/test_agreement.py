"""Two ways of running the same tokens: through a cache and without one, in a batch and alone."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from harness.errors import UsageError
from harness.families.frequencies import inverse_frequencies
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.planting import loader as planted
from harness.report.agreement import agreement
from harness.report.views import report_text
from harness.results import AGREEMENT_MODES, MODES
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS, allowed
from harness.run.question import Question, parse_modes
from harness.run.tapping import Around, Session
from tests.run.ports import Wrapped

BY_ID = {mutant.id: mutant for mutant in CATALOGUE}
FLOAT32 = Question(precisions=("float32",))
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])
WRONG_THETA = replace(OPERATIONS, inverse_frequencies=lambda theta, dim: inverse_frequencies(2 * theta, dim))


def decoder(operations):
    return lambda directory, config, dtype: Decoder.load(directory, config, dtype, operations=operations)


def of(report, mode):
    return [r for r in report.results if r.mode == mode]


def wrong(results):
    return [r for r in results if r.verdict != "match"]


class WrongWithoutCache(Wrapped):
    """Right through a cache, another theta in a call without one."""

    def init_cache(self, batch, length, dtype):
        return self._inner.init_cache(batch, length, dtype)

    def forward(self, input_ids, positions, mask, cache, tap):
        inner = self._inner if cache is not None else self.other
        return inner.forward(input_ids, positions, mask, cache, tap)

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        port = super().load(checkpoint, config, dtype, mesh)
        port.other = Decoder.load(checkpoint, config, dtype, operations=WRONG_THETA)
        return port


def loader(kind):
    return lambda directory, config, dtype: kind.load(directory, config, dtype, None)


@PRECISIONS
def test_a_correct_port_agrees_with_itself_at_every_tap(precision, golden_path, checkpoint):
    cases = ("decode", "batch-*", "digits")
    report = check(golden_path, checkpoint, question=Question((precision,), cases=cases))
    assert report.verdict == "match"
    assert agreement(report) == ()
    compared = {(r.case, r.tap) for r in of(report, "prefill")}
    assert compared == {(r.case, r.tap) for r in of(report, "forward") if r.calls}
    assert ("decode", "layers.0.cache_k") in compared and ("batch-decode", "logits") in compared
    rows = of(report, "alone")
    assert {r.case for r in rows} == {"batch-left", "batch-right", "batch-decode"}
    assert {r.against for r in rows if r.case == "batch-left"} == {("digits", "python-is-great", "one-to-five")}
    assert all(r.row is not None and r.wrong_rows == () for r in rows)
    assert all(r.row is None and r.against == () for r in report.results if r.case == "digits")


@PRECISIONS
def test_a_decode_step_at_another_position_differs_from_that_step_on(precision, golden_path, checkpoint):
    question = Question((precision,), cases=("decode",))
    bug = BY_ID["decode_position_stuck"]
    report = check(golden_path, checkpoint, bug.id, question, load=planted(bug))
    found = wrong(of(report, "prefill"))
    assert {r.since_call for r in found} == {2}
    assert {r.tap for r in found if r.verdict == "introduced"} == {
        f"layers.{i}.{kind}" for i in range(4) for kind in ("q_rope", "k_rope")
    }
    assert {"layers.3.cache_k", "logits"} <= {r.tap for r in found if r.verdict == "inherited"}
    assert agreement(report) == (
        "decode: differs from the port's own prefill of the same tokens from step 2 on, first at layers.0.q_rope: "
        f"the cache path is to blame ({precision})",
    )


@PRECISIONS
def test_a_port_that_is_wrong_in_the_same_way_without_a_cache_is_clean(precision, golden_path, checkpoint):
    question = Question((precision,), cases=("decode", "chunked", "digits"))
    report = check(golden_path, checkpoint, "theta", question, load=decoder(WRONG_THETA))
    assert wrong(of(report, "forward")) and not wrong(of(report, "prefill"))
    assert agreement(report) == (
        "decode, chunked: agrees with the port's own prefill of the same tokens: the cache path is not to blame "
        f"({precision})",
    )


@PRECISIONS
def test_a_port_whose_prefill_alone_is_wrong_fails_in_this_mode_and_says_so(precision, golden_path, checkpoint):
    question = Question((precision,), cases=("decode",))
    report = check(golden_path, checkpoint, "prefill", question, load=loader(WrongWithoutCache))
    assert not wrong([*of(report, "forward"), *of(report, "replay")])
    assert report.verdict == "diverged"
    assert report.introduced == ("layers.0.q_rope", "layers.0.k_rope")
    (sentence,) = agreement(report)
    assert (
        "first at layers.0.q_rope: the calls through the cache match the golden, so it is the prefill" in sentence
    )
    text = report_text(report, 300)
    unit = "an ulp" if precision == "float64" else "twice PyTorch's own float32 error"
    assert "where the calls through the cache and the port's own prefill part" in text
    assert f" x {unit}   (up to " in text and ", own prefill " in text and sentence in text


def test_a_later_error_of_the_cache_is_told_from_what_it_holds_after_the_last_call(golden_path, checkpoint):
    bug = BY_ID["cache_slot_late"]
    question = replace(FLOAT32, modes=("prefill",), cases=("decode",))
    report = check(golden_path, checkpoint, bug.id, question, load=planted(bug))
    found = next(r for r in report.results if r.tap == "layers.0.cache_k")
    assert (found.verdict, found.since_call) == ("introduced", 1)
    assert "from step 1 on, first at layers.0.cache_k: one of the two is wrong" in agreement(report)[0]


def _blind_in_row_0(mask, slots, window):
    """Row 0 does not know what its padding is."""
    return allowed(mask.at[0].set(True), slots, window)


@PRECISIONS
def test_a_row_that_sees_its_padding_differs_from_its_prompt_and_is_named(precision, golden_path, checkpoint):
    question = Question((precision,), cases=("batch-left", "digits"))
    leaking = decoder(replace(OPERATIONS, allowed=_blind_in_row_0))
    report = check(golden_path, checkpoint, "leak", question, load=leaking)
    found = wrong(of(report, "alone"))
    assert {r.wrong_rows for r in found} == {(0,)} and {r.row for r in found} == {0}
    assert {r.tap for r in found if r.verdict == "introduced"} == {f"layers.{i}.probs" for i in range(4)}
    assert agreement(report) == (
        "batch-left: row 0 (digits) differs from its prompt recorded alone, first at layers.0.probs; rows 1 "
        "(python-is-great), 2 (one-to-five) agree: alone the port gets them right, so the padding or the batch is "
        f"to blame ({precision})",
    )
    alone = check(golden_path, checkpoint, "leak", replace(question, modes=("alone",)), load=leaking)
    assert {r.mode for r in alone.results} == {"alone"} and alone.verdict == "diverged"
    assert ", golden of digits " in report_text(alone, 300) and "row 0" in report_text(alone, 300)


def test_probabilities_of_padding_alone_are_seen_where_the_real_keys_are_right(golden_path, checkpoint):
    """A weight that padding gets, and that no real key loses."""

    def leaks(scores, seen):
        probs = OPERATIONS.probabilities(scores, seen)
        padding = ~seen.any(axis=-2, keepdims=True)  # keys that nobody may see
        return probs + padding.astype(probs.dtype) * jnp.asarray(1e-3, probs.dtype)

    question = replace(FLOAT32, modes=("alone",), cases=("batch-left",))
    report = check(
        golden_path, checkpoint, "leak", question, load=decoder(replace(OPERATIONS, probabilities=leaks))
    )
    probs = next(r for r in report.results if r.tap == "layers.0.probs")
    assert probs.verdict == "introduced" and 0 in probs.wrong_rows
    assert probs.max_abs == pytest.approx(1e-3, rel=0.01)


def test_a_batch_whose_prompts_are_wrong_too_is_not_to_blame(golden_path, checkpoint):
    question = replace(FLOAT32, cases=("batch-left", "digits", "python-is-great", "one-to-five"))
    report = check(golden_path, checkpoint, "theta", question, load=decoder(WRONG_THETA))
    assert (
        "rows 0 (digits), 1 (python-is-great), 2 (one-to-five) differ from their prompts" in agreement(report)[0]
    )
    assert "alone the port gets them wrong too, so the batch is not to blame" in agreement(report)[0]


def test_a_port_without_a_cache_has_its_rows_compared_and_its_decodes_named(golden_path, checkpoint):
    report = check(golden_path, checkpoint, "none", replace(FLOAT32, cases=("batch-*",)), load=loader(Wrapped))
    assert report.verdict == "match"
    assert {r.mode for r in report.results} == {"forward", "replay", "alone"}
    assert any("which the port does not have (init_cache): batch-decode" in line for line in report.not_covered)
    assert not any("of batch-decode alone" in line for line in report.not_covered)


def test_operations_that_a_prompt_is_not_recorded_at_are_named(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=replace(FLOAT32, modes=("alone",), cases=("batch-decode",)))
    assert (
        "operations of rows 1, 2 of batch-decode alone: recorded less deep there (apostrophe at layers, "
        "digits-in-text at layers)" in report.not_covered
    )
    by_tap = {r.tap: r.against for r in report.results}
    assert by_tap["layers.0.q"] == ("one-to-five", None, None)
    assert by_tap["logits"] == ("one-to-five", "apostrophe", "digits-in-text")


@pytest.mark.parametrize("mode", AGREEMENT_MODES)
def test_a_mode_that_no_case_allows_is_refused_before_the_port_is_loaded(mode, golden_path, checkpoint):
    def load(*_):
        raise AssertionError("loaded")

    with pytest.raises(UsageError, match="no case that was asked for can be checked in this mode") as refusal:
        check(golden_path, checkpoint, "none", replace(FLOAT32, modes=(mode,), cases=("digits",)), load=load)
    assert f"--mode {mode}" in str(refusal.value) and "hint: " in str(refusal.value)


def test_cases_that_the_modes_asked_for_do_not_apply_to_are_named(golden_path, checkpoint):
    question = replace(FLOAT32, modes=AGREEMENT_MODES, cases=("hello", "decode", "batch-right"))
    report = check(golden_path, checkpoint, question=question)
    assert {(r.case, r.mode) for r in report.results} == {("decode", "prefill"), ("batch-right", "alone")}
    assert "cases that mode prefill and alone cannot check: hello" in report.not_covered


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("all", MODES),
        ("both", ("forward", "replay")),
        ("prefill, alone,prefill", AGREEMENT_MODES),
        ("both,alone", ("forward", "replay", "alone")),
    ],
)
def test_modes_are_a_list_of_names(text, modes):
    assert parse_modes(text) == modes


def test_an_unknown_mode_is_refused():
    with pytest.raises(UsageError, match="unknown mode") as refusal:
        replace(FLOAT32, modes=("decode",)).check()
    assert ", ".join(MODES) in str(refusal.value)


def test_replay_alone_runs_no_prefill_of_the_ports_own(golden_path, checkpoint):
    calls = []

    class Counted(WrongWithoutCache):
        def forward(self, input_ids, positions, mask, cache, tap):
            calls.append(cache is None)
            return super().forward(input_ids, positions, mask, cache, tap)

    question = replace(FLOAT32, modes=("replay",), cases=("decode",), allow_reduced_precision=True)
    report = check(golden_path, checkpoint, "counted", question, load=loader(Counted))
    assert {r.mode for r in report.results} == {"replay"}
    assert len(calls) == 9 + 2  # and once for each shape where its precision settings are looked at
    assert not any(calls)


def test_what_a_prefill_does_not_hand_over_is_missing_and_what_is_not_finite_says_where(golden_path, checkpoint):
    class Partly(Around):
        def absorb(self, stage, recorded):
            handed = dict(recorded)
            if stage == "layers.1":
                del handed["up"]
            if stage == "layers.2":
                handed["v"] = np.array(handed["v"])
                handed["v"][0, 3] = np.nan
            super().absorb(stage, handed)

    class Forgets(WrongWithoutCache):
        def forward(self, input_ids, positions, mask, cache, tap):
            tap = Partly(tap) if cache is None and isinstance(tap, Session) else tap
            return self._inner.forward(input_ids, positions, mask, cache, tap)

    question = replace(FLOAT32, modes=("prefill",), cases=("decode",))
    report = check(golden_path, checkpoint, "forgets", question, load=loader(Forgets))
    by_tap = {r.tap: r for r in report.results}
    forgotten, poisoned = by_tap["layers.1.up"], by_tap["layers.2.v"]
    assert (forgotten.verdict, forgotten.found) == ("missing", "never tapped")
    assert forgotten.expected == "tapped in the port's own prefill of the same tokens"
    assert (poisoned.verdict, poisoned.found) == ("nonfinite", "NaN or infinity there")
    assert by_tap["layers.0.up"].verdict == "match"
