"""Every renderer sets every block, so that a new document needs none of its own."""

from __future__ import annotations

import pytest
from rich.console import Console

from harness.report.blocks import Facts, Finding, Ladder, Legend, Lines, Page, Prose, Rung, Section, tree
from harness.report.html import html
from harness.report.markdown import markdown
from harness.report.tables import Cell, Column, Group, Span, Table, code, linked, numbers, strong
from harness.report.terminal import print_page, text
from tests.report.pages import Page as Parsed

HEAT = Table(("layer", Column("q", "narrow")), (("0", Cell("▲7", 9, "beyond", "somewhere")),), "map", kind="heat")
GROUPED = Table(
    ("what", *numbers("count"), Column("why", "long")),
    (
        Group((code("one"), " group"), "small"),
        ("row", "12", Cell("spanned", columns=1)),
        ("other", Cell("wide", columns=2)),
    ),
    "groups",
    kind="grouped",
    rest=3,
)
RUNGS = (Rung("noise", "noise", "1", "here", 10.0), Rung("port", "this port", "70", "there", 80.0))
EVERY = (
    Section("First part", (Prose(("plain ", strong("loud"))), Prose("by the way", "note")), link="First"),
    Section("Folded", (Lines(("one line", linked("see https://a.org/b"))),), note="2", folded=True),
    Finding("wrong at", "place", "everywhere", (("label", "fact"),), (Prose("under it"),)),
    Finding("better", body=(Table((), (("cell", Span("good one", "good")),)),), better=True),
    tree({"outer": {"inner": [1, 2], "none": None}}),
    Facts((("name", "value"),)),
    HEAT,
    GROUPED,
    Legend((Cell("low", 0), Cell("high", 9))),
    Ladder("float32", RUNGS, 40.0, ((0.0, "1"), (100.0, "100")), "how to read it"),
)
PAGE = Page("goldens try", "a title", "WORD", "good", "said beside it", (("who", "me"),), ("a note",), EVERY)
WORDS = (
    *("WORD", "said beside it", "me", "a note", "irst part", "loud", "by the way", "olded", "one line", "a.org"),
    *("wrong at", "place", "everywhere", "label", "fact", "under it", "better", "good one", "inner", "1, 2"),
    *("value", "7", "one group", "spanned", "wide", "low", "high", "float32", "this port", "70", "there"),
)
VIEWS = {
    "terminal": lambda page: text(page, 100),
    "markdown": markdown,
    "html": lambda page: Parsed(html(page)).text,
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_block_is_there_in_every_view(view):
    shown = " ".join(VIEWS[view](PAGE).replace("`", "").split())
    for words in WORDS:
        assert words in shown, words


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_of_one_sentence_is_a_page(view):
    assert "alone" in VIEWS[view](Page("goldens try", "t", "", "plain", "alone", (), (), ()))


@pytest.mark.parametrize("width", [20, 80, 120])
def test_no_line_is_longer_than_the_terminal_or_ends_in_blanks(width, capsys):
    print_page(PAGE, Console(width=width, force_terminal=True, color_system="standard"))
    assert "\x1b[" in capsys.readouterr().out
    for line in text(PAGE, width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


def test_what_can_be_folded_is_and_what_has_a_link_is_in_the_contents():
    page = Parsed(html(PAGE))
    assert [e.attributes["href"] for e in page.all("a")] == ["#first", "https://a.org/b"]
    assert "open" not in page.all("details")[0].attributes
    assert "<details><summary>Folded: 2</summary>" in markdown(PAGE)
