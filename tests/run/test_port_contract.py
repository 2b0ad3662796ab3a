"""A port that breaks its contract: each way has its own clear message, and exit code 2."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import PortError
from harness.run.check import check
from harness.run.loading import find_port
from harness.run.question import Question
from harness.verdict import BROKEN

QUESTION = Question(precisions=("float32",), cases=("digits",))


def verdicts(report):
    return {r.tap: r.verdict for r in report.results if r.verdict in BROKEN}


def checked(golden_path, checkpoint, name, question=QUESTION):
    return check(golden_path, checkpoint, f"tests.run.ports:{name}", question)


def test_a_port_with_a_plain_forward_matches(golden_path, checkpoint):
    assert checked(golden_path, checkpoint, "Wrapped").verdict == "match"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RaisesInLoad", "the port raised ValueError: no such layer"),
        ("RaisesInForward", "the port raised TypeError"),
        ("NoForward", "has no forward"),
        ("NoLoad", "has no load"),
        ("NotThere", "cannot be imported: AttributeError"),
        ("ReturnsLogitsAlone", "does not return"),
        ("ForgetsACase", r"does not return what forward\(\) would for every call"),
        ("DeclaresNonsense", "a kind of tap that does not exist"),
        ("TapsTwice", "tapped one name twice"),
        ("TapsInsideItsOwnJit", "inside the port's own jax.jit"),
    ],
)
def test_what_cannot_be_run_is_refused(golden_path, checkpoint, name, message):
    with pytest.raises(PortError, match=message) as caught:
        checked(golden_path, checkpoint, name)
    assert "hint:" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tap", "verdict"),
    [
        ("CutsTheVocabulary", "logits", "shape"),
        ("LogitsInHalfPrecision", "logits", "dtype"),
        ("ForgetsProbs", "layers.0.probs", "missing"),
        ("InventsATap", "layers.0.scores", "extra"),
        ("YieldsNan", "logits", "nonfinite"),
    ],
)
def test_what_cannot_be_compared_has_its_own_verdict_and_exit_code_2(golden_path, checkpoint, name, tap, verdict):
    report = checked(golden_path, checkpoint, name)
    assert report.verdict == "diverged"
    assert verdicts(report)[tap] == verdict
    args = ["check", "--port", f"tests.run.ports:{name}", "--precision", "float32", "--case", "digits"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert f": {verdict}" in result.stderr
    assert "hint:" in result.stderr


def test_a_declared_gap_is_listed_as_not_covered_never_as_passed(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "DeclaresNoProbs")
    assert report.verdict == "match"
    assert "tap probs: the port declares that it does not expose it" in report.not_covered
    assert not any(r.tap.endswith("probs") for r in report.results)


def test_a_declared_dtype_is_accepted_and_its_values_still_judged(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "DeclaredHalfPrecision")
    assert verdicts(report) == {}
    assert report.introduced == ("logits",)  # float16 is not float32


@pytest.mark.parametrize(
    "spec", ["", ":Name", "no.such.module:Port", "harness.run.port:Nothing", "tests.run.ports"]
)
def test_a_spec_that_names_no_port_is_refused(spec):
    with pytest.raises(PortError) as caught:
        find_port(spec)
    assert "hint:" in str(caught.value)
