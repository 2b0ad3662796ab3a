"""The README's transcript is what its commands print, numbers aside."""

from __future__ import annotations

import re

from tests.transcript import as_block, in_readme, transcript

# What differs between machines is one sign each: numbers and hashes, and which element or tap is the worst.
DIFFERS = (
    (r"\b[0-9a-f]{12}\b|[+-]?\d[\d,.]*(e[+-]?\d+)?", "#"),
    (r"worst at .*? golden #", "worst at @"),
    (r"[\w.#]+ in (hello|one-to-five)", "@"),
    (r"#%|my_port.py \| .*? \(\+\)", "#"),
)


def shape(text: str) -> str:
    text = " ".join(text.split())
    for pattern, sign in DIFFERS:
        text = re.sub(pattern, sign, text)
    return text


def test_the_readme_shows_what_the_commands_print():
    assert shape(in_readme()) == shape(as_block(transcript()))


def test_another_verdict_would_be_noticed():
    text = in_readme()
    assert "FAIL" in text
    assert "BETTER" in text
    assert shape(text) != shape(text.replace("FAIL", "PASS"))
    assert shape(text) != shape(text.replace("layers.*.q_rope", "layers.*.q"))
