"""The built-in decoder against the embedded golden: the green path, and what its report says."""

from __future__ import annotations

import msgspec
import pytest

from harness.corpus import load_corpus
from harness.errors import GoldenError, UsageError
from harness.run.check import check
from harness.run.operations import OPERATIONS
from harness.run.question import Question


@pytest.fixture(scope="module")
def report(golden_path, checkpoint):
    return check(golden_path, checkpoint)


def test_the_built_in_port_matches_everywhere(report):
    assert report.verdict == "match"
    assert report.introduced == ()
    assert report.first_divergence is None
    assert {r.verdict for r in report.results} == {"match"}


def test_float64_is_the_same_function(report):
    worst = max(r.rel_rms for r in report.results if r.precision == "float64")
    assert worst <= 1e-13


def test_float32_is_as_good_as_pytorch(report):
    assert max(r.share for r in report.results if r.precision == "float32") <= 0.5


def test_every_case_tap_precision_and_mode_was_compared(report, golden_path):
    from harness.store import open_golden

    with open_golden(golden_path) as golden:
        cases = {case.name: case for case in golden.manifest.cases}
        assert report.golden.id == golden.id
    recorded = {mode: {name: set(case.taps) for name, case in cases.items()} for mode in ("forward", "replay")}
    recorded["prefill"] = {name: set(case.taps) for name, case in cases.items() if case.cached}
    recorded["alone"] = {
        entry.name: {tap for prompt in entry.prompts for tap in cases[prompt].taps} & set(cases[entry.name].taps)
        for entry in load_corpus(golden_path.parent / "corpus.toml").batches
    }
    expected = {
        (case, precision, mode, tap)
        for precision in ("float64", "float32")
        for mode, by_case in recorded.items()
        for case, taps in by_case.items()
        for tap in taps
    }
    assert [(r.case, r.precision, r.mode, r.tap) for r in report.results].__len__() == len(expected)
    assert {(r.case, r.precision, r.mode, r.tap) for r in report.results} == expected


def test_the_settings_in_force_are_reported(report):
    settings = report.environment["precision"]
    assert settings["float64"] == {"dtype": "float64", "x64": True, "matmul_precision": "highest"}
    assert settings["float32"] == {"dtype": "float32", "x64": False, "matmul_precision": "highest"}


def test_acceptance_is_judged_in_float32_and_passes(report):
    assert report.acceptance.precision == "float32"
    assert report.acceptance.passed
    assert report.acceptance.max_abs < 1e-4


def test_what_is_not_covered_is_named(report):
    assert any("bfloat16" in line for line in report.not_covered)
    assert any("logits only: greedy" in line for line in report.not_covered)


def test_bfloat16_matches_and_says_that_the_old_target_is_below_the_noise(golden_path, checkpoint):
    found = check(
        golden_path, checkpoint, question=Question(precisions=("bfloat16",), cases=("multi-token", "code"))
    )
    assert found.verdict == "match"
    assert not found.acceptance.passed
    assert "below PyTorch's own bfloat16 noise of" in found.acceptance.remark


def test_the_bfloat16_remark_is_made_beside_a_float32_judgement_too(golden_path, checkpoint):
    question = Question(precisions=("float32", "bfloat16"), cases=("digits",))
    found = check(golden_path, checkpoint, question=question).acceptance
    assert (found.precision, found.passed) == ("float32", True)
    assert "below PyTorch's own bfloat16 noise of" in found.remark


def test_a_limit_below_the_noise_makes_the_same_port_diverge(golden_path, checkpoint):
    question = Question(precisions=("float32",), cases=("code",), limit_rms=0.01)
    found = check(golden_path, checkpoint, question=question)
    assert found.verdict == "diverged"
    assert found.limits["float32"].why.startswith("set on the command line")
    assert found.limits["float32"].rms == 0.01


def test_forward_alone_and_replay_alone(golden_path, checkpoint):
    for mode in ("forward", "replay"):
        question = Question(precisions=("float32",), modes=(mode,), cases=("digits",))
        found = check(golden_path, checkpoint, question=question)
        assert {r.mode for r in found.results} == {mode}
        assert any(line.startswith("mode ") for line in found.not_covered)


def test_one_compilation_per_padded_length_serves_all_layers_modes_and_cases(golden_path, checkpoint):
    from dataclasses import replace

    from harness.run.decoder import Decoder

    traces = []

    def counted(gate, up):
        traces.append(gate.shape)
        return OPERATIONS.gated(gate, up)

    def load(directory, config, dtype):
        return Decoder.load(directory, config, dtype, operations=replace(OPERATIONS, gated=counted))

    question = Question(precisions=("float32",), cases=("hello", "the", "digits", "quick-brown", "hello-world"))
    check(golden_path, checkpoint, question=question, load=load)
    # 5 cases of 3 lengths, 4 layers, 2 modes: 40 calls at two padded lengths, 1 and 8. One more trace of each
    # length as it is, 1, 2 and 3, reads precision settings.
    assert sorted(shape[1] for shape in traces) == [1, 1, 2, 3, 8]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(precisions=("float16",)), "unknown precision"),
        (Question(precisions=()), "nothing is to be checked"),
        (Question(cases=("nothing*",)), "no case of the golden matches"),
        (Question(limit_rms=-1.0), "must be a positive number"),
        (Question(limit_max=float("nan")), "must be a positive number"),
    ],
)
def test_a_wrong_question_is_refused(golden_path, checkpoint, question, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(golden_path, checkpoint, question=question)
    assert "hint:" in str(caught.value)


def test_a_missing_golden_is_refused(tmp_path, checkpoint):
    with pytest.raises(GoldenError):
        check(tmp_path / "none.h5", checkpoint)


def test_the_report_survives_json(report):
    from harness.report.document import Report, encode

    assert msgspec.json.decode(encode(report), type=Report) == report
