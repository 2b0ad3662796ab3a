"""The page and the summary of a diff."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import junitparser
import pytest

from harness.report.junit import diff_junit
from harness.report.views import html, markdown, render
from tests.report.hostile import NAME
from tests.report.pages import Page
from tests.report.samples import LOGITS, PASSING, build, result
from tests.report.test_diff import NORM, RIGHT, ROPE, compared, port

MENDED = next(r for r in PASSING.results if r.logits is not None)
MIXED = compared(port(*ROPE, LOGITS), port(NORM, MENDED))
FIXED = compared(port(*ROPE), RIGHT)
SAME = compared(RIGHT, RIGHT)


@pytest.mark.parametrize("diff", [MIXED, FIXED, SAME])
def test_the_page_stands_alone_and_can_be_walked(diff):
    page = Page(html(diff))
    assert page.text.split()[0].startswith(diff.verdict.upper())
    assert not page.all("script")
    assert all("src" not in e.attributes for e in page.elements)
    assert all(e.attributes["href"].startswith("#") for e in page.all("a"))
    assert all(e.attributes.get("scope") in ("row", "col") for e in page.all("th"))
    assert {e.attributes["href"][1:] for e in page.all("a")} <= {e.attributes.get("id") for e in page.elements}
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_is_broken_stands_before_what_is_fixed():
    names = [e.text for e in Page(html(MIXED)).all("h3")]
    assert names.index("broken") < names.index("fixed")
    source = markdown(MIXED)
    assert source.index("### broken") < source.index("### fixed") < source.index("### Still wrong")


def test_every_operation_has_its_multiple_before_and_after():
    rows = [" ".join(e.text.split()) for e in Page(html(MIXED)).all("tr")]
    assert any(
        row.startswith("layers.*.q_rope4e+05 → 1.2 x PyTorch's own float32 errorin 2 of 2 layers, replay; float32")
        for row in rows
    )
    assert any(
        row.startswith(
            "layers.1.attn_norm1.2 → 900 x PyTorch's own float32 errorin 1 of 2 layers, replay; float32"
        )
        for row in rows
    )
    assert (
        "| `layers.*.q_rope` | 4e+05 → 1.2 x PyTorch's own float32 error | in 2 of 2 layers, replay; float32 |"
        in markdown(MIXED)
    )


def test_the_ladder_has_both_sides():
    rows = [e.text for e in Page(html(MIXED)).all("th", scope="row")]
    for name in ("before, replay", "after, replay", "before, forward", "after, forward", "weakest known bug"):
        assert sum(row.startswith(name) for row in rows) == 1


def test_where_nothing_is_wrong_any_more_it_says_so():
    assert "nothing is wrong after" in Page(html(FIXED)).text
    assert "nothing is wrong after" in markdown(FIXED)


def test_the_logits_before_and_after():
    assert "1 of 4 → 0 of 4" in Page(html(MIXED)).text
    assert "1 of 4 → 0 of 4" in markdown(MIXED)


def test_names_from_outside_are_text():
    diff = replace(MIXED, before=replace(MIXED.before, label=NAME, port=NAME), notes=(NAME,), left_out=(NAME,))
    page = Page(html(diff))
    assert not page.all("script")
    assert page.text.count(NAME) >= 3
    assert "<script" not in markdown(diff)


def test_the_views_of_a_diff_are_these():
    assert render(MIXED, "html").decode() == html(MIXED)
    assert render(MIXED, "markdown").decode() == markdown(MIXED)
    assert render(MIXED, "junit") == diff_junit(MIXED)


def junit_of(diff):
    return {case.get("name"): case for case in ElementTree.fromstring(diff_junit(diff)).iter("testcase")}


def totals(diff):
    suites = junitparser.JUnitXml.fromstring(diff_junit(diff))
    return suites.tests, suites.failures, suites.errors, suites.skipped


def in_case(name, *results):
    return [replace(r, case=name) for r in results]


def test_in_junit_a_case_fails_where_something_is_broken_and_says_at_which_operation():
    good, bad = result("layers.1.attn_norm"), NORM
    both = (*in_case("hello", good), *RIGHT.results), (*in_case("hello", good), *port(bad).results)
    found = compared(*(build(*results) for results in both))
    cases = junit_of(found)
    assert list(cases) == ["hello", "code", "not covered: precision bfloat16"]
    assert len(cases["hello"]) == 0
    failure = cases["code"].find("failure")
    assert failure.get("message") == (
        "broken at layers.1.attn_norm (in 1 of 2 layers, replay; float32): 1.2 -> 900 x PyTorch's own "
        "float32 error"
    )
    assert cases["code"].get("classname") == "after.json/org/model"
    assert totals(found) == (3, 1, 0, 1)


def test_in_junit_worse_and_no_longer_covered_fail_and_inheritance_alone_is_counted():
    grown = replace(NORM, rms_multiple=9000.0, max_multiple=9000.0)
    text = junit_of(compared(port(NORM), port(grown)))["code"].find("failure").text
    assert text.startswith("worse at layers.1.attn_norm")
    fewer = build(*(r for r in RIGHT.results if r.tap != "layers.0.probs"))
    lost = junit_of(compared(RIGHT, fewer))["code"].find("failure")
    assert lost.get("message").startswith("lost at layers.0.probs")
    assert "1.2 -> not compared" in lost.get("message")
    late = result("logits", "forward", verdict="inherited", multiple=5e5)
    before = build(*RIGHT.results, result("logits", "forward"))
    after = build(*RIGHT.results, late)
    inherited = junit_of(compared(before, after))["code"].find("failure")
    assert inherited.get("message") == "broken: 1 tap downstream, by inheritance alone"


@pytest.mark.parametrize("diff", [FIXED, SAME, compared(port(*ROPE), port(*ROPE))])
def test_in_junit_what_is_fixed_or_still_wrong_is_no_failure(diff):
    assert totals(diff)[:3] == (2, 0, 0)


def test_in_junit_nothing_compared_is_an_error_and_what_was_left_out_is_skipped():
    nothing = replace(SAME, cases={}, left_out=("case hello: only before",))
    assert junit_of(nothing)["diff"].find("error").get("message") == "nothing was compared"
    assert junit_of(nothing)["left out: case hello"].find("skipped").get("message") == "only before"
    assert totals(nothing) == (3, 0, 1, 2)


def test_junit_names_golden_verdict_sides_and_notes_as_xml_can_hold_them():
    diff = replace(MIXED, after=replace(MIXED.after, label=NAME), notes=("a note",))
    properties = {p.get("name"): p.get("value") for p in ElementTree.fromstring(diff_junit(diff)).iter("property")}
    assert properties["golden"] == "ab" * 32
    assert properties["verdict"] == "mixed"
    assert properties["before"].startswith("before.json")
    assert NAME.replace("\x1b", "\\x1b") in properties["after"]
    assert properties["note 1"] == "a note"
