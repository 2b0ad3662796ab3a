"""A diagnosis on a page and in a summary, and read back from where it was saved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.errors import UsageError
from harness.report.diagnosis import Diagnosis, Fact, Operation, Suspect
from harness.report.document import encode
from harness.report.reading import read_report
from harness.report.views import html, markdown, render, report_text
from tests.report.hostile import NAME
from tests.report.pages import Page
from tests.report.samples import REPORT
from tests.report.test_markdown import HARMLESS, rendered

URL = "https://github.com/a/b/issues/1"
BUG = Suspect(
    ("rope_pairs",), "", ("wrong pairs",), ("right pairs",), (URL,), "run/operations.py:7", ("q_rope",), 1.0, 0.0
)
NEAR = replace(BUG, mutants=("rope_missing",), explained=0.178)
WRONG = Operation(("q_rope",), ("layers.0.q_rope",), "float32", (Fact("error", "2 x noise"),), (BUG,), (NEAR,), 9)
FOUND = Diagnosis(
    *(1, "diagnosis", REPORT.golden, "my_port:Port", "diverged", "float32", ("code",)),
    facts=(Fact("introduced", "layers.*.q_rope"),),
    operations=(WRONG,),
    not_covered=("mode alone: not asked for",),
)


def test_every_view_has_the_evidence_the_name_and_what_came_near():
    for view in (report_text(FOUND, 120), markdown(FOUND), Page(html(FOUND)).text):
        for words in (
            "2 x noise",
            "this port reproduces that bug to the last bit",
            "wrong pairs",
            "17.8% of the error",
        ):
            assert words in view
        assert view.index("2 x noise") < view.index("looks like") < view.index("rather not")
        assert "mode alone" in view
    assert f'<a href="{URL}">' in html(FOUND)
    assert f"<{URL}>" in markdown(FOUND)


def test_names_from_outside_are_text_and_nothing_else():
    hostile = replace(FOUND, port=NAME, operations=(replace(WRONG, taps=(NAME,), facts=(Fact(NAME, NAME),)),))
    assert not Page(html(hostile)).all("script")
    links = {e.attributes["href"] for e in Page(html(hostile)).all("a")}
    assert links == {"#what-is-wrong", "#not-covered", "#golden", URL}
    assert {e.tag for e in rendered(markdown(hostile)).elements} <= HARMLESS | {"a"}
    assert "\x1b" not in report_text(hostile, 120)


def test_it_is_read_back_and_refused_where_it_contradicts_itself(tmp_path):
    path = tmp_path / "diagnosis.json"
    path.write_bytes(encode(FOUND))
    assert read_report(path) == FOUND
    document = json.loads(encode(FOUND))
    built_in = replace(FOUND, operations=(replace(WRONG, built_in=True),))
    fewer = replace(FOUND, operations=(replace(WRONG, others=(replace(NEAR, right=()),)),))
    for edited in ({**document, "verdict": "match"}, json.loads(encode(built_in)), json.loads(encode(fewer))):
        path.write_text(json.dumps(edited))
        with pytest.raises(UsageError, match="contradicts itself"):
            read_report(path)
    with pytest.raises(UsageError, match="no JUnit view"):
        render(FOUND, "junit")
