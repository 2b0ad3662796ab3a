"""The page and the summary of an audit: survivors on top, every mutant in the table, and nothing counted twice."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from harness.errors import UsageError
from harness.report.views import html, markdown, print_document, render
from tests.report.audit_samples import ABS, BLIND, HOSTILE, INTERLEAVED, KL, SEES, build, caught, mutant
from tests.report.hostile import NAME
from tests.report.pages import Page
from tests.report.test_markdown import HARMLESS, rendered

ALL = {"blind": BLIND, "sees": SEES, "hostile": HOSTILE}
PAGE = Page(html(BLIND))


@pytest.fixture(scope="module", params=ALL, name="page")
def any_page(request):
    return Page(html(ALL[request.param]))


def words(text):
    return " ".join(text.split())


def rows(page, name):
    """The rows of a mutant in the table of all mutants, as lists of cells."""
    found, inside = [], False
    for element in page.elements:
        if element.tag == "th" and element.attributes.get("scope") == "rowgroup":
            inside = element.text.startswith(name)
        elif element.tag == "th" and inside:
            found.append([element.text])
        elif element.tag == "td" and inside and "tbody" in element.inside:
            found[-1].append(element.text)
        elif element.tag in ("details", "section"):
            inside = False
    return found


def test_the_verdict_comes_first_and_what_is_not_seen_before_the_score():
    for audit, word in ((BLIND, "BLIND"), (SEES, "SEES")):
        page = Page(html(audit))
        assert page.text.split()[0].startswith(word)
        assert page.all("title")[0].text == f"{word}: audit of org/model"
        sections = [e.attributes["id"] for e in page.all("section")]
        assert sections[:4] == ["blind-spots", "score", "mutants", "cases"]
    assert "of 6 mutants" in PAGE.all("h1")[0].text


def test_a_survivor_stands_on_top_with_reasons_and_remedy():
    finding = words(PAGE.all("div", class_="finding")[0].text)
    assert finding == (
        "▲ not caught far wrongwrong far rightright far it is inq_rope (positions) "
        "float32unreachable: no position beyond 256 caught bya case with 300 tokens "
        "bfloat16survived: below its rounding caught bya case with 300 tokens "
        "seen inhttps://github.com/someone/port/issues/7, https://example.org/thread"
    )
    assert len(PAGE.all("div", class_="finding")) == 1
    assert not Page(html(SEES)).all("div", class_="finding")
    assert "is caught at one of these precisions at least: float32, bfloat16" in Page(html(SEES)).text


def test_what_one_precision_misses_and_what_is_not_named_is_said_there():
    text = words(PAGE.text)
    assert "Not caught at bfloat16, and caught at another precision: 1" in text
    assert "Not caught at float32" not in text
    assert "Caught at float32, but not at the operation where it is and there alone: 1" in text
    assert "introduced at mlp_norm, q, by code; it is in mlp_norm" in text


def test_every_mutant_is_in_the_table_at_every_precision():
    assert rows(PAGE, "interleaved") == [
        ["float32", "caught, named", "1e5", "q_rope", "5: code, long, one and 2 more", "fail", "fail", "fail"],
        ["bfloat16", "caught, named", "NaN", "q_rope", "2: code, long", "fail", "fail", "fail"],
    ]
    assert rows(PAGE, "eps") == [
        [
            *("float32", "caught, ▲ not named", "1e5", "mlp_norm, q (it is in mlp_norm)", "1: code"),
            *("▲pass", "▲pass", "▲pass"),
        ],
        ["bfloat16", "▲ survived", "0.5", "below this precision's rounding", "▲pass", "▲pass", "▲pass"],
    ]
    assert rows(PAGE, "far")[0] == [
        *("float32", "▲ unreachable", "–", "no position beyond 256; would be caught by a case with 300 tokens"),
        *("fail", "▲pass", "▲pass"),
    ]
    assert {len(rows(PAGE, m.id)) for m in BLIND.mutants} == {2}


def test_an_equivalent_or_refused_mutant_has_its_reason_and_is_counted_neither_as_caught_nor_as_a_bug():
    assert rows(PAGE, "layers_as_text")[0] == [
        *("float32", "equivalent", "–", "there are fewer than 11 layers", "", "", ""),
    ]
    assert rows(PAGE, "no_shape")[0][:4] == ["float32", "refused", "–", "the shapes do not fit"]
    scores = [words(e.text) for e in PAGE.all("tr")]
    for row in ("that are bugs here44", "and the operation named2 (50%)2 (50%)", "equivalent11", "refused11"):
        assert row in scores
    norms = next(e.text for e in PAGE.all("summary") if e.text.startswith("norms"))
    assert norms == "norms: float32 1 of 1 caught, 0 named; bfloat16 0 of 1 caught, 0 named"


def test_the_usual_criteria_are_counted_and_a_false_alarm_is_marked():
    assert [e.text for e in PAGE.all("tr") if e.text.startswith("caught by")] == [
        "caught by the goldens3 (75%)2 (50%)",
        f"caught by {ABS}3 (75%), rejects the right decoder too1 (25%)",
        "caught by max KL 0.11 (25%)1 (25%)",
        "caught by top-1 equal1 (25%)1 (25%)",
    ]
    heads = [e.text for e in PAGE.all("th", class_="up")]
    assert heads[:3] == [f"{ABS} *", KL, "top-1 equal"]
    assert "* rejects the right decoder too, at float32." in PAGE.text
    assert "2 of those caught here pass every criterion that passes the right decoder: shifted, eps" in PAGE.text
    assert "1 of those caught here pass every criterion that passes the right decoder: shifted" in PAGE.text


def test_criteria_are_columns_of_whatever_the_audit_computed():
    score = replace(SEES.scores["float32"], criteria={**SEES.scores["float32"].criteria, "greedy tokens": 0})
    page = Page(html(replace(SEES, scores={**SEES.scores, "float32": score})))
    assert [e.text for e in page.all("th", class_="up")][3] == "greedy tokens"
    assert "caught by greedy tokens0 (0%)not computed" in [e.text for e in page.all("tr")]
    assert [row[-1] for row in rows(page, "interleaved")] == ["▲pass", ""]


def test_the_sanity_phases_and_the_weakest_catches_are_there():
    text = words(PAGE.text)
    sentence = "passes 1,234 comparisons (at most 0.5 of the limit), a forced failure fails all of 987"
    assert text.count(sentence) == 2
    assert "shifted 2.5, eps 1e+05, interleaved 1e+05" in text


def test_families_that_need_looking_at_are_open():
    found = {e.text.partition(":")[0]: "open" in e.attributes for e in PAGE.all("details")}
    names = [e.text.partition(":")[0] for e in PAGE.all("summary")]
    assert names == ["rope", "positions", "norms"]
    assert list(found.values()) == [False, True, True]


def test_the_cases_nobody_needs_are_named_and_what_each_case_catches_is_counted():
    text = words(PAGE.text)
    assert "these 1 catch and name all that is caught and named: code" in text
    assert "the other 4 add nothing for the arithmetic (they may be there for their tokens): long, one" in text
    found = [words(e.text) for e in PAGE.all("tr")]
    assert "codeneeded3222shifted, eps" in found
    assert "long1111" in found


def test_golden_limits_environment_and_what_is_not_covered_are_there():
    text = PAGE.text
    for word in (
        "ab" * 32,
        "golden.h5",
        "2.13",
        "a correct port, up to 4 x as noisy as PyTorch, is beyond one in 1e9 comparisons: measured",
        "bugs that are not in the catalogue",
    ):
        assert word in text


def test_the_page_asks_nothing_of_anywhere_and_can_be_walked(page):
    for element in page.elements:
        assert element.tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "action", "data", "http-equiv"} & element.attributes.keys()
        assert not any(name.startswith("on") for name in element.attributes)
        assert (element.attributes.get("href") or "#").startswith("#")
    assert all(e.attributes.get("scope") in ("row", "col", "rowgroup") for e in page.all("th"))
    assert all(e.inside[-1] == "div" for e in page.all("table"))
    regions = [e for e in page.all("div") if e.attributes.get("role") == "region"]
    assert all(e.attributes["aria-label"] and e.attributes["tabindex"] == "0" for e in regions)
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in page.all("a")} <= set(ids)


def test_names_from_outside_are_text():
    assert Page(html(HOSTILE)).text.count(NAME) >= 8
    page = rendered(markdown(HOSTILE))
    assert {e.tag for e in page.elements} <= HARMLESS
    assert NAME.replace("\x1b", "\\x1b") in words(page.text)


def test_the_summary_has_survivors_first_and_is_short():
    source = markdown(BLIND)
    assert source.startswith("## goldens audit: BLIND\n\nto 1 of 6 mutants: model `org/model`\n")
    assert (
        "- far: unreachable at float32: no position beyond 256; would be caught by a case with 300 tokens"
        in source
    )
    assert source.index("- far") < source.index("Not caught at bfloat16") < source.index("that are bugs here")
    assert "- eps: introduced at mlp_norm, q, by code; it is in mlp_norm" in source
    assert f"| caught by {ABS} | 3 (75%), rejects the right decoder too | 1 (25%) |" in source
    assert "- layers_as_text: equivalent: there are fewer than 11 layers" in source
    short = markdown(SEES)
    assert "would be caught by" not in short
    assert len(short) < 2000


def test_a_long_list_of_survivors_is_cut_and_says_so():
    many = build(
        *(replace(BLIND.mutants[2], id=f"far{i}") for i in range(60)), blind=tuple(f"far{i}" for i in range(60))
    )
    assert "and 70 more, in the JSON report" in markdown(many)


def test_the_views_of_an_audit_are_these_and_junit_is_refused():
    assert render(BLIND, "html").decode() == html(BLIND)
    assert render(BLIND, "markdown").decode() == markdown(BLIND)
    with pytest.raises(UsageError, match="no JUnit view") as refused:
        render(BLIND, "junit")
    assert "goldens report AUDIT.json --markdown FILE" in str(refused.value)


def test_a_whole_catalogue_fits_into_half_a_megabyte():
    many = build(*(replace(INTERLEAVED, id=f"mutant_{i}", family=f"family {i % 13}") for i in range(130)))
    assert len(html(many).encode()) < 500_000


def test_where_a_mutant_is_caught_in_the_forward_pass_alone_it_says_so():
    forward = (caught(p, introduced=(), named=False) for p in ("float32", "bfloat16"))
    page = Page(html(build(mutant("late", *forward))))
    assert rows(page, "late")[0][3] == "nowhere: forward only (it is in q_rope)"
    assert "in the forward pass only, by code" in page.text


def test_the_terminal_says_the_same():
    out = io.StringIO()
    print_document(BLIND, Console(file=out, width=160))
    lines = [words(line) for line in out.getvalue().splitlines()]
    for line in (
        "BLIND to 1 of 6 mutants",
        "caught by the goldens 3 (75%) 2 (50%)",
        f"caught by {ABS} 3 (75%), rejects the right decoder too 1 (25%)",
        "norms 1, 0, 1 0, 0, 1",
        "far unreachable at float32: no position beyond 256; would be caught by a case with 300 tokens",
        "eps survived at bfloat16: below this precision's rounding",
        "eps introduced at mlp_norm, q, by code; it is in mlp_norm",
        "layers_as_text equivalent: there are fewer than 11 layers",
        "no_shape refused: the shapes do not fit",
    ):
        assert line in lines
