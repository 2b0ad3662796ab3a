"""Which of two ways of running the same tokens a report blames."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.report.agreement import agreement
from harness.report.junit import junit
from harness.report.views import html, markdown, report_text
from tests.report.samples import build, result

CALLS = (9, 1, 1)
ROWS = ("digits", "hello", None)


def prefill(verdict="match", since=None, tap="layers.0.q_rope", precision="float32"):
    one = result(tap, "prefill", verdict, 70.0 if verdict != "match" else 1.0, case="decode")
    return replace(one, calls=CALLS, since_call=since, precision=precision)


def forward(verdict="match", case="decode", tap="layers.0.q_rope"):
    return result(tap, "forward", verdict, 70.0 if verdict != "match" else 1.0, case=case)


def alone(wrong=(), tap="layers.0.probs"):
    one = result(tap, "alone", "introduced" if wrong else "match", 70.0 if wrong else 1.0, case="batch")
    return replace(one, row=1, wrong_rows=wrong, against=ROWS)


def test_nothing_is_said_where_nothing_is_wrong():
    assert agreement(build(prefill(), forward(), alone(), forward(case="batch"))) == ()


def test_a_decode_that_is_wrong_and_agrees_clears_the_cache():
    (sentence,) = agreement(build(prefill(), forward("introduced")))
    assert sentence == (
        "decode: agrees with the port's own prefill of the same tokens: the cache path is not to blame (float32)"
    )


@pytest.mark.parametrize(
    ("forwards", "blame"),
    [
        ([forward("inherited")], "the cache path is to blame"),
        (
            [forward()],
            "the calls through the cache match the golden, so it is the prefill without one that is wrong",
        ),
        ([], "one of the two is wrong"),
    ],
)
def test_a_decode_that_differs_says_since_when_where_first_and_who_is_to_blame(forwards, blame):
    first, later = prefill("introduced", 2), prefill("inherited", 1, tap="layers.1.q")
    (sentence,) = agreement(build(later, first, *forwards))
    assert sentence == (
        "decode: differs from the port's own prefill of the same tokens from step 1 on, first at layers.0.q_rope: "
        f"{blame} (float32)"
    )


def test_a_difference_from_the_first_call_on_names_no_step():
    (sentence,) = agreement(build(prefill("introduced", 0), forward("introduced")))
    assert "same tokens, first at layers.0.q_rope" in sentence


def test_what_could_not_be_compared_blames_nobody():
    assert agreement(build(replace(prefill("missing"), rms_multiple=None))) == ()


@pytest.mark.parametrize(
    ("prompts", "blame"),
    [
        ([forward(case="digits")], ": alone the port gets them right, so the padding or the batch is to blame"),
        ([forward("introduced", "digits")], ": alone the port gets them wrong too, so the batch is not to blame"),
        ([], ""),
    ],
)
def test_a_row_that_differs_is_named_with_its_prompt_and_those_that_agree(prompts, blame):
    (sentence,) = agreement(build(alone((0,)), *prompts))
    assert sentence == (
        "batch: row 0 (digits) differs from its prompt recorded alone, first at layers.0.probs; row 1 (hello) "
        f"agrees{blame} (float32)"
    )


def test_rows_of_which_some_are_wrong_alone_too():
    (sentence,) = agreement(
        build(alone((0, 1)), forward(case="digits"), forward("introduced", "hello")),
    )
    assert "rows 0 (digits), 1 (hello) differ from their prompts recorded alone, first at" in sentence
    assert sentence.endswith("layers.0.probs: alone the port gets some of them wrong too (float32)")


def test_cases_of_which_the_same_is_true_share_a_sentence_and_every_view_has_it():
    second = [replace(r, case="chunked") for r in (prefill(), forward("introduced"))]
    report = build(prefill(), forward("introduced"), *second)
    (sentence,) = agreement(report)
    assert sentence.startswith("decode, chunked: agrees with")
    for view in (report_text(report, 200), markdown(report), html(report), junit(report).decode()):
        assert "the cache path is not to blame" in view
