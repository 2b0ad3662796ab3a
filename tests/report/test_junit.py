"""JUnit XML of a check, read back with the standard library and with junitparser."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import junitparser

from harness.report.junit import junit
from tests.report.hostile import NAME, NAMED
from tests.report.samples import PASSING, REPORT, build, result


def cases(report):
    return {case.get("name"): case for case in ElementTree.fromstring(junit(report)).iter("testcase")}


def test_there_is_one_test_per_case_and_precision():
    both = (*PASSING.results, *(replace(r, precision="float64") for r in PASSING.results))
    report = replace(PASSING, results=both, limits={**PASSING.limits, "float64": PASSING.limits["float32"]})
    found = cases(report)
    assert list(found) == ["code[float32]", "code[float64]", "not covered: precision bfloat16"]
    assert {case.get("classname") for case in found.values()} == {"my_port:Port/org/model"}
    assert len(found["code[float32]"]) == 0


def test_a_failure_says_what_is_wrong_in_this_case_alone():
    found = cases(REPORT)
    failure = found["code[float32]"].find("failure")
    assert failure.get("message").startswith(
        "introduced at layers.*.q_rope (in 2 of 2 layers, wrong even on golden"
    )
    assert "4.1e+05 x PyTorch's own float32 error" in failure.text
    assert (
        "worst at: case code, layers.0.q_rope, position 3, head 1, head_dim 2:  actual -0.5, golden 2"
        in failure.text
    )
    assert len(found["hello[float32]"]) == 0


def test_what_could_not_be_compared_is_an_error():
    missing = replace(result("layers.0.probs", verdict="missing"), expected="tapped once", found="never tapped")
    error = cases(build(missing, result("embed")))["code[float32]"].find("error")
    assert error.get("message") == "missing: layers.0.probs: expected tapped once, found never tapped"
    nan = replace(result("embed", verdict="nonfinite"), rms_multiple=None)
    assert "NaN or infinity" in cases(build(nan))["code[float32]"].find("error").text


def test_nothing_compared_is_an_error_not_a_pass():
    suites = junitparser.JUnitXml.fromstring(junit(build()))
    assert (suites.errors, suites.failures) == (1, 0)
    assert cases(build())["check"].find("error").get("message") == "nothing was compared"


def test_what_is_not_covered_is_skipped_named_and_counted():
    suites = junitparser.JUnitXml.fromstring(junit(REPORT))
    assert (suites.tests, suites.failures, suites.errors, suites.skipped) == (3, 1, 0, 1)
    skipped = cases(REPORT)["not covered: precision bfloat16"].find("skipped")
    assert skipped.get("message") == "not asked for"


def test_characters_that_xml_cannot_hold_are_written_out():
    found = cases(NAMED)
    shown = NAME.replace("\x1b", "\\x1b")
    assert f"{shown}[float32]" in found
    assert found[f"{shown}[float32]"].get("classname") == f"{shown}/{shown}"
    strange = replace(PASSING, not_covered=("a\x00b\ud800c\ufffe: d",))
    assert "not covered: a\\x00b\\ud800c\\ufffe" in cases(strange)


def test_the_golden_is_named():
    properties = {p.get("name"): p.get("value") for p in ElementTree.fromstring(junit(REPORT)).iter("property")}
    assert properties == {"golden": "ab" * 32, "verdict": "diverged"}


def test_what_it_looks_like_is_in_every_failure():
    found = junit(replace(REPORT, looks_like="rope_pairs: that\nwrong: x\nseen in https://github.com/a")).decode()
    assert "looks like: rope_pairs: that" in found
    assert "seen in https://github.com/a" in found
