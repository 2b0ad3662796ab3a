"""The page of a check: what is on it, that it stands alone, and that it can be read by anybody."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import harness.report
from harness.report.pages.scales import COLOURS, FIRST_WITH_DARK_TEXT
from harness.report.views import html
from tests.report.hostile import EXTRA, NAME, NAMED
from tests.report.pages import Page
from tests.report.samples import PASSING, REPORT, build, result
from tests.report.synthetic import large

STYLE = (Path(harness.report.__file__).parent / "templates" / "style.css").read_text()
NAN = build(
    replace(
        result("layers.0.probs", verdict="nonfinite"), rms_multiple=None, profile=(1.0, None), limits=(4.0, 4.0)
    )
)
MISSING = build(
    replace(
        result("layers.0.probs", verdict="missing", profile=()),
        rms_multiple=None,
        max_multiple=None,
        worst=None,
        expected="tapped once",
        found="never tapped",
    ),
    result("layers.0.q"),
)
ONE_TOKEN = build(*(result(name, profile=(0.9,)) for name in ("embed", "layers.0.q")))
NOTHING = build()
ALL = {
    "failing": REPORT,
    "passing": PASSING,
    "nan": NAN,
    "missing": MISSING,
    "one token": ONE_TOKEN,
    "nothing": NOTHING,
    "hostile": NAMED,
    "extra": EXTRA,
}


@pytest.fixture(scope="module", params=ALL, name="page")
def any_page(request):
    return Page(html(ALL[request.param]))


def cells(page, row):
    """The texts of a heat map's row, over all maps."""
    found, name = [], None
    for element in page.elements:
        if element.tag == "th" and element.attributes.get("scope") == "row":
            name = element.text
        elif element.tag == "td" and name == row and element.attributes.get("title"):
            found.append((element.attributes["title"], element.text, element.attributes["class"]))
    return found


def test_the_verdict_comes_first():
    for report, word in ((REPORT, "FAIL"), (PASSING, "PASS"), (NOTHING, "FAIL")):
        page = Page(html(report))
        assert page.text.split()[0].startswith(word)
        assert page.all("title")[0].text.startswith(f"{word}: my_port:Port")
    assert "0 of 0 comparisons match" in page.all("h1")[0].text


def test_what_is_wrong_is_said_with_evidence_and_worst_elements():
    text = " ".join(Page(html(REPORT)).text.split())
    for words in (
        "introduced at layers.*.q_rope",
        "wrong even on golden inputs",
        "4.1e+05 x PyTorch's own float32 error",
        "position 0 is clean in every case",
        "every single-token case is clean",
        "the error grows with position",
        "position 3, head 1, head_dim 2-0.52",
        "inherited: 2 taps further downstream",
    ):
        assert words in text


def test_a_passing_page_has_no_section_of_what_is_wrong():
    page = Page(html(PASSING))
    assert "introduced" not in page.text
    assert not page.all("section", id="what-is-wrong")


def test_the_ladder_stands_in_order_and_on_one_logarithmic_axis():
    page = Page(html(REPORT))
    rows = [e.text for e in page.all("th", scope="row") if e.inside[-3:-2] == ("table",)]
    names = ["noise", "limit", "weakest known bug", "this port, replay", "this port, forward"]
    found = [next(name for name in names if row.startswith(name)) for row in rows if row.startswith(tuple(names))]
    assert found == ["noise", "limit", "weakest known bug", "this port, replay", "this port, forward"]
    marks = [float(re.search(r"left:([\d.]+)%", e.attributes["style"]).group(1)) for e in page.all("i")]
    assert marks == sorted(marks)
    assert all(0 <= mark <= 100 for mark in marks)


def test_the_heat_map_says_where_in_numbers_and_marks():
    replay = reversed(cells(Page(html(REPORT)), "0"))  # the first map of all
    found = {title.partition(":")[0]: (text, style) for title, text, style in replay}
    assert found["layers.0.q_rope"] == ("▲4e5", "s9 b")
    assert found["layers.0.k_rope"] == ("1.2", "s2")
    missing = {title: text for title, text, _ in cells(Page(html(MISSING)), "0")}
    assert missing["layers.0.probs: missing in code, 1 in all"] == "×"
    assert missing["layers.0.k: not compared"] == "–"


def test_nan_is_beyond_every_limit_and_at_its_own_position():
    found = {title: (text, style) for title, text, style in cells(Page(html(NAN)), "0")}
    assert found["layers.0.probs: 1 of 1 cases beyond the limit; largest in code"] == ("▲NaN", "s9 b")
    assert found["position 1: largest at layers.0.probs in code"] == ("▲NaN", "s9 b")
    assert found["position 0: largest at layers.0.probs in code"] == ("1", "s1")
    assert "NaN or infinity where the golden is finite" in Page(html(NAN)).text


def test_what_was_not_covered_the_limits_and_the_provenance_are_there():
    text = Page(html(PASSING)).text
    assert "precision bfloat16: not asked for" in text
    assert "a correct port, up to 4 x as noisy as PyTorch, is beyond one in 1e9 comparisons: measured" in text
    assert "2.13" in text
    assert "ab" * 32 in text
    assert "means nothing here" in text
    assert "Nothing was left out." in Page(html(replace(PASSING, not_covered=()))).text


def test_flips_are_listed_with_their_margins():
    row = next(e.text for e in Page(html(REPORT)).all("tr") if e.text.endswith("flip"))
    assert row == "code3791.51e-06flip"


def test_nothing_is_asked_of_anywhere_else(page):
    for element in page.elements:
        assert element.tag not in ("script", "link", "img", "iframe", "object", "embed", "video", "audio", "base")
        for name in ("src", "srcset", "action", "data", "poster", "background", "http-equiv"):
            assert name not in element.attributes
        assert not any(name.startswith("on") for name in element.attributes)
        assert (element.attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(|@font-face", STYLE)


def test_a_page_can_be_walked_without_eyes(page):
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(e.attributes.get("scope") in ("row", "col") for e in page.all("th"))
    regions = [e for e in page.all("div") if e.attributes.get("role") == "region"]
    assert all(e.attributes["aria-label"] and e.attributes["tabindex"] == "0" for e in regions)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in page.all("a")} <= set(ids)


def test_every_wide_table_scrolls_inside_its_own_container(page):
    for element in page.all("table"):
        if element.attributes["class"] != "ladder":
            assert element.inside[-1] == "div"


def test_names_from_outside_are_text_and_nothing_else():
    page = Page(html(NAMED))
    assert not page.all("script")
    assert page.text.count(NAME) > 5
    assert NAME in Page(html(EXTRA)).text


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_scale_gets_lighter_from_step_to_step_and_its_text_can_be_read():
    steps = [luminance(colour) for colour in COLOURS]
    assert steps == sorted(steps)
    for number, colour in enumerate(COLOURS):
        assert contrast(colour, "#000000" if number >= FIRST_WITH_DARK_TEXT else "#ffffff") >= 4.5


def test_text_has_contrast_in_light_and_in_dark():
    themes = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    themes = [dict(re.findall(r"--(\w+): (#\w+);", theme)) for theme in themes]
    themes = [theme for theme in themes if theme]
    assert len(themes) == 2
    for theme in themes:
        paper = theme["paper"] if len(theme["paper"]) == 7 else "#ffffff"
        for name in ("ink", "quiet", "pass", "fail", "link", "mark"):
            assert contrast(paper, theme[name]) >= 4.5, name


def test_a_real_model_fits_into_two_megabytes():
    page = html(large())
    assert len(page.encode()) < 2_000_000
    assert page.count("<tr>") > 28 * 4 * 3
    assert len(html(PASSING).encode()) < 50_000


def test_what_it_looks_like_is_there_with_links():
    named = 'rope_pairs: that\nwrong: x <b>\nseen in https://github.com/a/b/issues/1 and https://"><script>'
    found = html(replace(REPORT, looks_like=named))
    assert "<strong>looks like</strong> rope_pairs: that" in found
    assert "x &lt;b&gt;" in found
    assert '<a href="https://github.com/a/b/issues/1">' in found
    assert "<script>" not in found
