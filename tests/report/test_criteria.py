"""A team's own criteria on the logits: what is asked, what is said, and that a saved report keeps them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.errors import UsageError
from harness.report.criteria import PHASE_3, acceptance, parse_criteria
from harness.report.document import Criteria, encode
from harness.report.reading import read_report
from harness.report.views import html, markdown, report_text
from tests.report.samples import PASSING, REPORT
from tests.report.test_diff import compared
from tests.test_cli import FAST, goldens, refused


def judged(report, criteria):
    return replace(report, acceptance=acceptance(report.results, criteria=criteria))


def test_a_name_or_any_of_the_three_thresholds_can_be_asked():
    assert parse_criteria("phase-3") == PHASE_3 == parse_criteria("max_abs=1e-4, mean_abs=1e-5, position_r=0.1")
    assert parse_criteria("mean_abs=2.5e-3") == Criteria(mean_abs=2.5e-3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unknown criterion"),
        ("max=1", "unknown criterion"),
        ("phase-4", "unknown criterion"),
        ("max_abs=1,max_abs=2", "a criterion is given twice"),
        *((f"mean_abs=1,max_abs{bad}", "not a threshold") for bad in ("", "=", "=x", "=0", "=-1", "=nan", "=inf")),
    ],
)
def test_unknown_names_and_what_is_no_threshold_are_refused(text, problem):
    with pytest.raises(UsageError, match=problem) as refusal:
        parse_criteria(text)
    assert refusal.value.found == (text.split(",")[-1] or "nothing")
    assert "--criteria max_abs=1e-4" in str(refusal.value)


def test_the_logits_are_judged_by_what_was_asked_and_by_nothing_else():
    for criteria, word in (
        (Criteria(max_abs=1.0), "pass"),
        (Criteria(max_abs=0.5), "fail"),
        (Criteria(mean_abs=0.06), "pass"),
        (Criteria(mean_abs=0.04), "fail"),
        (Criteria(position_r=0.95), "pass"),
        (Criteria(max_abs=1.0, position_r=0.9), "fail"),
    ):
        report = judged(REPORT, criteria)
        assert f"own criteria at float32: {word}" in report_text(report, 200)
        assert report.verdict == "diverged"
    shown = "max abs 0.5 (< 0.75), mean abs 0.05, position correlation +0.90"
    assert f"{shown}\n" in report_text(judged(REPORT, Criteria(max_abs=0.75)), 200)
    for view in (html, markdown):
        assert "own criteria at float32" in view(judged(REPORT, Criteria(max_abs=1.0)))
        assert "phase-3 criteria at float32" in view(REPORT)


def test_a_saved_report_keeps_them_and_the_usual_ones_are_not_written(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(encode(judged(REPORT, Criteria(max_abs=1.0))))
    assert read_report(path) == judged(REPORT, Criteria(max_abs=1.0))
    assert "criteria" not in json.loads(encode(REPORT))["acceptance"]
    for edited in ({"max_abs": 0.1}, {"max_abs": -1.0}, {}):
        document = json.loads(path.read_text())
        document["acceptance"]["criteria"] = edited
        other = tmp_path / "edited.json"
        other.write_text(json.dumps(document))
        with pytest.raises(UsageError, match="the report contradicts itself"):
            read_report(other)


def test_both_sides_of_a_diff_are_judged_by_the_same():
    asked = Criteria(max_abs=1.0)
    for before, after in ((judged(REPORT, asked), PASSING), (REPORT, judged(PASSING, asked))):
        found = compared(before, after, intersection=True)
        assert [side.acceptance.criteria for side in (found.before, found.after)] == [asked, asked]
        assert "own criteria at float32: pass -> pass" in report_text(found, 200)


def test_a_check_takes_them_and_refuses_bad_ones_before_the_work(tmp_path):
    refused(goldens("check", *FAST, "--criteria", "max=1"), "unknown criterion", "position_r")
    path = tmp_path / "report.json"
    result = goldens("check", *FAST, "--criteria", "max_abs=1e-30", "--json", path)
    assert result.exit_code == 0, "criteria decide no verdict"
    assert "own criteria at float32: fail" in result.stdout
    assert json.loads(path.read_text())["acceptance"]["criteria"]["max_abs"] == 1e-30
