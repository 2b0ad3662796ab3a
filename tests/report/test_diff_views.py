"""The page and the summary of a diff."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from harness.errors import UsageError
from harness.report.diff_markdown import diff_markdown
from harness.report.html.diff_page import html
from harness.report.views import render
from tests.report.hostile import NAME
from tests.report.pages import Page
from tests.report.samples import LOGITS, PASSING
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
    source = diff_markdown(MIXED)
    assert source.index("### broken") < source.index("### fixed") < source.index("### Still wrong")


def test_every_operation_has_its_multiple_before_and_after():
    rows = [" ".join(e.text.split()) for e in Page(html(MIXED)).all("tr")]
    assert any(row.startswith("layers.*.q_rope4e+051.2in 2 of 2 layers, replay; float32") for row in rows)
    assert any(row.startswith("layers.1.attn_norm1.2900in 1 of 2 layers, replay; float32") for row in rows)
    assert "| `layers.*.q_rope` | in 2 of 2 layers, replay; float32 | 4e+05 → 1.2 |" in diff_markdown(MIXED)


def test_the_ladder_has_both_sides():
    rows = [e.text for e in Page(html(MIXED)).all("th", scope="row")]
    for name in ("before, replay", "after, replay", "before, forward", "after, forward", "weakest known bug"):
        assert sum(row.startswith(name) for row in rows) == 1


def test_where_nothing_is_wrong_any_more_it_says_so():
    assert "nothing is wrong after" in Page(html(FIXED)).text
    assert "nothing is wrong after" in diff_markdown(FIXED)


def test_the_logits_before_and_after():
    assert "1 of 4 → 0 of 4" in Page(html(MIXED)).text
    assert "1 of 4 → 0 of 4" in diff_markdown(MIXED)


def test_names_from_outside_are_text():
    diff = replace(MIXED, before=replace(MIXED.before, label=NAME, port=NAME), notes=(NAME,), left_out=(NAME,))
    page = Page(html(diff))
    assert not page.all("script")
    assert page.text.count(NAME) >= 3
    assert "<script" not in diff_markdown(diff)


def test_a_diff_has_no_junit_view_and_says_what_to_do():
    with pytest.raises(UsageError, match="no JUnit view") as caught:
        render(MIXED, "junit")
    assert "goldens report after.json --junit FILE" in str(caught.value)
    assert render(MIXED, "html").decode() == html(MIXED)
    assert render(MIXED, "markdown").decode() == diff_markdown(MIXED)
