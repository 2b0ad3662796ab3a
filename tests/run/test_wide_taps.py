"""A bug must not hide behind the dtype of its tap: what is wider than asked for is compared all the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from click.testing import CliRunner

from harness.cli import cli
from harness.report.contract import broken_contract
from harness.run.check import check
from harness.run.question import Question

QUESTION = Question(precisions=("bfloat16",), modes=("forward", "replay"), cases=("digits",))
FAST = ("--precision", "bfloat16", "--case", "digits")
DECLARE = 'dtypes = {"context": "float32"}'


@cache
def checked(golden_path, checkpoint, name):
    """The report, made once."""
    return check(golden_path, checkpoint, f"tests.run.wide_ports:{name}", QUESTION)


def test_a_right_tap_of_a_wider_dtype_breaks_the_contract_and_nothing_else(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "WideContext")
    wrong = {(r.tap.rpartition(".")[2], r.verdict) for r in report.results if r.verdict != "match"}
    assert wrong == {("context", "dtype")}
    assert report.introduced == ()
    assert DECLARE in broken_contract(report).hint


def test_a_bug_behind_a_wider_dtype_is_placed_where_it_is_and_named_beside_the_dtype(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "WideContextHidesABug")
    assert {tap.rpartition(".")[2] for tap in report.introduced} == {"context"}
    assert broken_contract(report) is not None
    for command in ("check", "diagnose"):
        result = CliRunner().invoke(cli, [command, "--port", "tests.run.wide_ports:WideContextHidesABug", *FAST])
        said = " ".join(result.output.split())
        assert "small errors add up" not in said
        if command == "diagnose":
            assert "scale_missing (scale = 0.17" in said
            assert "reproduces that bug to the last bit" in said
        else:
            assert "looks like: no bug of the catalogue as it is" in said
            assert "WideContextHidesABug` tries other values" in said
            assert result.exit_code == 2
            assert "introduced on the way to layers.*.context" in said  # `probs` is not exposed
            assert "dtype layers" in said
            assert DECLARE in said


def test_a_declared_wider_dtype_is_judged_alike(golden_path, checkpoint):
    declared = checked(golden_path, checkpoint, "DeclaredWideContext")
    assert broken_contract(declared) is None
    assert declared.introduced == checked(golden_path, checkpoint, "WideContextHidesABug").introduced


def test_every_dtype_that_is_wrong_has_its_remedy_whichever_comes_first(golden_path, checkpoint):
    question = replace(QUESTION, precisions=("float64", "bfloat16"))
    hint = broken_contract(check(golden_path, checkpoint, "tests.run.wide_ports:WideContext", question)).hint
    assert "--lift" in hint
    assert DECLARE in hint
    question = replace(question, precisions=("float64",))
    alone = broken_contract(check(golden_path, checkpoint, "tests.run.wide_ports:WideContext", question))
    assert DECLARE not in alone.hint  # nothing is wider than float64: there is nothing to declare


def test_a_declared_dtype_that_is_not_what_comes_is_refused_with_that_line(golden_path, checkpoint):
    refusal = broken_contract(checked(golden_path, checkpoint, "DeclaresAndDoesNotWiden"))
    assert f"{DECLARE} is what the port declares" in refusal.hint
    assert "correct that line" in refusal.hint


def test_a_tap_that_is_missing_has_no_dtype_to_declare(golden_path, checkpoint):
    refusal = broken_contract(check(golden_path, checkpoint, "tests.run.ports:ForgetsProbs", QUESTION))
    assert "dtypes" not in refusal.hint
    assert "mend this in the port first" in refusal.hint
