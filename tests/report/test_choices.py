"""What reports say of the experts that tokens go to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.difference import classify
from harness.errors import UsageError
from harness.report import choices
from harness.report.document import encode
from harness.report.findings import findings
from harness.report.junit import junit
from harness.report.reading import read_report
from harness.report.views import html, markdown, report_text
from harness.report.wording import facts, headline
from harness.results import Choice, Choices, Drop, TapResult
from tests.report.samples import build, result

ROUTING = "layers.0.routing"
TIE = Choice(0, 5, (1, 3), (1, 2), 0.011, 0.014)
FAR = Choice(0, 2, (1, 3), (0, 3), 0.5, 0.014)
TIED = Choices(24, ties=2, tie=TIE)
WRONG = Choices(24, ties=1, wrong=3, tie=TIE, worst=FAR)
DROPPED = Choices(24, dropped=13, drops=(Drop(3, 1, 2, (5, 9)), Drop(0, 1, 10, tuple(range(10)))))


def of(choice, verdict="match", mode="forward", multiple=1.2):
    return replace(
        result(ROUTING, mode, verdict, multiple), choice=choice, row=None if choice is not DROPPED else 1
    )


def report(*results):
    made = build(result("layers.0.q", "forward"), *results)
    return replace(
        made,
        taps={**made.taps, ROUTING: ()},
        introduced=tuple({r.tap for r in results if r.verdict == "introduced"}),
    )


def text(found):
    return " ".join(report_text(found, 250).split())


def test_ties_are_one_line_for_every_precision_and_mode():
    (line,) = choices.sentences([of(TIED), replace(of(Choices(16)), case="other")])
    widest = "the widest tie 0.011 with 0.014 allowed, layers.0.routing in code"
    assert line == f"float32 forward: 2 of 40 choices are ties; {widest}"
    for view in (text, markdown, html):
        assert "2 of 24 choices are ties" in view(report(of(TIED)))


def test_without_other_choices_nothing_is_said():
    assert choices.sentences([of(Choices(24)), result("layers.0.q")]) == ()
    assert "choices of experts" not in text(report(of(Choices(24))))


def test_a_wrong_choice_is_a_fact_of_its_finding():
    found = report(of(WRONG, "introduced"))
    (finding,) = findings(found)
    said = dict(facts(finding, found))["choice"]
    assert "token 2 goes to experts 0, 3 in place of 1, 3: that is 0.5 away" in said and "0.014 is allowed" in said
    for view in (text, markdown, html, lambda one: junit(one).decode()):
        assert "token 2 goes to experts 0, 3" in view(found)


def test_a_choice_that_no_error_explains_says_so():
    more = Choices(24, wrong=1, worst=replace(FAR, gap=None, actual=(0, 1, 3)))
    assert "which no error of the scores explains" in text(report(of(more, "introduced")))


def test_drops_name_experts_and_tokens():
    found = text(report(of(DROPPED, "introduced")))
    assert (
        "by expert 3: tokens 5, 9 of row 1; by expert 0: tokens 0, 1, 2, 3, 4, 5, 6, 7 and 2 more of row 1"
        in found
    )
    assert "13 dropped" in found


def test_what_is_tied_throughout_is_neither_a_match_nor_wrong():
    tied = TapResult("code", "float32", "forward", ROUTING, "tied", choice=Choices(4, ties=4, tie=TIE))
    found = report(tied)
    assert headline(found) == ("PASS", "1 of 2 comparisons match, 1 tied, 1 case")
    assert found.verdict == "match"
    for view in (text, markdown, html):
        assert "4 of 4 choices are ties" in view(found)
    alone = replace(found, results=(tied,), verdict="diverged")
    for view in (text, markdown, html, junit):
        view(alone)
    assert b"nothing was compared" in junit(alone)


def test_a_report_with_choices_is_read_back(tmp_path):
    tied = TapResult("code", "float32", "forward", ROUTING, "tied", choice=Choices(4, ties=4, tie=TIE))
    for one in (of(TIED), tied):
        (tmp_path / "report.json").write_bytes(encode(report(one)))
        assert read_report(tmp_path / "report.json") == report(one)


@pytest.mark.parametrize(
    "wrong",
    [
        of(WRONG),  # a match with wrong choices
        of(Choices(2, ties=3)),
        of(Choices(2, ties=-1)),
        of(Choices(2, ties=1, tie=FAR)),
        of(Choices(2, ties=1, tie=replace(TIE, gap=None))),
        of(Choices(2, wrong=1, worst=TIE), "introduced"),
        TapResult("code", "float32", "forward", ROUTING, "tied"),
        TapResult("code", "float32", "forward", ROUTING, "tied", choice=TIED),
    ],
)
def test_choices_that_contradict_each_other_are_refused(tmp_path, wrong):
    (tmp_path / "report.json").write_bytes(encode(report(wrong)))
    with pytest.raises(UsageError, match="contradicts itself"):
        read_report(tmp_path / "report.json")


LIMITS = report().limits["float32"]


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (of(TIED), of(Choices(24)), "unchanged"),
        (of(TIED), of(WRONG, "introduced"), "broken"),
        (of(WRONG, "introduced"), of(TIED), "fixed"),
        (of(WRONG, "introduced"), of(DROPPED, "introduced"), "worse"),
        (TapResult("code", "float32", "forward", ROUTING, "tied", choice=TIED), of(TIED), "unchanged"),
        (TapResult("code", "float32", "forward", ROUTING, "tied", choice=TIED), of(WRONG, "introduced"), "broken"),
        (of(WRONG, "introduced"), TapResult("code", "float32", "forward", ROUTING, "tied", choice=TIED), "fixed"),
    ],
)
def test_a_diff_goes_by_wrong_choices_as_well_as_by_errors(before, after, status):
    assert classify(before, after, LIMITS) == status


def test_the_note_counts_what_was_pinned():
    note = choices.pinned_note([of(TIED), of(WRONG, mode="replay"), replace(of(TIED), precision="float64")])
    assert note is not None and "(2 at float32)" in note
    assert choices.pinned_note([of(Choices(24))]) is None
