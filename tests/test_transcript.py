"""The transcript, and the excerpt on the first screen, are what the commands print, numbers aside."""

from __future__ import annotations

import re

from tests.transcript import (
    END,
    END_OF_EXCERPT,
    EXCERPT,
    FRONT,
    PLACE,
    START,
    as_block,
    excerpt,
    shown,
    transcript,
)

# What differs between machines is one sign each: numbers and hashes, and which element or tap is the worst.
DIFFERS = (
    (r"\b[0-9a-f]{12}\b|[+-]?\d[\d,.]*(e[+-]?\d+)?", "#"),
    (r"that bug to .*?, at ", "that bug to @, at "),
    (r"worst at .*? golden #", "worst at @"),
    (r"[\w.#]+ in (hello|one-to-five)", "@"),
    (r"#%|my_port.py \| .*? \(\+\)", "#"),
)


def shape(text: str) -> str:
    text = " ".join(text.split())
    for pattern, sign in DIFFERS:
        text = re.sub(pattern, sign, text)
    return text


def test_the_documents_show_what_the_commands_print():
    printed = transcript()
    assert shape(shown(PLACE, START, END)) == shape(as_block(printed))
    assert shape(shown(FRONT, EXCERPT, END_OF_EXCERPT)) == shape(as_block(excerpt(printed)))


def test_the_excerpt_is_the_head_of_the_failing_report():
    text = shown(FRONT, EXCERPT, END_OF_EXCERPT)
    assert text == as_block(excerpt(shown(PLACE, START, END)))
    assert "FAIL" in text
    assert text.count("introduced at") == 1


def test_another_verdict_would_be_noticed():
    text = shown(PLACE, START, END)
    assert "FAIL" in text
    assert "BETTER" in text
    assert shape(text) != shape(text.replace("FAIL", "PASS"))
    assert shape(text) != shape(text.replace("layers.*.q_rope", "layers.*.q"))
