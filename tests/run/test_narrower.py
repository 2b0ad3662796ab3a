"""A model that computes in a narrower dtype than it is asked for is one sentence, and a command that checks it."""

from __future__ import annotations

import shlex
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.metrics import held_by
from harness.report.contract import broken_contract
from harness.report.findings import findings, unexplained
from harness.report.junit import junit
from harness.report.views import html, markdown, report_text
from harness.report.wording import in_a_narrower_dtype
from harness.results import TapResult
from harness.run.check import check
from harness.run.question import Question
from harness.verdict import narrower

QUESTION = Question(precisions=("float32",), modes=("forward", "replay"), cases=("digits",))
SENTENCE = "this model computes in bfloat16 whatever it is asked for (here float32)"
AS_IT_IS = "goldens check --precision bfloat16 --case digits --port tests.run.narrow_ports:"


def checked(golden_path, checkpoint, name, question=QUESTION):
    return check(golden_path, checkpoint, f"tests.run.narrow_ports:{name}", question)


@pytest.fixture(scope="module")
def narrow(golden_path, checkpoint):
    return checked(golden_path, checkpoint, "Bfloat16Inside")


def test_it_is_one_sentence_in_every_view_and_no_findings(narrow):
    assert len(findings(narrow)) >= 10
    assert unexplained(narrow) == ()
    (sentence,) = in_a_narrower_dtype(narrow)
    assert sentence.startswith(SENTENCE)
    assert f"`{AS_IT_IS}Bfloat16Inside` checks it as it is" in sentence
    assert "are of the size of that rounding" in sentence
    for view in (report_text(narrow, 10_000), html(narrow), markdown(narrow), junit(narrow)):
        said = view.decode() if isinstance(view, bytes) else view
        assert "whatever it is asked for" in said
        assert "introduced at layers" not in said
    assert broken_contract(narrow) is None
    assert narrow.verdict == "diverged"  # it is not what was asked for, and the check still says so


def test_the_command_that_it_names_checks_it_as_it_is(narrow):
    words = shlex.split(narrow.narrower[0].command)
    result = CliRunner().invoke(cli, words[1:])
    assert result.exit_code == 0, result.output
    assert "whatever it is asked for" not in result.output


def test_a_bug_in_such_a_model_stays_a_finding(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "Bfloat16InsideWithABug")
    assert next(in_a_narrower_dtype(report)).startswith(SENTENCE)
    assert [finding.kind for finding in unexplained(report)] == ["probs"]


def test_values_that_come_in_that_dtype_are_refused_with_the_same_sentence(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "Bfloat16AsItIs")
    refusal = broken_contract(report)
    assert refusal.problem == "this model computes in bfloat16 whatever it is asked for"
    assert f"check it as it is: `{AS_IT_IS}Bfloat16AsItIs`" in refusal.hint
    assert next(in_a_narrower_dtype(report)).startswith(SENTENCE)


def test_float32_for_float64_alike(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "Float32Inside", replace(QUESTION, precisions=("float64",)))
    (sentence,) = in_a_narrower_dtype(report)
    assert sentence.startswith("this model computes in float32 whatever it is asked for (here float64)")
    assert "--precision float32" in sentence
    assert unexplained(report) == ()


@pytest.mark.parametrize("name", ["ProjectionsInBfloat16", "AsInaccurateAsBfloat16"])
def test_it_is_not_said_of_some_operations_nor_of_errors_of_that_size_alone(name, golden_path, checkpoint):
    report = checked(golden_path, checkpoint, name)
    assert report.verdict == "diverged"
    assert report.narrower == ()
    assert unexplained(report) == findings(report) != ()


def test_it_is_not_said_of_a_right_port(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=replace(QUESTION, precisions=("float32", "bfloat16")))
    assert report.narrower == ()


def test_the_narrowest_dtype_that_holds_every_value():
    wide = np.array([1.0, 1 / 3], np.float32)
    short = wide.astype(ml_dtypes.bfloat16)
    assert held_by(short.astype(np.float32), "float32") == held_by(short, "float32") == "bfloat16"
    assert held_by(short, "bfloat16") is None
    assert held_by(wide, "float32") is None
    assert held_by(wide.astype(np.float64), "float64") == "float32"
    assert held_by(np.array([np.pi]), "float64") is None
    late = np.concatenate([np.ones(5000, np.float32), wide])
    assert held_by(late, "float32") is None


def synthetic(kind, **facts):
    return TapResult("case", "float32", "replay", kind, "introduced", rel_rms=2e-3, **facts)


def test_whole_prompts_say_it_where_a_cache_is_wider_by_itself():
    """A cache has the dtype that was asked for, and so has what is computed from it."""
    whole = [synthetic(kind, held_by="bfloat16") for kind in ("q", "k", "v", "context")]
    stepped = [synthetic(kind, calls=(3, 1)) for kind in ("cache_k", "context")]
    (found,) = narrower([*whole, *stepped])
    assert (found.dtype, found.kinds, found.of) == ("bfloat16", ("q", "k", "v", "context"), 5)
    assert set(found.rounding) == {"q", "k", "v", "context", "cache_k"}
    assert narrower([*whole[:2], *stepped]) == ()
    large = replace(whole[0], rel_rms=0.3)
    assert "q" not in narrower([large, *whole[1:], *stepped])[0].rounding
