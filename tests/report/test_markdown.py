"""The step summary: short, worst first, and nothing in it that GitHub would act on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from harness.report.markdown import CUT, MAX_BYTES, code, fitted, text
from harness.report.views import markdown
from tests.report.hostile import EXTRA, NAME, NAMED
from tests.report.pages import Page
from tests.report.samples import PASSING, REPORT, build, result
from tests.report.synthetic import large

HARMLESS = {"body", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "strong"}
HARMLESS |= {"details", "summary", "blockquote"}
GITHUB = MarkdownIt("commonmark").enable("table")


def rendered(source: str) -> Page:
    return Page(f"<body>{GITHUB.render(source)}</body>")


def test_the_verdict_is_the_first_line_and_the_findings_come_next():
    lines = markdown(REPORT).splitlines()
    assert lines[0] == "## goldens: FAIL"
    assert lines[2] == "37 of 41 comparisons match, 2 cases: port `my_port:Port`, model `org/model`"
    assert lines[4].startswith("| introduced at | layers | precisions | x noise |")
    assert lines[6].startswith("| `layers.*.q_rope` | 2 of 2 | float32 | 4.1e+05 (limit 4, float32) | case code, ")


def test_the_worst_finding_comes_first_whatever_the_data_flow():
    feeds = ("embed", "layers.0.attn_norm", "layers.0.mlp_norm")
    report = build(
        *(result(name) for name in feeds),
        result("layers.0.q", verdict="introduced", multiple=10.0),
        result("layers.0.up", verdict="introduced", multiple=1e6),
    )
    source = markdown(report)
    assert source.index("layers.0.up") < source.index("layers.0.q`")


def test_a_finding_that_names_no_single_operation_comes_last():
    report = build(
        result("embed"),
        result("layers.0.resid_post", verdict="introduced", multiple=1e9),
        result("layers.0.attn_norm", verdict="introduced", multiple=1e2, case="deep"),
        result("embed", case="deep"),
    )
    source = markdown(report)
    assert source.index("layers.0.attn_norm") < source.index("layers.0.resid_post")
    assert "any after embed" in source


def test_a_pass_is_short_and_names_what_was_not_covered():
    source = markdown(PASSING)
    assert source.startswith("## goldens: PASS\n")
    assert len(source) < 2000
    assert "introduced" not in source
    assert "precision bfloat16" in source
    before_details = source.partition("<details>")[0]
    assert len(before_details.splitlines()) <= 12


def test_names_from_outside_read_as_they_are_and_do_nothing():
    shown = "<script>alert('x')</script> | `*_#@you \\x1b[31m & www.example.com https://example.com"
    for report in (NAMED, EXTRA):
        page = rendered(markdown(report))
        assert {e.tag for e in page.elements} <= HARMLESS
        assert shown in page.text
    rows = rendered(markdown(NAMED)).all("tr")
    assert all(r.text for r in rows)
    heads = len(rendered(markdown(REPORT)).all("td"))
    assert len(rendered(markdown(NAMED)).all("td")) == heads, "a | in a name made another cell"


@pytest.mark.parametrize("escape", [text, code])
@pytest.mark.parametrize(
    "outside",
    [
        "a|b",
        "`",
        "``a`",
        "_a_",
        "*a*",
        "1. a",
        "- a",
        "[a](b)",
        "~~a~~",
        "\\|",
        "&amp;",
        "# a",
        "a_b_c",
        "1.5e-07",
        "+ a",
        "===",
    ],
)
def test_text_survives_as_text_alone_and_in_a_table(escape, outside):
    alone = rendered(f"{escape(outside)}\n")
    assert alone.text.strip() == outside
    assert [e.tag for e in alone.elements if e.tag != "code"] == ["body", "p"]
    table = rendered(f"| a | b |\n| --- | --- |\n| {escape(outside)} | x |\n")
    assert [e.text for e in table.all("td")] == [outside, "x"]


def test_nothing_becomes_a_link_on_github():
    for outside in ("www.example.com", "https://example.com", "a@example.com", "@team", "#12"):
        assert outside not in text(outside)


def test_long_text_is_cut():
    assert len(text("x" * 10_000)) < 400
    assert markdown(replace(REPORT, not_covered=("y",) * 500)).count("- y\n") == 50
    assert "and 450 more" in markdown(replace(REPORT, not_covered=("y",) * 500))


def test_it_is_never_larger_than_github_takes():
    assert len(markdown(large(layers=4, positions=8)).encode()) < 20_000
    many = replace(REPORT, notes=tuple(NAME * 3 + str(i) for i in range(5000)))
    source = markdown(many)
    assert len(source.encode()) <= MAX_BYTES
    assert source.startswith("## goldens: FAIL")
    assert source.endswith(CUT)
    assert fitted(["a", "x" * MAX_BYTES, "b"]) == "a" + CUT


def test_what_could_not_be_compared_is_said_before_the_figures():
    missing = replace(result("layers.0.probs", verdict="missing"), expected="tapped once", found="never tapped")
    source = markdown(build(missing, result("layers.0.q")))
    assert "**missing** `layers.0.probs`" in source
    assert source.index("never tapped") < source.index("| float32 | replay |")


KNOWN = "rope_pairs: this port reproduces it\nwrong: x <b>\nright: y\nseen in https://github.com/a/b/issues/1#c-2"


def test_what_it_looks_like_is_there_with_wrong_right_and_links():
    found = markdown(replace(REPORT, looks_like=KNOWN))
    assert "**looks like** rope" in found
    assert "wrong: x &#60;b&#62;" in found
    assert "<https://github.com/a/b/issues/1#c-2>" in found
    assert "looks like" not in markdown(REPORT)


def test_an_address_that_is_more_than_one_is_no_link():
    found = markdown(replace(REPORT, looks_like="seen in https://a.b/<script>) [x](javascript:1)"))
    assert "<script>" not in found
    assert "[x](" not in found
