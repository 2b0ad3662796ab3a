"""An audit refuses to judge by a machinery that fails, gives its reasons, and says what a check would say."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import pytest

from harness.errors import CheckpointError, PortError, UsageError
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.catalogue import BY_ID
from harness.mutants.introduced import kinds
from harness.mutants.mutant import Mutant, OperationChange
from harness.mutants.planting import loader
from harness.mutants.trial import FORCED_FAILURE
from harness.report.audit_document import GREEDY
from harness.run.check import check
from harness.run.operations import OPERATIONS
from harness.run.question import Question


def asked(*mutants: str, cases=("one-to-five",), precisions=("float32",)) -> AuditQuestion:
    return AuditQuestion(precisions, mutants, cases)


def result_of(audited, name: str):
    return next(mutant for mutant in audited.mutants if mutant.id == name).results[0]


@pytest.mark.parametrize("name", ["eps_1e5", "gqa_tiled", "layers_swapped", "matmul_bfloat16_3x", "head_tied"])
def test_an_audit_and_a_check_agree(name, golden_path, checkpoint):
    result = result_of(audit(golden_path, checkpoint, asked(name)), name)
    question = Question(precisions=("float32",), cases=("one-to-five",))
    report = check(golden_path, checkpoint, name, question, load=loader(BY_ID[name]))
    assert report.verdict == "diverged"
    assert result.introduced == tuple(dict.fromkeys(tap.rpartition(".")[2] for tap in report.introduced))
    largest = max(r.rms_multiple for r in report.results if r.mode == "replay" or r.tap == "logits")
    assert result.rms_multiple == pytest.approx(largest, rel=0.1)


def test_a_right_decoder_that_fails_is_refused(golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr("harness.mutants.trial.RIGHT", BY_ID["rope_missing"])
    with pytest.raises(PortError, match="the right decoder does not match the golden") as error:
        audit(golden_path, checkpoint, asked("scale_missing"))
    assert "_rope in case one-to-five, float32, replay: diverged" in str(error.value)
    assert "goldens check" in str(error.value)


@pytest.mark.parametrize("left", ["gated", "head"])
def test_a_forced_failure_that_passes_is_refused(left, golden_path, checkpoint, monkeypatch):
    """A value that is not even changed must be noticed as well as one within the limit."""
    replaced = {name: op for name, op in FORCED_FAILURE.change.replaced.items() if name != left}
    incomplete = replace(FORCED_FAILURE, change=OperationChange(replaced))
    monkeypatch.setattr("harness.mutants.trial.FORCED_FAILURE", incomplete)
    with pytest.raises(PortError, match="a forced failure passes") as error:
        audit(golden_path, checkpoint, asked("scale_missing"))
    assert {"gated": "layers.0.act", "head": "logits"}[left] in str(error.value)


def test_a_single_token_cannot_show_a_wrong_rope_mask_or_scale(golden_path, checkpoint):
    """What "attention weights match to 0.0" on "Hello" was worth: these bugs all pass it."""
    names = ("rope_interleaved", "rope_missing", "theta_1e4", "causal_missing", "scale_missing", "mask_minus_10")
    audited = audit(golden_path, checkpoint, asked(*names, cases=("hello",)))
    assert set(audited.blind) == set(names)
    for name in names:
        assert result_of(audited, name).outcome == "unreachable"
        assert result_of(audited, name).reason == "no case has 2 tokens"
        assert result_of(audited, name).remedy == "a prompt of 2 tokens or more"


def test_a_bug_below_the_rounding_survives_with_its_margin(golden_path, checkpoint):
    audited = audit(golden_path, checkpoint, asked("eps_1e12", precisions=("bfloat16",)))
    result = result_of(audited, "eps_1e12")
    assert result.outcome == "survived"
    assert result.reason == f"below this precision's rounding: at most {result.margin:.2g} of the limit"
    assert 0 < result.margin < 1


def test_a_mutant_that_is_caught_at_one_precision_is_no_blind_spot(golden_path, checkpoint):
    audited = audit(golden_path, checkpoint, asked("eps_1e12", precisions=("float32", "bfloat16")))
    assert audited.verdict == "sees"
    assert [result.outcome for result in audited.mutants[0].results] == ["caught", "survived"]


def test_a_mutant_that_changes_nothing_is_never_caught(golden_path, checkpoint):
    idle = Mutant("idle_bug", "f(x)", "g(x)", kinds("act"), OperationChange({}))
    audited = audit(golden_path, checkpoint, asked(), catalogue={"idle": [idle]})
    result = result_of(audited, "idle_bug")
    assert (result.outcome, result.compared, result.cases) == ("unreachable", 0, ())
    assert result.reason == "it changes no bit on any case, and no need of it is known to be unmet"


def test_a_mutant_that_cannot_run_is_refused_and_not_counted(golden_path, checkpoint):
    def crash(q, k):
        raise ValueError("shapes do not fit")

    crashing = Mutant("crashing_bug", "f(x)", "g(x)", kinds("probs"), OperationChange({"scores": crash}))
    audited = audit(golden_path, checkpoint, asked(), catalogue={"crash": [crashing]})
    assert result_of(audited, "crashing_bug").outcome == "refused"
    assert result_of(audited, "crashing_bug").reason == "ValueError: shapes do not fit"
    assert audited.scores["float32"].visible == 0


def test_a_mutant_that_is_found_elsewhere_is_not_named(golden_path, checkpoint):
    elsewhere = Mutant(
        "wrongly_placed", "2 f", "f", kinds("probs"), OperationChange({"gated": lambda gate, up: gate * up})
    )
    result = result_of(audit(golden_path, checkpoint, asked(), catalogue={"x": [elsewhere]}), "wrongly_placed")
    assert (result.outcome, result.named, result.introduced) == ("caught", False, ("act",))
    assert result.naming == ()


def test_nan_is_a_catch_without_a_margin(golden_path, checkpoint):
    nan = Mutant(
        "nan_everywhere", "NaN", "f", kinds("act"), OperationChange({"gated": lambda gate, up: gate * jnp.nan})
    )
    result = result_of(audit(golden_path, checkpoint, asked(), catalogue={"x": [nan]}), "nan_everywhere")
    assert (result.outcome, result.named, result.margin) == ("caught", True, None)
    assert "top-1 equal" in result.criteria


def test_a_case_without_every_operation_catches_but_does_not_name(golden_path, checkpoint):
    result = result_of(audit(golden_path, checkpoint, asked("rope_missing", cases=("fox",))), "rope_missing")
    assert (result.outcome, result.named, result.introduced) == ("caught", False, ())
    assert result.cases == ("fox",)


def test_only_a_case_in_several_calls_shows_a_bug_of_the_cache(golden_path, checkpoint):
    names = ("decode_position_stuck", "cache_keys_overwritten", "chunk_aligned_left")
    blind = audit(golden_path, checkpoint, asked(*names, cases=("one-to-five", "batch-left")))
    assert set(blind.blind) == set(names)
    reasons = [result_of(blind, name).reason for name in names]
    assert reasons == [
        "no case has 2 decode steps",
        "no case has 1 decode steps",
        "no case has a prefill in chunks",
    ]
    seen = audit(golden_path, checkpoint, asked(*names, cases=("chunked",)))
    assert seen.verdict == "sees"
    assert all(mutant.results[0].named for mutant in seen.mutants)
    assert seen.scores["float32"].forced == 75


def test_what_a_mutant_writes_is_judged_as_a_check_judges_it(golden_path, checkpoint):
    """A comparison of texts misses what the goldens see: this eps changes no token of 32."""
    names = ("decode_position_stuck", "eps_1e12")
    audited = audit(golden_path, checkpoint, asked(*names, cases=("one-to-five", "decode", "greedy")))
    stuck, eps = (result_of(audited, name) for name in names)
    question = Question(precisions=("float32",), modes=("forward",), cases=("greedy",))
    report = check(golden_path, checkpoint, "stuck", question, load=loader(BY_ID["decode_position_stuck"]))
    assert stuck.generations == report.generations
    [written] = stuck.generations
    assert 2 <= written.agreed < written.tokens == 32  # the position is right up to the first decode step
    assert written.verdict == "diverged"
    assert [(one.agreed, one.verdict) for one in eps.generations] == [(32, "match")]
    assert (GREEDY in stuck.criteria, GREEDY in eps.criteria) == (True, False)
    score = audited.scores["float32"]
    assert (score.caught, score.criteria[GREEDY], GREEDY in score.false_alarms) == (2, 1, False)


def test_without_a_generation_nothing_is_said_of_tokens(golden_path, checkpoint):
    audited = audit(golden_path, checkpoint, asked("rope_missing"))
    assert GREEDY not in audited.scores["float32"].criteria
    assert result_of(audited, "rope_missing").generations == ()


def test_a_mutant_that_cannot_write_is_refused(golden_path, checkpoint):
    """It computes prompts, and raises at the first decode step."""

    def crash(gate, up):
        if gate.shape[1] == 1:
            raise ValueError("shapes do not fit")
        return OPERATIONS.gated(gate, up)

    crashing = Mutant("crashing_bug", "f(x)", "g(x)", kinds("act"), OperationChange({"gated": crash}))
    question = asked(cases=("one-to-five", "greedy"))
    result = result_of(audit(golden_path, checkpoint, question, catalogue={"crash": [crashing]}), "crashing_bug")
    assert result.outcome == "refused"
    assert "shapes do not fit" in result.reason


def test_a_cache_that_the_right_decoder_gets_wrong_is_refused(golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr("harness.mutants.trial.RIGHT", BY_ID["cache_slot_late"])
    with pytest.raises(PortError, match="the right decoder does not match the golden"):
        audit(golden_path, checkpoint, asked("cache_not_written", cases=("decode",)))


def test_the_cases_that_are_needed_catch_everything(golden_path, checkpoint):
    audited = audit(golden_path, checkpoint, asked("rope_*", "q_bias*", cases=("hello", "the", "one-to-five")))
    assert audited.needed == ("one-to-five",)
    assert audited.spare == ("hello", "the")
    assert result_of(audited, "q_bias_missing").cases == ("hello", "the", "one-to-five")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (AuditQuestion(precisions=("float16",)), "unknown precision"),
        (AuditQuestion(precisions=()), "nothing is to be checked"),
        (AuditQuestion(mutants=("no-such-*",)), "no mutant of the catalogue matches"),
        (AuditQuestion(cases=("no-such",)), "no case of the golden matches"),
    ],
)
def test_what_cannot_be_asked_is_refused(question, message, golden_path, checkpoint):
    with pytest.raises(UsageError, match=message):
        audit(golden_path, checkpoint, question)


def test_another_checkpoint_is_refused_before_anything_runs(golden_path, own_checkpoint):
    content = bytearray((own_checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (own_checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="these are not the weights"):
        audit(golden_path, own_checkpoint, asked("rope_missing"))
